"""The recipes against the table of published settings, and the table against what the published files set."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import runpy
from pathlib import Path

import pytest

from harness.compose import Composed, compose, plain
from harness.recipes.recipe import about, recipe_names
from harness.recipes.table import FOLDER, SECTIONS, Verdict, papers, settings, settings_of, sources
from tests.command_line import harness

ROOT = Path(__file__).parents[2]
# Every key that the published files set, base files included, with its value: read from the files themselves.
FILES = json.loads((Path(__file__).parent / "published_files.json").read_text())
# Options of ours that no published setting has: places, cost, and what only the embedded dataset or an engine needs.
OURS_ALONE = {
    "data.name", "data.root", "data.images", "data.cache", "detector.canonical_size", "schedule.channels_last",
    "schedule.checkpoint_minutes", "schedule.keep_checkpoints", "schedule.log_every",
    "schedule.accumulate", "schedule.archive", "schedule.compile", "schedule.tf32",
    "schedule.profile", "schedule.activation_checkpointing", "backbone.stochastic_depth",
    "detector.federated_extra_images",  # stands in the row of DiverGen's CAT_FREQ_PATH; others have no extra categories
}  # fmt: skip


@pytest.fixture(scope="module")
def composed() -> dict[str, Composed]:
    return {name: compose([f"recipe={name}"]) for name in papers()}


def test_every_file_of_published_settings_is_read() -> None:
    assert {path.stem for path in (FOLDER / "published").iterdir()} == set(SECTIONS)


def test_every_published_recipe_composes_to_what_the_table_says(composed: dict[str, Composed]) -> None:
    for name, recipe in composed.items():
        departing = [s.name for s in settings_of(name) if s.verdict(recipe.settings) is Verdict.departs]
        assert departing == [], f"recipe={name} departs from the table"


def test_a_recipe_that_departs_is_told() -> None:
    other = compose(["recipe=bsgal_r50", "schedule.lr=0.3", "data.aspect_grouping=false"]).settings
    departing = {s.name for s in settings_of("bsgal_r50") if s.verdict(other) is Verdict.departs}
    assert departing == {"SOLVER.BASE_LR", "DATALOADER.ASPECT_RATIO_GROUPING"}


@pytest.mark.parametrize("name", papers())
def test_every_value_of_the_published_files_has_a_row(name: str) -> None:
    rows = {setting.name: setting.published for setting in settings_of(name)}
    missing = {key: value for key, value in FILES[name].items() if key not in rows or rows[key] != value}
    assert missing == {}
    assert len(FILES[name]) > 40


def test_what_differs_differs_and_says_why(composed: dict[str, Composed]) -> None:
    for setting in settings():
        if setting.differs:
            assert len(setting.differs) > 20, setting.name
            for recipe in setting.origins:
                ours = setting.ours(composed[recipe].settings)
                assert ours != setting.published, f"{setting.name} differs no more: its row says it does"


def test_every_option_of_ours_stands_in_the_table(composed: dict[str, Composed]) -> None:
    """An option that is added is compared with the published value, or named here as ours alone."""
    for name, recipe in composed.items():
        known = {key for setting in settings_of(name) for key in setting.keys}
        groups = ("data.", "detector.", "schedule.", "backbone.")
        unknown = {key for key in recipe.settings if key.startswith(groups) and not key.startswith("data.paste.")}
        if not recipe.config.method.pastes:
            known |= {"data.pool", "data.area_statistics"}
        if "weights" in known:
            known |= {"backbone.weights"}
        assert unknown - known - OURS_ALONE == set(), name
        method = {f"method.{key}": value for key, value in plain(type(recipe.config.method)()).items()}
        changed = {key for key, value in method.items() if recipe.settings[key] != value}
        assert changed - known <= {"method.strict_filters"}, f"{name} sets what no row names"


def test_a_recipe_s_filter_wants_its_columns(composed: dict[str, Composed]) -> None:
    pasting = [recipe.config.method for recipe in composed.values() if recipe.config.method.pastes]
    assert len(pasting) == 7
    assert all(method.strict_filters for method in pasting)


def test_what_holds_an_equality_is_there() -> None:
    for setting in settings():
        if setting.where:
            file, _, text = setting.where.partition(" ")
            assert text, setting.name
            assert text in (ROOT / file).read_text(), setting.where
        told = setting.keys or setting.constant or setting.where or setting.aside or setting.differs
        assert told, f"{setting.name}: nothing says what stands for it here"


def test_every_value_has_its_file_and_line() -> None:
    for setting in settings():
        for origin in setting.origins.values():
            short = re.split(r"[: ]", origin)[0]
            assert short in sources() or short == "arXiv", origin
            assert re.search(r":\d+$| issue \d+$|appendix|train_net.py$", origin), origin


def test_figures_are_those_of_the_published_results() -> None:
    with (ROOT / "reports" / "published_results.csv").open(newline="") as file:
        rows = [
            [float(row[key]) for key in ("AP_box", "AP_mask", "APr_box", "APr_mask")] for row in csv.DictReader(file)
        ]
    for paper in papers().values():
        assert paper.figures is None or list(paper.figures) in rows


def test_recipes_have_words_resources_and_weights(composed: dict[str, Composed]) -> None:
    assert set(recipe_names()) == {*papers(), "mini", "mini_paste", "tenth_r50", "tenth_r50_paste"}
    assert all(about(name) for name in recipe_names())
    for recipe in composed.values():
        config = recipe.config
        assert config.launcher.gpus == config.schedule.ranks
        assert (config.weights or config.backbone.weights).startswith("datasets/weights/")
    assert composed["divergen_swin_l"].config.detector.federated_extra_images == 2000


def test_the_page_is_of_these_tables() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_fidelity.py"))["page"]()
    assert (ROOT / "docs" / "explanation" / "fidelity.md").read_text() == written, "run `python docs/write_fidelity.py`"


def test_mini_is_what_a_run_is_without_a_recipe() -> None:
    assert compose(["recipe=mini"]).config == compose([]).config
    method = compose(["recipe=mini_paste", "method=bsgal"]).config.method
    assert dataclasses.replace(method, max_samples=20) == compose(["method=bsgal"]).config.method


def test_recipes_are_listed_and_shown(tmp_path: Path) -> None:
    listed = harness("recipes", cwd=tmp_path)
    assert listed.code == 0
    (line,) = [line for line in listed.out.splitlines() if line.startswith("bsgal_r50 ")]
    assert "BSGAL/configs/BSGAL/BSGAL_R50.yaml" in line
    assert "4 × RTX 4090" in line
    assert "mini_paste: Pasting" in listed.out
    shown = harness("recipes", "show", "bsgal_swin_l", cwd=tmp_path)
    assert shown.code == 0
    assert "= false | ours method.estimator = loss_difference | divergen:BSGAL/bsgal/config.py:" in shown.out
    assert harness("recipes", "show", "bsgal_swin", cwd=tmp_path).code != 0
