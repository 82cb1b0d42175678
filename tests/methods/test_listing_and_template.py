"""The table of methods, and the file that a new method starts from."""

import subprocess
import sys
from pathlib import Path

import pytest

import methods
from methods.listing import methods_table
from methods.template import new_method


def test_every_method_has_a_row_with_one_line_and_its_options() -> None:
    rows = {row.name: row for row in methods_table()}
    assert set(rows) == set(methods.names())
    assert all(row.summary.endswith(".") and "\n" not in row.summary for row in rows.values())
    assert all(row.paper for row in rows.values() if row.origin == "built in")
    bsgal = {option.name: str(option) for option in rows["bsgal"].options}
    assert bsgal["mode"] == "mode=paste_only (paste_only|paste_or_ori)"
    assert bsgal["tau"] == "tau=null"
    assert bsgal["sync"] == "sync=false"
    assert rows["bsgal"].needs == ("ground_truth_proposals", "pasted_attribution")
    assert [option.name for option in rows["xpaste"].own_options] == ["filtered", "box_loss", "mask_loss"]
    assert [option.name for option in rows["bsgal_per_image"].own_options] == ["scope"]


def test_a_new_method_works_and_its_test_passes(tmp_path: Path) -> None:
    method, test = new_method("my_rule", tmp_path / "mine")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        capture_output=True,
        text=True,
        cwd=Path(methods.__file__).parents[1],
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    with pytest.raises(FileExistsError, match=r"my_rule\.py"):
        new_method("my_rule", method.parent)


@pytest.mark.parametrize("name", ["bsgal", "My-Rule", "2nd"])
def test_bad_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=name):
        new_method(name, tmp_path)
    assert not list(tmp_path.iterdir())
