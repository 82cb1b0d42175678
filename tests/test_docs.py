"""The documentation: its commands run as they are written, with training made shorter, and what it names exists."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import backbones
import methods
from harness.cli import app
from harness.config import RunConfig
from harness.launch import sweepfile
from harness.recipes.recipe import recipe_names
from methods.registry import options
from tests.command_line import harness
from tests.pages import DOCS, PAGES, README, ROOT, blocks, commands, title

TEXT = README.read_text()
# Pages whose commands a user without GPU, SLURM and other engines can run; those of the two tutorials that train for
# long are tests/test_tutorials.py's.
RUN = [README, DOCS / "how-to" / "install.md", DOCS / "tutorials" / "papers-tables.md", DOCS / "how-to" / "evaluate.md"]
APART = {  # in processes of their own, as a user has them: one that trains and one that does without torch
    "harness run method=bsgal seed=1",
    "harness evaluate detections.json --annotations datasets/lvis/lvis_v1_val.json",
}
ON_A_CPU = [
    "launcher.gpus=0", "schedule.global_batch=2", "schedule.batch_per_rank=2", "schedule.precision=fp32",
    "backbone.weights=null", "data.test_short=96", "data.test_long=128",
    "detector.channels=64", "detector.fc_width=64", "detector.mask_channels=32", "detector.detections=20",
]  # fmt: skip
SHORTER = ["schedule.iterations=2", "evaluation.limit=4", "data.workers=0", "data.size=96"]
INCOMPLETE = "harness data check data=lvis_v1"  # its exit code says that the folder's LVIS is a small one
NOT_HERE = re.compile(r"RUN|FILE|IMAGE|^harness (status|retry|report)|^(pip|make|torchrun)")


def runnable() -> list[str]:
    found = [command for page in RUN for command in commands(page.read_text())]
    return [command for command in dict.fromkeys(found) if not NOT_HERE.search(command)]


@pytest.fixture(scope="module")
def folder(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: LVIS in datasets/ (mini has its layout), the pools and weights that recipes name, detections."""
    folder = tmp_path_factory.mktemp("user")
    data = folder / "datasets"
    for name in ("pools", "weights"):
        (data / name).mkdir(parents=True)
    for name in ("lvis", "coco"):
        (data / name).symlink_to(mini_root / name)
    pools = mini_root / "pools"
    listing = json.loads((pools / "half_bad.json").read_text())
    for name in ("xpaste", "divergen"):
        absolute = {category: [str(pools / path) for path in paths] for category, paths in listing.items()}
        (data / "pools" / f"{name}.json").write_text(json.dumps(absolute))
    for name in ("resnet50_miil_21k.pth", "swin_large_patch4_window12_384_22k.pth", "baseline_r50.pth"):
        (data / "weights" / name).touch()  # sweeps are shown, not run
    image = json.loads((mini_root / "lvis" / "lvis_v1_val.json").read_text())["images"][0]["id"]
    detection = {"image_id": image, "category_id": 1, "score": 0.5, "bbox": [10, 10, 30, 30]}
    (folder / "detections.json").write_text(json.dumps([detection]))
    return folder


def test_the_readme_begins_with_the_two_commands() -> None:
    assert commands(TEXT)[:2] == ["make demo", "make test"]
    for target, words in (("demo", ["harness sweep mini", "harness report mini"]), ("test", ["pytest"])):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        for word in words:
            assert word in done.stdout


def test_commands_that_run_apart_are_the_pages_own() -> None:
    assert {*APART, INCOMPLETE} <= set(runnable())


@pytest.mark.parametrize("command", runnable())
def test_a_command_runs(command: str, folder: Path) -> None:
    words = shlex.split(command)[1:]
    if words[0] == "run" and not {"--help", "--cfg"} & set(words):
        words += SHORTER
        if any(word.startswith("recipe=") for word in words):
            words += ON_A_CPU
    if command in APART:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        start = [sys.executable, "-m", "harness.cli", *words]
        done = subprocess.run(start, cwd=folder, env=environment, capture_output=True, text=True)
        code, printed = done.returncode, done.stderr[-2000:] + done.stdout[-500:]
    else:
        ended = harness(*words, cwd=folder)
        code, printed = ended.code, ended.err[-2000:] + ended.out[-500:]
    assert code == (1 if command == INCOMPLETE else 0), printed


# ---------------------------------------------------------------------- what pages name


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_commands_have_these_arguments(page: Path) -> None:
    for command in commands(page.read_text()):
        if command.startswith("harness "):
            words = shlex.split(command)[1:]
            _parse(words)
            if words[0] == "sweep" and not words[1].endswith(".yaml"):
                sweepfile.find(words[1])


def _parse(words: list[str]) -> None:
    """Raises where the command line would not take these words."""
    parsed: Any = typer.main.get_command(app)
    while words and not words[0].startswith("-") and getattr(parsed, "commands", None):
        parsed, words = parsed.commands[words[0]], words[1:]
    if words != ["--help"]:
        parsed.make_context(parsed.name, words)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "fidelity.md"], ids=title)
def test_options_modules_and_files_exist(page: Path) -> None:
    text = page.read_text()
    groups = {field.name: _options(field) for field in dataclasses.fields(RunConfig)}
    groups = {name: names for name, names in groups.items() if names}
    groups["method"] = {name for method in methods.names() for name in options(methods.find(method))}
    groups["backbone"] = {
        field.name for name in backbones.names() for field in dataclasses.fields(backbones.find(name))
    }
    named = re.findall(rf"(?<![\w/.-])({'|'.join(groups)})\.([a-z]\w*)(?![\w/(])", text)
    of_users = {name for _, body in blocks(text) for name in re.findall(r"^    (\w+): .* = ", body, re.MULTILINE)}
    of_users |= {"md", "py", "json", "csv", "yaml"}
    assert [(group, name) for group, name in named if name not in groups[group] | of_users] == []
    assert set(re.findall(r"recipe=(\w+)", text)) - {"NAME"} <= set(recipe_names())
    for module in re.findall(r"python -m (tests\.[\w.]+)", text):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"`((?:harness|methods|reports|tests|docs|sweeps)/[\w/]+\.\w+)", text):
        assert (ROOT / path).is_file(), path


def _options(field: dataclasses.Field[Any]) -> set[str]:
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
    return {each.name for each in dataclasses.fields(made)} if dataclasses.is_dataclass(made) else set()


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).exists(), target


# ---------------------------------------------------------------------- generated reference


def test_the_reference_has_every_option_method_and_command() -> None:
    page = runpy.run_path(str(DOCS / "generated_tables.py"))["on_page_markdown"]
    configuration = page("{{ configuration }}")
    for group in dataclasses.fields(RunConfig):
        for name in _options(group):
            assert f"`{group.name}.{name}" in configuration
    assert all(f"`recipe={name}`" in configuration for name in recipe_names())
    shown = page("{{ methods }}")
    assert all(f"\n## `{name}`\n" in shown for name in methods.names())
    described = page("{{ command line }}")
    assert "\n## `harness sweep`\n" in described
    assert "* `--dry-run`: " in described
    assert "\n### `harness data pack-pool`\n" in described
