"""The papers' sweeps, with the embedded dataset in the place of LVIS and pools like the published ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from harness.compose import compose
from harness.config import RunConfig
from harness.data.dataset import Dataset
from harness.errors import UserError
from harness.launch import sweepfile
from harness.launch.expand import expand
from harness.record.manifest import ExpectedRun
from harness.record.record import Status
from harness.run.run import execute
from methods.divergen import DiverGen
from reports.command import report_command

ROOT = Path(__file__).parents[2]
EXTRA = 566  # categories beyond the dataset's own
SWEEPS = {
    "paper_main": 42,
    "paper_fair": 24,
    "divergen_scaling": 18,
    "divergen_diversity": 39,
    "xpaste_ablation": 36,
    "bsgal_ablation_lvis": 60,
}


@pytest.fixture(scope="module")
def root(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LVIS's folder, with pools by the names that the sweeps look for: extra categories, `*` and `|` entries."""
    folder = tmp_path_factory.mktemp("datasets")
    for name in ("lvis", "coco"):
        (folder / name).symlink_to(mini_root / name)
    pools = folder / "pools"
    pools.mkdir()
    listing = json.loads((mini_root / "pools" / "half_bad.json").read_text())
    pictures = [str(mini_root / "pools" / path) for paths in listing.values() for path in paths[:2]]
    categories = len(listing)
    write(pools / "xpaste", {category: pictures[category % 40 :][:8] for category in range(categories)})
    for name, extra in (("divergen", 250), ("divergen_categories", EXTRA), ("divergen_prompts", 0)):
        write(pools / name, {category: pictures[category % 40 :][:8] for category in range(categories + extra)})
    write(pools / "divergen_plain", {category: pictures[category % 40 :][:8] for category in range(categories)})
    return folder


def write(path: Path, listing: dict[int, list[str]]) -> None:
    """A pool's JSON with its three kinds of entries, and the columns that the recipes' filters read."""
    rows = ["category,path,clip_score,area_fraction,inter_similarity,prompt_id,generator"]
    entries: dict[str, list[str]] = {}
    for category, paths in listing.items():
        kinds = [(path, f"*{path}", f"{path}|{path}")[place % 3] for place, path in enumerate(paths)]
        entries[str(category)] = kinds
        for place, kind in enumerate(kinds):
            rows.append(f"{category},{kind},30,0.4,0.8,{place % 4},{('sd', 'if')[place % 2]}")
    path.with_suffix(".json").write_text(json.dumps(entries))
    path.with_name(f"{path.name}.columns.csv").write_text("\n".join(rows) + "\n")


def runs_of(name: str, root: Path, *overrides: str) -> list[ExpectedRun]:
    sweep = sweepfile.read(ROOT / "sweeps" / f"{name}.yaml")
    return expand(sweep, [f"data.root={root}", "backbone.weights=null", "launcher=slurm", *overrides])


@pytest.mark.parametrize(("name", "count"), SWEEPS.items())
def test_sweeps_of_the_papers_expand_and_their_pools_are_prepared(name: str, count: int, root: Path) -> None:
    found = runs_of(name, root)
    assert len(found) == count
    assert (ROOT / "reports" / f"{sweepfile.read(ROOT / 'sweeps' / f'{name}.yaml').report}.yaml").is_file()
    assert all(run.resources["gpus"] == run.resources["ranks"] for run in found)
    for config in distinct(found):
        pool = Dataset(config.data).prepared_pool(config.method, 0)
        assert pool.categories.max() < Dataset(config.data).num_classes


def test_a_pool_of_further_categories_wants_their_number(root: Path) -> None:
    (run, *_) = runs_of("divergen_scaling", root, "name=with_gdde", "seed=0", "data.num_classes=null")
    config = compose(run.overrides).config
    config.method.scale = None
    with pytest.raises(UserError, match=r"data\.num_classes"):
        Dataset(config.data).prepared_pool(config.method, 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [("divergen_diversity", ["method=divergen", "data.pool=extra"]), ("xpaste_ablation", ["data.pool=half_bad"])],
)
def test_ablations_move_to_the_embedded_dataset_by_one_word(name: str, words: list[str], mini_root: Path) -> None:
    sweep = sweepfile.read(ROOT / "sweeps" / f"{name}.yaml")
    found = expand(sweep, ["recipe=mini_paste", "seed=0", *words])
    assert {run.choices["data"] for run in found} == {"mini"}


SMALL = [
    "detector=small", "detector.channels=32", "detector.fc_width=64", "detector.mask_channels=16",
    "backbone=resnet18", "backbone.weights=null", "launcher.gpus=0",
    "schedule.iterations=2", "schedule.global_batch=4", "schedule.batch_per_rank=4", "schedule.precision=fp32",
    "schedule.activation_checkpointing=false", "data.size=64", "data.test_short=64", "data.test_long=96",
    "data.workers=0", "evaluation.limit=2", "evaluation.mixed=false", "seed=0",
]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["divergen_diversity", "xpaste_ablation", pytest.param("bsgal_ablation_lvis", marks=pytest.mark.slow)],
)
def test_a_row_of_each_kind_trains_and_is_reported(name: str, root: Path, tmp_path: Path) -> None:
    """With the recipes' methods, filters and pools, on the small detector."""
    kinds: dict[str, ExpectedRun] = {}
    for run in runs_of(name, root, *SMALL):
        kinds.setdefault(run.name, run)
    for run in kinds.values():
        outcome = execute([*run.overrides, f"runs_dir={tmp_path}"])
        assert outcome.status is Status.complete, outcome.message
    folder = report_command(name, tmp_path, ["csv"], tmp_path / "report")
    assert pd.read_csv(folder / "table.csv").complete.sum() == len(kinds)


def distinct(runs: list[ExpectedRun]) -> list[RunConfig]:
    """A configuration for every way in which the runs use a pool, at a scale that the small pools have."""
    options = {"recipe", "method", *(f"method.{field.name}" for field in dataclasses.fields(DiverGen))}
    ways = {}
    for run in runs:
        given = [text.partition("=") for text in run.overrides]
        way = tuple("".join(text) for text in given if text[0] in options or text[0].startswith("data."))
        ways.setdefault(way, run.overrides)
    found = [compose(overrides).config for overrides in ways.values()]
    for config in found:
        if getattr(config.method, "scale", None):
            config.method.scale = 20
    return [config for config in found if config.method.pastes]
