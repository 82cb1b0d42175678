"""The clusters that the other tests stand on."""

from tests.slurm.cluster import GPUS, NODES, Cluster


def test_cluster_with_accounting_runs_a_job_with_gpus_and_remembers_it(accounted: Cluster) -> None:
    seen = accounted.command("srun", "--quiet", f"--gpus-per-node={GPUS}", "printenv", "CUDA_VISIBLE_DEVICES").strip()
    assert seen == "0,1"
    listed = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State"]
    accounted.wait_for(lambda: "COMPLETED" in accounted.command(*listed))
    assert len(accounted.command("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N").split()) == NODES


def test_cluster_without_accounting_runs_a_job_and_forgets_it(unaccounted: Cluster) -> None:
    assert unaccounted.command("srun", "--quiet", "echo", "ran").strip() == "ran"
    assert "COMPLETED" not in unaccounted.command("sacct", "--noheader", check=False)
