"""What stands in SLURM's queue: arrays that follow each other, names in comments, changes, bad nodes."""

from __future__ import annotations

import pytest

from tests.slurm.project import Project

FAMILY = """
grid:
  - {name: baseline, method: baseline, schedule: mini, schedule.iterations: 2, seed: [0, 1]}
  - {method: [copy_paste, xpaste], schedule: mini_continue, schedule.iterations: 2, data.pool: half_bad, seed: [0, 1]}
after:
  - {when: {schedule: mini_continue}, init_from: {name: baseline}}
"""
HALF = '''
import os
from dataclasses import dataclass
from methods import register
from methods.contract import Method


@register("half")
@dataclass
class Half(Method):
    """Fails in the second element of an array."""

    def select(self, step):
        if os.environ.get("SLURM_ARRAY_TASK_ID") == "1" and not os.path.exists("mended"):
            raise RuntimeError("the method is broken")
        return super().select(step)
'''
HELD = "+launcher.sbatch.hold=true"


def test_children_wait_for_their_own_parents(project: Project) -> None:
    """Six runs, three arrays; names, changes and single jobs by the queue's own words."""
    project.write_sweep("family", FAMILY)
    log = project.folder / "sbatch.log"
    project.shim("sbatch", f'echo . >> {log}; real "$@"')
    project.sweep("family", HELD)
    assert len(log.read_text().splitlines()) == 3
    rows = list(project.states("family").values())
    parents, child = rows[:2], next(row for row in rows if row["name"] == "xpaste" and row["axes"]["seed"] == "1")
    array = parents[0]["job"].partition("_")[0]
    shown = project.cluster.command("scontrol", "show", "job", child["job"])
    assert f"Dependency=aftercorr:{array}_" in shown, shown
    assert list(project.states(parents[1]["job"])) == [parents[1]["run_id"]]
    assert list(project.states(array)) == [row["run_id"] for row in parents]

    assert "changed 2 waiting jobs" in project.harness("change", array, "launcher.minutes=77", "launcher.memory_gb=3")
    shown = project.cluster.command("scontrol", "show", "job", parents[1]["job"])
    assert "TimeLimit=01:17:00" in shown
    assert "MinMemoryNode=3G" in shown
    assert project.run("family").resources["minutes"] == 77
    assert "cannot be changed" in project.harness("change", "family", "launcher.gpus=2", code=1)
    project.shim("scontrol", 'echo "slurm_update error: Access/permission denied" >&2; exit 1')
    assert "not changed: " in project.harness("change", array, "launcher.minutes=99", code=1)
    assert project.run("family").resources["minutes"] == 77


@pytest.mark.slow
def test_failed_parent_holds_back_its_own_child_alone(project: Project) -> None:
    (project.folder / "half.py").write_text(HALF)
    text = FAMILY.replace("[copy_paste, xpaste]", "copy_paste").replace("data.pool: half_bad, ", "")
    project.write_sweep(
        "family", text.replace("method: baseline, schedule", "method: half, method_paths: '[half.py]', schedule")
    )
    project.sweep("family")
    rows = list(project.wait("family").values())
    states = {(row["name"], row["axes"]["seed"]): row for row in rows}
    assert {key: row["state"] for key, row in states.items()} == {
        ("baseline", "0"): "complete",
        ("baseline", "1"): "failed",
        ("copy_paste", "0"): "complete",
        ("copy_paste", "1"): "waiting",
    }, project.output()
    assert states["baseline", "1"]["run_id"] in states["copy_paste", "1"]["reason"]
    comment = project.cluster.command("scontrol", "show", "job", states["baseline", "0"]["job"])
    assert f"Comment={states['baseline', '0']['run_id']}" in comment
    (project.folder / "mended").touch()
    project.harness("retry", "family", "status=failed", "--trust", "half.py")
    assert {row["state"] for row in project.wait("family").values()} == {"complete"}, project.output()
    assert "hours of jobs in 5 starts" in project.harness("status", "family", "--cost")
