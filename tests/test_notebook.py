"""The notebook in examples/ runs on records with the shape of the mini sweep's, and is stored without outputs."""

from pathlib import Path

import pytest

from tests.reports.made_up import write_mini

NOTEBOOK = Path(__file__).parent.parent / "examples" / "explore_results.ipynb"


@pytest.mark.slow
def test_it_makes_a_figure_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))  # for the kernel
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    write_mini(tmp_path / "runs")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "strip it: nbstripout"
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.get("data", {}) for cell in code for output in cell.outputs]
    tables = [data["text/html"] for data in shown if "text/html" in data]
    assert len(tables) == 2
    assert all("oracle" in table and "bsgal" in table for table in tables)
    assert len([data for data in shown if "image/png" in data]) == 2
    assert (tmp_path / "gains.svg").stat().st_size > 5000
