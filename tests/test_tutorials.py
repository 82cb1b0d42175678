"""Two tutorials from their first command to their last: a sweep on this machine, and one on a SLURM cluster."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.command_line import harness
from tests.pages import DOCS, README, commands
from tests.slurm.conftest import accounted, project  # noqa: F401
from tests.slurm.project import Project

pytestmark = pytest.mark.slow
TUTORIALS = DOCS / "tutorials"
SHORTER = ["schedule.iterations=2", "evaluation.limit=4", "data.workers=0", "data.size=96"]


def words_of(command: str) -> list[str]:
    words = shlex.split(command)[1:]
    trains = words[0] == "sweep" or (words[0] == "run" and "--cfg" not in words)
    return words + SHORTER if trains else words


@pytest.mark.usefixtures("mini_root")
def test_the_first_sweep(tmp_path: Path) -> None:
    *written, last = [each for each in commands((TUTORIALS / "first-sweep.md").read_text()) if "make" not in each]
    assert last == "harness methods"
    for command in [each for each in written if each.startswith("harness ")]:
        one_seed = ["seed=0"] if command.startswith("harness sweep mini") else []
        ended = harness(*words_of(command), *one_seed, cwd=tmp_path)
        assert ended.code == 0, f"{command}\n{ended.out}{ended.err}"
        if command == "harness status mini":
            assert "7 complete" in ended.out
    assert (tmp_path / "sheet.png").is_file()
    assert "recovered" in (tmp_path / "report" / "mini" / "table.md").read_text()


@pytest.mark.parametrize("page", [TUTORIALS / "first-slurm-sweep.md", README], ids=["tutorial", "README"])
def test_the_first_slurm_sweep(page: Path, project: Project) -> None:  # noqa: F811
    written = [each for each in commands(page.read_text()) if re.search(r"slurm|harness \w+ mini", each)]
    assert "harness retry mini" in written or "harness retry mini status=failed" in written
    for command in written:
        words = words_of(re.sub(r"launcher\.partition=\S+", "launcher.partition=main", command))
        if page == README:
            words = [word for word in words if word != "--dry-run"]
        if words[0] == "sweep":
            words += [*({"launcher.gpus=0"} - set(words)), "name=baseline", "launcher.cpus=1", "launcher.memory_gb=2"]
        looks = words[0] == "logs" or words == ["status", "mini"]  # their codes say how far the runs are
        project.harness(*words, code=None if looks else 0)
        if words[0] == "cancel":
            project.wait("mini")
    assert {state["state"] for state in project.wait("mini").values()} == {"complete"}
