"""An offline stage on a real SLURM: a job like any other, waited for by the run that reads its file."""

from __future__ import annotations

import pytest

from tests.slurm.project import Project

OFFLINE = """
grid:
  - {name: baseline, method: baseline, schedule: mini, schedule.iterations: 4}
  - {name: scores, stage: score, stage.hosts: 1, stage.per_category: 40}
  - {name: best, method: clip_filter, method.share: 0.25, schedule: mini_continue, schedule.iterations: 4}
after:
  - {when: {name: [scores, best]}, init_from: {name: baseline}}
  - {when: {name: best}, files: {method.scores: {name: scores}}}
"""


@pytest.mark.slow
def test_a_stage_is_requeued_goes_on_and_hands_its_file_on(project: Project) -> None:
    project.write_sweep("offline", OFFLINE)
    assert "submitted, waiting" in project.sweep("offline")
    stage = next(run_id for run_id in project.states("offline") if run_id.startswith("score-"))
    chunks = project.runs / stage / "checkpoint"
    project.cluster.wait_for(lambda: len(list(chunks.glob("*.npy"))) >= 2, 120)
    row = project.states(stage)[stage]
    assert row["state"] == "running"
    assert row["total"] == 24 * 40
    project.cluster.command("scontrol", "requeue", row["job"])
    states = {row["name"]: row for row in project.wait("offline").values()}
    assert {row["state"] for row in states.values()} == {"complete"}, project.output()
    record = project.records("offline")[stage]
    assert record.statistics == {"file": "scores.csv", "rows": 24 * 40, "without": 0}
    assert record.provenance["restarts"] == 1
    assert record.cost["starts"] == 2
    assert states["best"]["metrics"]["bbox"]["AP"] is not None
    assert (states["scores"]["iteration"], states["scores"]["metrics"]) == (24 * 40, {})
