"""Records: identity, atomic writing, reading many."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from harness.record.files import as_cell, write_atomically
from harness.record.record import Record, Status, read_record, read_records, record_path, run_id, write_record


def test_a_record_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    record = Record("a-1", "bsgal", Status.complete, {"seed": 1}, {"bbox": {"AP": 41.25, "APr": None}}, started=1.5)
    write_record(tmp_path, record)
    assert read_record(tmp_path, "a-1") == record
    assert read_records(tmp_path) == [record]
    assert read_record(tmp_path, "b-2") is None


def test_records_whose_files_wait_are_read_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then threads read all but the first ones."""
    for place in range(20):
        write_record(tmp_path, Record(f"a-{place}", "bsgal", Status.complete))
    at_once = read_records(tmp_path)
    monkeypatch.setattr("harness.record.waiting.FIRST", 2)
    monkeypatch.setattr("harness.record.waiting.LONG", 0.0)
    assert read_records(tmp_path) == at_once
    assert [record.run_id for record in at_once] == sorted(f"a-{place}" for place in range(20))


def test_the_run_id_follows_from_the_content_and_not_from_its_order() -> None:
    first = run_id("x", {"a": 1, "b": {"c": 2, "d": None}})
    assert first == run_id("x", {"b": {"d": None, "c": 2}, "a": 1})
    assert first != run_id("x", {"a": 1, "b": {"c": 3, "d": None}})


def test_an_interrupted_write_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")

    def write_half() -> None:
        with write_atomically(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_record_that_was_cut_in_half_is_named(tmp_path: Path) -> None:
    write_record(tmp_path, Record("a-1", "bsgal", Status.complete))
    path = record_path(tmp_path, "a-1")
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"a-1/record\.json is not a record"):
        read_record(tmp_path, "a-1")


def test_a_full_disk_leaves_the_earlier_record_and_no_half_one(tmp_path: Path) -> None:
    """The kernel itself refuses the bytes: the process may not write files beyond 64 bytes."""
    write_record(tmp_path, Record("a-1", "bsgal", Status.running))
    code = f"""
import resource, signal
from pathlib import Path
from harness.record.record import Record, Status, write_record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
write_record(Path({str(tmp_path)!r}), Record("a-1", "bsgal", Status.complete))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "File too large" in done.stderr
    earlier = read_record(tmp_path, "a-1")
    assert earlier is not None
    assert earlier.status is Status.running
    assert os.listdir(tmp_path / "a-1") == ["record.json"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 64


def test_cells_that_a_spreadsheet_would_execute_are_texts() -> None:
    assert [as_cell(value) for value in ("=1+1", "+1", "-x", "@x", "a=b", -1.5, None)] == [
        "'=1+1", "'+1", "'-x", "'@x", "a=b", -1.5, None,
    ]  # fmt: skip
