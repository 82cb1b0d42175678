"""Names that a user gives: misspelt ones, and beginnings of runs."""

from pathlib import Path

import pytest

from harness.record.names import find_record, nearest
from harness.record.record import Record, Status, write_record


def test_the_nearest_word_or_all_there_are() -> None:
    assert nearest("bsgl", ["xpaste", "bsgal"]) == "did you mean 'bsgal'?"
    assert nearest("quite else", {"b", "a"}) == "valid: a, b"
    assert nearest("any", []) == "valid: none"


def test_a_run_is_named_by_its_id_or_by_a_beginning_that_is_its_own(tmp_path: Path) -> None:
    for run_id in ("bsgal-s1", "bsgal-s10", "xpaste-s1"):
        write_record(tmp_path, Record(run_id, "any", Status.complete))
    (tmp_path / "divergen-s2").mkdir()  # has left no record yet
    assert find_record(tmp_path, "bsgal-s1").run_id == "bsgal-s1"
    assert find_record(tmp_path, "xp").run_id == "xpaste-s1"
    with pytest.raises(ValueError, match=r"several runs in .* begin with 'bsgal': bsgal-s1, bsgal-s10"):
        find_record(tmp_path, "bsgal")
    with pytest.raises(ValueError, match=r"no record of a run 'divergen-s2'"):
        find_record(tmp_path, "divergen-s2")
    with pytest.raises(ValueError, match=r"no record of a run 'xpsate-s1' .*; did you mean 'xpaste-s1'\?"):
        find_record(tmp_path, "xpsate-s1")
