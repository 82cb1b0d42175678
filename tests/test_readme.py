"""Every command of the README runs as it stands; training is only made shorter."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import harness

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line.split(" #")[0].strip() for kind, block in BLOCKS if kind == "" for line in block.splitlines() if line.strip()
]
APART = {  # in processes of their own, as a user has them: one that trains and one that does without torch
    "harness run method=bsgal seed=1",
    "harness evaluate detections.json --annotations datasets/lvis/lvis_v1_val.json",
}
ON_A_CPU = [
    "launcher.gpus=0", "schedule.global_batch=2", "schedule.batch_per_rank=2", "schedule.precision=fp32",
    "backbone.weights=null", "data.test_short=96", "data.test_long=128",
]  # fmt: skip
SHORTER = ["schedule.iterations=2", "evaluation.limit=4", "data.workers=0", "data.size=96"]


@pytest.fixture(scope="module")
def folder(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: LVIS in datasets/ (mini has its layout), a pool, detections, the method's file."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "datasets").symlink_to(mini_root)
    pools = mini_root / "pools"
    listing = json.loads((pools / "half_bad.json").read_text())
    (folder / "pool.json").write_text(json.dumps({c: [str(pools / p) for p in paths] for c, paths in listing.items()}))
    image = json.loads((mini_root / "lvis" / "lvis_v1_val.json").read_text())["images"][0]["id"]
    detection = {"image_id": image, "category_id": 1, "score": 0.5, "bbox": [10, 10, 30, 30]}
    (folder / "detections.json").write_text(json.dumps([detection]))
    for kind, block in BLOCKS:
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", block)
            assert name is not None, "the README's Python begins with its file's name"
            (folder / name[1]).write_text(block)
    return folder


def test_the_readme_begins_with_the_two_commands() -> None:
    assert [command for command in COMMANDS if command.startswith("make")] == ["make demo", "make test"]
    for target, words in (("demo", ["harness sweep mini", "harness report mini"]), ("test", ["pytest"])):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        for word in words:
            assert word in done.stdout


def test_commands_that_run_apart_are_the_readme_s() -> None:
    assert set(COMMANDS) >= APART


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("harness")])
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
    assert code == 0, printed


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).exists(), target
