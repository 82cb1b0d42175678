"""A run's launcher settings: checked, and turned into sbatch's parameters and the lines of its job script."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from harness.bounds import first_fault, text_fault
from harness.errors import UserError
from harness.launch import held

# The job's own name for itself, as squeue has it.
_JOB = '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"'
_NEEDED = {"name", "gpus", "nodes", "cpus", "memory_gb", "minutes", "parallel", "signal_seconds", "setup", "sbatch"}
STARTED = "== start"
_BEFORE = [
    "export BSGAL_BENCH_JOB_BEGAN=$(date +%s)",
    f"job={_JOB}; job=${{job:-$SLURM_JOB_ID}}",
    f'echo "{STARTED} ${{SLURM_RESTART_COUNT:-0}} of job $job on $SLURM_JOB_NODELIST" >&2',
]
# A stop signal in the moment before Python holds such signals ends the step by it: 128 and SIGTERM's or SIGUSR2's
# number. A job that is being cancelled or requeued is not running any more.
_AFTERWARDS = [
    "code=$?",
    "if [ $code = 143 ] || [ $code = 140 ]; then",
    '    scontrol show job --oneliner "$job" | grep -q JobState=RUNNING && scontrol requeue "$job"',
    "fi",
    "exit $code",
]


def check_resources(resources: Mapping[str, Any]) -> None:
    """Raises UserError for settings that are missing, numbers that SLURM would accept by mistake, and texts of
    several lines."""
    if missing := sorted(_NEEDED - resources.keys()):
        raise UserError(f"a run in the manifest has no launcher.{missing[0]}; `harness sweep` writes it again")
    if fault := first_fault({f"launcher.{key}": value for key, value in resources.items()}):
        raise UserError(fault)
    texts = [(f"sbatch.{key}", f"{key}={value}") for key, value in resources["sbatch"].items()]
    for key in resources["sbatch"]:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_-]*", key):
            raise UserError(f"launcher.sbatch: {key!r} is not an option of sbatch")
    for key, value in [*resources.items(), *texts]:
        if fault := text_fault(value):
            raise UserError(f"launcher.{key}={value!r}: {fault}")
    if runs_a_job(resources) > 1 and resources["name"] != "slurm":
        raise UserError("launcher.pack needs launcher=slurm; use launcher.parallel here")
    if runs_a_job(resources) > 1 and resources["ranks"] > 1:
        raise UserError(f"launcher.pack={resources['pack']} needs runs of one rank, not of {resources['ranks']}")
    if resources["name"] == "slurm" and resources["signal_seconds"] >= 60 * resources["minutes"]:
        raise UserError(
            f"launcher.signal_seconds={resources['signal_seconds']} leaves no time within launcher.minutes="
            f"{resources['minutes']}: the run would have to save as soon as it starts; change one of them"
        )


def runs_a_job(resources: Mapping[str, Any]) -> int:
    """How many runs share a job; manifests of older versions do not say."""
    return int(resources.get("pack", 1))


def sbatch_parameters(resources: Mapping[str, Any]) -> dict[str, Any]:
    """submitit's parameters for a run's launcher settings.

    Raises UserError for numbers out of range and for ranks that the nodes cannot share.
    """
    check_resources(resources)
    nodes, ranks, gpus = resources["nodes"], resources["ranks"], resources["gpus"]
    if ranks % nodes:
        raise UserError(f"{ranks} ranks (schedule.global_batch / schedule.batch_per_rank) on launcher.nodes={nodes}")
    if gpus and gpus * nodes != ranks:
        raise UserError(
            f"launcher.nodes={nodes} with launcher.gpus={gpus} each is {nodes * gpus} GPUs, but "
            f"schedule.global_batch / schedule.batch_per_rank makes {ranks} ranks: each needs one GPU"
        )
    further = {key: _flag(value) for key, value in resources["sbatch"].items()}
    parameters = {
        "time": resources["minutes"],
        "nodes": nodes,
        "ntasks_per_node": ranks // nodes,
        "cpus_per_task": resources["cpus"],
        "gpus_per_node": gpus or None,
        "mem": f"{round(resources['memory_gb'] * 1024)}MB",
        "array_parallelism": resources["parallel"],
        "signal_delay_s": resources["signal_seconds"],
        # A rank that dies takes the others with it at once, and srun no longer inherits the number of CPUs.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={resources['cpus']}"],
        "additional_parameters": {"requeue": True, **{k: v for k, v in further.items() if v is not None}},
    }
    for name in ("partition", "account", "qos", "constraint", "exclude", "comment"):
        parameters[name] = resources[name]
    return {key: value for key, value in parameters.items() if value is not None}


def script_parameters(resources: Mapping[str, Any]) -> dict[str, Any]:
    """What submitit writes around the command of the job script; wckey: submitit's own, which few clusters know."""
    return {"setup": [*_BEFORE, *resources["setup"]], "teardown": _AFTERWARDS, "wckey": None}


def python_command() -> str:
    """The Python command of a job, with stop signals held back until the run can handle them."""
    return shlex.join([sys.executable, "-I", "-S", held.__file__])


def _flag(value: str) -> str | bool | None:
    """An sbatch flag's value: true for a flag without one, null or false to leave it out."""
    return {"true": True, "false": None, "null": None}.get(str(value).lower(), value)
