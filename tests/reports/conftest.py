"""Reports made once for the tests that read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.command import report_command
from tests.reports import made_up


@pytest.fixture(scope="session")
def paper_main(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report `paper_main` on made-up records; the runs lie beside it."""
    folder = tmp_path_factory.mktemp("paper_main")
    made_up.write_paper_main(folder / "runs")
    return report_command("paper_main", folder / "runs", out=folder / "report")


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini")
    made_up.write_mini(folder / "runs")
    return report_command("mini", folder / "runs", out=folder / "report")
