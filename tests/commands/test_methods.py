"""`harness methods show` and `check`: what is printed, and the answer to a wrong name."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.commands.methods import check_command, list_command
from harness.errors import UserError
from methods import registry


def test_one_method_is_shown_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    list_command("bsgal_per_image")
    shown = capsys.readouterr().out
    assert shown.startswith("bsgal_per_image: ")  # no markup
    assert "method.scope=heads (all|heads|last)" in shown
    assert "ground_truth_proposals, pasted_attribution" in shown


PLUGIN = """
from dataclasses import dataclass
from methods.contract import Method
from methods.registry import register


@register("of_a_plugin")
@dataclass
class OfAPlugin(Method):
    pace: float = 0.25
"""


@pytest.mark.parametrize(
    "words", ["--plugin FILE show of_a_plugin", "show of_a_plugin --plugin FILE", "show --plugin FILE of_a_plugin"]
)
def test_a_plugin_s_method_is_shown_wherever_its_file_is_named(words: str, tmp_path: Path) -> None:
    file = tmp_path / "of_a_plugin.py"
    file.write_text(PLUGIN)
    try:
        done = CliRunner().invoke(app, ["methods", *words.replace("FILE", str(file)).split()])
        assert done.exit_code == 0, done.output
        assert "method.pace=0.25" in done.output
    finally:
        registry._forget("bsgal_bench_method_of_a_plugin")


@pytest.mark.parametrize(("wrong", "near"), [("bsgl", "'bsgal'"), ("copypaste", "'copy_paste'"), ("xxxxxx", "valid:")])
def test_an_unknown_method_is_answered_with_the_nearest(wrong: str, near: str) -> None:
    for command in (list_command, check_command):
        with pytest.raises(UserError, match=f"{wrong}: no such method; .*{near}"):
            command(wrong)
