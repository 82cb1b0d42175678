"""Several runs in one job: each ends for itself, all are stopped together, one can be cancelled."""

from __future__ import annotations

import pytest

from harness.run import claim
from tests.slurm.project import Project
from tests.slurm.test_ends import BREAKS

PACKED = ("launcher.pack=2", "launcher.memory_gb=4")


def _jobs(project: Project, sweep: str) -> list[str]:
    return [row["job"] for row in project.states(sweep).values()]


@pytest.mark.slow
def test_one_that_fails_ends_alone(project: Project) -> None:
    (project.folder / "breaks.py").write_text(BREAKS)
    broken = "{name: broken, method: breaks, method_paths: '[breaks.py]', schedule.iterations: 4}"
    project.write_sweep(
        "mixed", f"grid: [{broken}, {{name: good, method: baseline, schedule.iterations: 150, seed: [0, 1]}}]\n"
    )
    assert "3 runs, jobs" in project.sweep("mixed", *PACKED)
    jobs = _jobs(project, "mixed")
    assert jobs[0] == jobs[1] != jobs[2]
    broken_id = project.run("mixed").run_id
    project.cluster.wait_for(lambda: project.states("mixed")[broken_id]["state"] == "failed", 120)
    beside = project.states("mixed")[project.run("mixed", 1).run_id]
    assert beside["state"] == "running", "its job goes on"
    rows = {row["run_id"]: row for row in project.wait("mixed").values()}
    assert [row["state"] for row in rows.values()] == ["failed", "complete", "complete"], project.output()
    assert rows[broken_id]["failure_kind"] == "python error"
    array = jobs[0].partition("_")[0]
    assert f"array={array}" not in project.cluster.command("squeue", "--noheader")


@pytest.mark.slow
def test_a_stop_saves_all_and_a_cancelled_one_stays_behind(project: Project) -> None:
    project.write_sweep("two", "grid: {method: baseline, schedule.iterations: 150, seed: [0, 1]}\n")
    project.sweep("two", *PACKED)
    first, second = (project.run("two", place).run_id for place in (0, 1))
    (job,) = set(_jobs(project, "two"))
    folders = [project.runs / run_id for run_id in (first, second)]
    saved = [folder / "checkpoint" for folder in folders]
    project.cluster.wait_for(lambda: all(len(list(folder.glob("0*"))) > 0 for folder in saved), 120)
    project.cluster.command("scancel", "--signal=USR2", job)
    project.cluster.wait_for(lambda: all((claim.owner(folder) or claim).restart == 1 for folder in folders), 120)

    assert "cancelled 1 runs" in project.harness("cancel", first)
    rows = project.wait("two")
    assert (rows[first]["state"], rows[second]["state"]) == ("cancelled", "complete"), project.output()
    assert "stopped by SIGTERM" in (folders[1] / "log.txt").read_text()
    assert len(claim.lives(folders[1])) == 3
    assert "submitted" in project.harness("retry", "two", "status=cancelled")
    assert {row["state"] for row in project.wait("two").values()} == {"complete"}, project.output()


def test_the_queue_is_asked_for_one_job_for_two_runs(project: Project) -> None:
    project.write_sweep("four", "grid: {method: baseline, schedule.iterations: 4, seed: [0, 1, 2, 3, 4]}\n")
    log = project.folder / "sbatch.log"
    project.shim("sbatch", f'real "$@" > /dev/null; echo lost >> {log}; echo "Socket timed out" >&2; exit 1')
    project.sweep("four", *PACKED, "+launcher.sbatch.hold=true")
    project.unshim()
    jobs = _jobs(project, "four")
    assert [jobs.index(job) for job in jobs] == [0, 0, 2, 2, 4], "found again by their name"
    assert len(project.job_names()) == 3
    assert "cancelled 1 runs" in project.harness("cancel", project.run("four").run_id)
    states = [row["state"] for row in project.states("four").values()]
    assert states == ["cancelled", "pending", "pending", "pending", "pending"]
    project.harness("cancel", "four")
    project.cluster.wait_for(lambda: not project.job_names())
    assert {row["state"] for row in project.states("four").values()} == {"cancelled"}
    refused = project.harness("sweep", "four", "launcher.pack=2", code=1)
    assert "launcher.pack needs launcher=slurm" in refused
