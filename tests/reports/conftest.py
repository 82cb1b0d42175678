"""Reports made once for the tests that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reports.command import report_command
from tests.conftest import MakeOnce
from tests.reports import made_up


@pytest.fixture(scope="session")
def paper_main(make_once: MakeOnce) -> Path:
    """The folder of the report `paper_main` on made-up records; the runs lie beside it."""
    return _report("paper_main", made_up.write_paper_main, make_once)


@pytest.fixture(scope="session")
def mini(make_once: MakeOnce) -> Path:
    return _report("mini", made_up.write_mini, make_once)


def _report(name: str, write: Callable[[Path], object], make_once: MakeOnce) -> Path:
    def make(folder: Path) -> None:
        write(folder / "runs")
        report_command(name, folder / "runs", out=folder / "report")

    return make_once(name, make) / "report"
