"""A run that ends badly leaves a record that says of what, where the disk still allows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.record.record import Status, read_record
from harness.run.run import execute

FULL = '''
import errno
from dataclasses import dataclass
from pathlib import Path
from methods import register
from methods.contract import Method


@register("full_disk")
@dataclass
class FullDisk(Method):
    """Leaves half a checkpoint and finds no space for the rest."""

    folder: str = ""

    def select(self, step):
        part = next(Path(self.folder).glob("*")) / "checkpoint" / ".000000001.part"
        part.mkdir(parents=True)
        (part / "shared.pt").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
'''


def test_full_disk_ends_in_a_record_and_one_sentence(tmp_path: Path, mini_root: Path) -> None:
    (tmp_path / "full.py").write_text(FULL)
    runs = tmp_path / "runs"
    words = ["data=mini", "method=full_disk", f"method_paths=[{tmp_path}/full.py]", f"method.folder={runs}"]
    words += ["detector=small", "data.workers=0", "schedule.global_batch=2", "schedule.batch_per_rank=2"]
    with pytest.raises(UserError, match=f"no space left on {runs}"):
        execute([*words, f"runs_dir={runs}"])
    (folder,) = runs.iterdir()
    record = read_record(runs, folder.name)
    assert record is not None
    assert record.status is Status.failed
    assert record.failure is not None
    assert record.failure["kind"] == "no space left"
    assert record.cost["starts"] == 1
    assert not list((folder / "checkpoint").iterdir()), "half a checkpoint made room for it"
