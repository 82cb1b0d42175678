"""Combinations that nobody means: the embedded dataset's detector or schedule, which are the defaults, on another
dataset, and a stage without weights to use."""

from __future__ import annotations

from harness.compose import Composed
from harness.config import Stage
from harness.errors import UserError
from harness.recipes.recipe import recipe_names
from harness.stages.stage import check_stage


def refuse_unmeant(composed: Composed) -> None:
    """Raises UserError for a dataset other than mini with the small detector or a mini schedule.

    They are accepted if they, or a recipe of the embedded dataset, were asked for by name. Other engines have
    detectors of their own; stages, and runs that only evaluate, have no schedule.
    """
    config, choices = composed.config, composed.choices
    check_stage(config)
    if config.data.name == "mini" or (choices.get("recipe") or "").startswith("mini"):
        return
    small = [("detector", choices.get("detector") == "small" and config.engine.name == "native")]
    trains = config.train and config.stage.name is Stage.none
    small += [("schedule", (choices.get("schedule") or "").startswith("mini") and trains)]
    given = {text.lstrip("+").partition("=")[0] for text in composed.overrides}
    unmeant = [f"{group}={choices[group]}" for group, is_small in small if is_small and group not in given]
    if unmeant:
        raise UserError(
            f"{' and '.join(unmeant)} {'are' if len(unmeant) > 1 else 'is'} made for data=mini, not for "
            f"data={config.data.name}: use recipe={_fitting(composed)} (`harness recipes` lists them), or ask "
            f"for {'them' if len(unmeant) > 1 else 'it'} by name"
        )


def _fitting(composed: Composed) -> str:
    """The recipe for the run's method and backbone, or else the baseline's."""
    size = "swin_l" if composed.settings["backbone"] == "swin_l" else "r50"
    name = f"{composed.settings['method']}_{size}"
    return name if name in recipe_names() else f"baseline_{size}"
