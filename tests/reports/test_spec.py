from __future__ import annotations

from pathlib import Path

import pytest

from reports.command import report_command
from reports.published import find_published, read_published
from reports.spec import read_spec, spec_names


@pytest.mark.parametrize("name", spec_names())
def test_every_shipped_spec_is_valid_and_reports_on_no_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    folder = report_command(name, tmp_path / "runs", out=tmp_path / "report")
    assert "missing" in (folder / "index.html").read_text() or "no runs" in (folder / "table.md").read_text()


def test_the_expected_reports_are_shipped() -> None:
    assert {"mini", "mini_backbones", "paper_main", "divergen_scaling", "bsgal_ablation"} <= set(spec_names())
    assert {"random_rate", "noise", "engines_mini"} <= set(spec_names())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {a: {}}\nbasline: a", "no key of the report is called 'basline'; did you mean 'baseline'"),
        ("rows: {bsgal: {}}\nbaseline: bsgall", "no baseline is called 'bsgall'; did you mean 'bsgal'"),
        ("rows: {a: {}}\ncolumns: [AP_bx]", "no column is called 'AP_bx'; did you mean 'AP_box'"),
        ("rows: {a: {labl: x}}", "no key of rows.a is called 'labl'; did you mean 'label'"),
        ("rows: {a: {}}\nfigures: [{kind: curv, x: b}]", "no kind of figure is called 'curv'; did you mean 'curve'"),
        ("rows: {a: {}}\nfigures: [{kind: cost, colum: b}]", "no option of the figure 'cost' is called 'colum'"),
        ("rows: {a: {}}\nfigures: [{kind: [1]}]", "no kind of figure is called '[1]'"),
        ("rows: {a: {}}\nfigures: null", "figures is 'None'; expected a list of them"),
        ("rows: {a: {}}\ndecimals: [1]", "decimals is '[1]'; expected a number from 0 to 6"),
        ('rows: {a: {}}\n"a\\nb": 1', "no key of the report is called 'a\\nb'"),
        ("rows: {a: {}}\nprimary: AP_msk", "no metric among the columns is called 'AP_msk'; did you mean 'AP_mask'"),
        ("rows: {a: {}}\nlevel: 95", "level is 95; expected a share such as 0.95"),
        ("rows: {a: {}}\ngroup: {b: {x: X}}\npublished: {y: t}", "no value of the group is called 'y'"),
        ("rows: {a: {}}\ngroup: {b: {x: X, y: X}}\npublished: {y: t}", "no value of the group is called 'y'"),
        ("rows: {}", "a report needs rows"),
        ("rows: [a, b]", "rows must be a mapping, not list"),
        ('rows: {"a\\nb": 1}', "rows has the key 'a\\nb'; use one without line breaks"),
        ("rows: {a: ", "is not valid YAML"),
    ],
)
def test_misspelt_specs_name_the_nearest(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml") as error:
        read_spec(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_report_or_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no report 'paper_mian' .*; did you mean 'paper_main'"):
        read_spec("paper_mian")
    with pytest.raises(ValueError, match="no such report format: 'htlm'; did you mean 'html'"):
        report_command("mini", tmp_path, ["htlm"])
    with pytest.raises(ValueError, match=r"folder of runs .* does not exist"):
        report_command("mini", tmp_path / "nowhere")


def test_a_published_figure_needs_a_source(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("table,method,backbone,dataset,AP_box,source\nt,a,r,d,1.0,a paper\nt,b,r,d,2.0,\n")
    with pytest.raises(ValueError, match=r"mine\.csv, line 3: a published figure needs a source"):
        read_published(path)
    path.write_text("table,method,backbone,AP_box\nt,a,r,1.0\n")
    with pytest.raises(ValueError, match="has no column 'dataset'"):
        read_published(path)


def test_published_rows_are_found_by_all_that_is_named() -> None:
    published = read_published()
    row = find_published(published, {"table": "divergen_scaling", "num_generated": 600000, "gdde": True})
    assert row is not None
    assert (row["AP_box"], row["APr_mask"]) == (50.67, 43.63)
    assert find_published(published, {"method": "bsgal"}) is None  # in no source that we have
    with pytest.raises(ValueError, match=r"\d published results fit"):
        find_published(published, {"method": "xpaste"})
    with pytest.raises(ValueError, match="no table 'divergen_scalng'; did you mean 'divergen_scaling'"):
        find_published(published, {"table": "divergen_scalng"})
    with pytest.raises(ValueError, match="no column 'metod'; did you mean 'method'"):
        find_published(published, {"metod": "bsgal"})


def test_own_published_rows_stand_beside_ours(tmp_path: Path) -> None:
    csv = tmp_path / "mine.csv"
    csv.write_text("table,method,backbone,dataset,AP_box,source\nmine,bsgal,resnet18,mini,44.5,my notebook\n")
    spec = tmp_path / "mine.yaml"
    spec.write_text("rows: {bsgal: {published: {table: mine, method: bsgal}}}\ncolumns: [AP_box]")
    (tmp_path / "runs").mkdir()
    folder = report_command(str(spec), tmp_path / "runs", ["md"], tmp_path / "report", csv)
    text = (folder / "table.md").read_text()
    assert "44.5" in text
    assert "Published figures: my notebook" in text
