"""`harness run`: a configuration is composed once a run, with Hydra's own flags and without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

import harness.compose
from harness.compose import Composed
from harness.record.record import Status
from harness.run import application as command
from harness.run.outcome import Outcome


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Composed]:
    """The configurations that would have been executed."""
    found: list[Composed] = []

    def execute(composed: Composed) -> Outcome:
        found.append(composed)
        return Outcome("run", Status.complete)

    monkeypatch.setattr(command, "execute_composed", execute)
    return found


@pytest.fixture
def composings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry whenever Hydra composes."""
    found: list[object] = []
    compose = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, *arguments: object, **options: object) -> object:
        found.append(arguments)
        return compose(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    monkeypatch.setattr(harness.compose, "_trees", {})  # what other tests have composed
    return found


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["harness run", *arguments])
    command.main()


def test_a_plain_run_is_composed_once(
    executed: list[Composed], composings: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "method=xpaste", "seed=3")
    (composed,) = executed
    assert len(composings) == 1
    assert composed.config.seed == 3
    assert composed.settings["method"] == composed.choices["method"] == "xpaste"
    assert composed.choices["backbone"] == "resnet18"


def test_hydra_s_own_flags_still_work(
    executed: list[Composed],
    composings: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as the command sets it, undone after the test
    run(monkeypatch, "--multirun", "method=xpaste,bsgal", f"hydra.sweep.dir={tmp_path}")
    assert [composed.settings["method"] for composed in executed] == ["xpaste", "bsgal"]
    composings.clear()
    capsys.readouterr()
    run(monkeypatch, "method=divergen", "--cfg", "job")
    assert len(composings) == 1
    assert len(executed) == 2
    assert "name: mini" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"error: method=bsgl: no such method; did you mean 'bsgal'\?"):
        run(monkeypatch, "method=bsgl", "--cfg", "job")
