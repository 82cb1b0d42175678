"""`harness methods show` and `check`: what is printed, and the answer to a wrong name."""

import pytest

from harness.commands.methods import check_command, list_command
from harness.errors import UserError


def test_one_method_is_shown_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    list_command("bsgal_per_image")
    shown = capsys.readouterr().out
    assert "method.scope=heads (all|heads|last)" in shown
    assert "ground_truth_proposals, pasted_attribution" in shown


@pytest.mark.parametrize(("wrong", "near"), [("bsgl", "'bsgal'"), ("copypaste", "'copy_paste'"), ("xxxxxx", "valid:")])
def test_an_unknown_method_is_answered_with_the_nearest(wrong: str, near: str) -> None:
    for command in (list_command, check_command):
        with pytest.raises(UserError, match=f"{wrong}: no such method; .*{near}"):
            command(wrong)
