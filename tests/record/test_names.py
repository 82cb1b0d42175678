"""Names that a user gives: misspelt ones, and beginnings of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError, first_line, nearest
from harness.record.names import find_record
from harness.record.record import Record, Status, write_record
from harness.run.finished_run import finished_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("bsgal-s0", "bsgal-s0-more", "xpaste-s0"):
        write_record(tmp_path, Record(name, name, Status.complete))
    (tmp_path / "xpaste-s1").mkdir()  # without a record
    return tmp_path


def test_a_run_is_found_by_its_name_or_a_beginning_that_no_other_shares(runs: Path) -> None:
    assert find_record(runs, "bsgal-s0").run_id == "bsgal-s0"
    assert find_record(runs, "bsgal-s0-").run_id == "bsgal-s0-more"
    assert find_record(runs, "xp").run_id == "xpaste-s0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bs", "several runs in .* begin with 'bs': bsgal-s0, bsgal-s0-more"),
        ("xpaste-s1", "no record of a run 'xpaste-s1'.*did you mean 'xpaste-s0'"),
        ("qqqqqqqqqq", "valid: bsgal-s0, bsgal-s0-more, xpaste-s0"),
    ],
)
def test_what_names_no_run_or_several_is_refused(name: str, message: str, runs: Path) -> None:
    with pytest.raises(ValueError, match=message):
        find_record(runs, name)
    with pytest.raises(UserError, match=message):
        finished_run(runs, name)


def test_a_record_without_a_configuration_is_no_run_to_go_on_with(runs: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml is missing"):
        finished_run(runs, "xpaste-s0")


def test_nearest_and_first_line() -> None:
    assert nearest("bsgl", ["xpaste", "bsgal"]) == "did you mean 'bsgal'?"
    assert nearest("bsgl", []) == "valid: none"
    assert first_line(ValueError("\n  one \ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 300))) == 200
