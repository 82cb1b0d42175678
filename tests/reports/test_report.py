"""The report `paper_main` on made-up records: two runs missing, one failed, one made by older code."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from reports.latex import escape
from reports.page import prose
from reports.spec import read_spec
from reports.text import number


@pytest.fixture(scope="module")
def csv(paper_main: Path) -> pd.DataFrame:
    return pd.read_csv(paper_main / "table.csv").set_index(["backbone", "row"])


def figures(report: Path, method: str, backbone: str, seeds: tuple[int, ...], iou: str, metric: str) -> np.ndarray:
    """Straight from the records' JSON."""
    runs = report.parent / "runs"
    records = [
        json.loads((runs / f"{method}-{backbone}-lvis_v1-s{seed}" / "record.json").read_text()) for seed in seeds
    ]
    return np.array([record["metrics"][iou][metric] for record in records])


def test_means_deviations_and_paired_differences(paper_main: Path, csv: pd.DataFrame) -> None:
    line = csv.loc["swin_l", "bsgal"]
    ours = figures(paper_main, "bsgal", "swin_l", (0, 2), "segm", "APr")  # seed 1 failed
    base = figures(paper_main, "baseline", "swin_l", (0, 2), "segm", "APr")
    assert line["APr_mask"] == pytest.approx(sum(ours) / 2)
    assert line["APr_mask.sd"] == pytest.approx(abs(ours[0] - ours[1]) / 2**0.5)
    assert line["APr_mask.n"] == 2
    assert line["APr_mask.minus_baseline"] == pytest.approx(np.mean(ours - base))
    assert line["APr_mask.minus_baseline.low"] <= min(ours - base) + 1e-9
    assert line["APr_mask.minus_baseline.high"] >= max(ours - base) - 1e-9


def test_what_is_missing_failed_or_stale_is_marked_and_counted(csv: pd.DataFrame) -> None:
    assert csv.loc["swin_l", "xpaste"]["marks"] == "1 missing"
    assert csv.loc["swin_l", "divergen"]["marks"] == "1 missing"
    assert csv.loc["swin_l", "bsgal"]["marks"] == "1 failed"
    assert csv.loc["resnet50", "copy_paste"]["marks"] == "1 stale"
    assert pd.isna(csv.loc["swin_l", "copy_paste"]["marks"])
    assert (csv["expected"] == 3).all()
    assert csv["complete"].sum() == 48 - 3


def test_marks_stand_in_every_format(paper_main: Path) -> None:
    markdown = (paper_main / "table.md").read_text()
    line = next(line for line in markdown.splitlines() if line.startswith("| X-Paste") and "missing" in line)
    assert line.count("<sup>m</sup>") == 4
    assert "2 of 3: 1 missing" in line
    assert "a run is missing" in markdown
    assert re.search(r"X-Paste & [\d.]+ \$\\pm\$ [\d.]+\$\^\{\\mathrm\{m\}\}\$", (paper_main / "table.tex").read_text())
    page = (paper_main / "index.html").read_text()
    assert 'class="state state-failed">failed</span> <span class="why">out of memory: CUDA' in page
    assert 'class="state state-stale">stale</span> <span class="why">code changed</span>' in page
    assert page.count('class="state state-missing"') == 2


def test_stars_only_in_the_declared_column_and_where_the_test_stands(csv: pd.DataFrame) -> None:
    from reports.statistics import holm

    p = csv["APr_mask.minus_baseline.p"]
    adjusted = pd.Series(holm(list(p)), p.index)
    pd.testing.assert_series_equal(csv["APr_mask.p_holm"], adjusted, check_names=False)
    assert list(csv["APr_mask.star"]) == list(adjusted <= 0.05)
    assert not csv[["AP_box.star", "AP_mask.star", "APr_box.star"]].any().any()
    assert csv[csv["complete"] < 3]["APr_mask.minus_baseline.p"].isna().all()


def test_p_stands_on_hover_and_an_interval_of_two_seeds_is_dashed(paper_main: Path, csv: pd.DataFrame) -> None:
    page = (paper_main / "index.html").read_text()
    p = csv.loc["resnet50", "bsgal"]["APr_mask.minus_baseline.p"]
    assert f'title="p = {p:.2g} over 3 seeds; adjusted over rows' in page
    assert page.count('class="interval dashed"') == 3 * 4  # X-Paste, DiverGen and BSGAL on Swin-L


def test_published_figures_stand_beside_ours_with_their_source(paper_main: Path, csv: pd.DataFrame) -> None:
    line = csv.loc["swin_l", "divergen"]
    assert line["APr_box.published"] == 50.1
    assert csv.loc["swin_l", "xpaste"]["AP_box.published"] == 50.1  # all of one source
    assert csv.loc["resnet50", "xpaste"]["AP_box.published"] == 37.4
    note = "Another source has X-Paste, ResNet-50 at AP^box 34.5 (X-Paste repository issue 2, a user's retraining"
    assert note in (paper_main / "table.md").read_text()
    assert line["APr_box.minus_published"] == pytest.approx(line["APr_box"] - 50.1)
    assert line["published_source"] == "DiverGen README comparison table"
    assert csv.loc["resnet50", "bsgal"]["published_source"] == "no figure in any source we have"
    assert "no published figure" in (paper_main / "index.html").read_text()
    assert "no source" in (paper_main / "table.md").read_text()


class Tables(HTMLParser):
    """The data-values and texts of the page's result tables, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.links: list[str] = []
        self.ids: list[str] = []
        self._rows: list[list[tuple[str, str]]] | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attributes}
        self.ids += [values["id"]] if "id" in values else []
        if tag == "a":
            self.links.append(values["href"])
        if tag == "table":
            self._rows = self.tables[values["id"]] = []
        if self._rows is not None and tag == "tr":
            self._rows.append([])
        if self._rows and "data-value" in values:
            self._rows[-1].append((values["data-value"], ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._rows = None

    def handle_data(self, text: str) -> None:
        if self._rows and self._rows[-1] and text.strip():
            value, before = self._rows[-1][-1]
            self._rows[-1][-1] = (value, f"{before} {text.strip()}".strip())


@pytest.fixture(scope="module")
def page(paper_main: Path) -> Tables:
    parser = Tables()
    parser.feed((paper_main / "index.html").read_text())
    return parser


def test_the_pages_figures_are_those_of_the_csv(page: Tables, csv: pd.DataFrame, paper_main: Path) -> None:
    # Not every pandas reads numbers to the last bit.
    written = pd.read_csv(paper_main / "table.csv", dtype=str).set_index(["backbone", "row"])
    for backbone in ("resnet50", "swin_l"):
        rows = page.tables[f"results-{backbone}"][1:]
        assert [row[0][1] for row in rows] == list(csv.loc[backbone]["label"])
        for row, (key, line) in zip(rows, csv.loc[backbone].iterrows(), strict=True):
            for (value, text), column in zip(row[1:5], ("AP_box", "AP_mask", "APr_box", "APr_mask"), strict=True):
                assert float(value) == float(written.loc[(backbone, key), column])
                assert text.startswith(number(line[column], 1))
                assert f"± {line[f'{column}.sd']:.1f}" in text
                if not np.isnan(line.get(f"{column}.minus_baseline", np.nan)):
                    assert number(line[f"{column}.minus_baseline"], 1, signed=True) in text


def test_no_markup_of_ours_shows_as_text(paper_main: Path) -> None:
    shown = re.findall(r"&lt;/?(?:sup|sub|span|code|wbr)\b", (paper_main / "index.html").read_text())
    assert not shown


def test_every_link_of_the_page_leads_somewhere(page: Tables, paper_main: Path) -> None:
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert (paper_main / link).is_file(), link


def test_the_page_is_one_file_that_asks_for_nothing(paper_main: Path) -> None:
    text = (paper_main / "index.html").read_text()
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert "@import" not in text
    assert "url(http" not in text


def test_figures_are_there_as_svg_png_and_inline(paper_main: Path) -> None:
    text = (paper_main / "index.html").read_text()
    assert text.count('<figure id="figure-') == len(read_spec("paper_main").figures)
    for path in paper_main.glob("figure-*.svg"):
        ElementTree.parse(path)
        assert (path.with_suffix(".png")).read_bytes().startswith(b"\x89PNG")
        assert f'id="{path.stem}"' in text
    inline = re.findall(r"<svg role.*?</svg>", text, re.DOTALL)
    assert len(inline) == 4
    for svg in inline:
        assert "#1c2330" not in svg  # ink follows the page's light or dark
        assert "var(--ink)" in svg


def test_latex_is_escaped_and_well_formed(paper_main: Path) -> None:
    text = (paper_main / "table.tex").read_text()
    check_latex(text)
    assert text.count(r"\begin{tabular}") == 3  # figures, differences, published


def test_hostile_labels_survive_latex_markdown_and_html(tmp_path: Path) -> None:
    from harness.record.record import write_record
    from reports.command import report_command
    from tests.reports.made_up import record

    label = r"50% & a_b #1 {x} \cmd ~^ | <b>$"
    (tmp_path / "odd.yaml").write_text(
        f"title: '{label}'\nrows: {{bsgal: {{label: '{label}', where: {{method: bsgal}}}}}}"
    )
    write_record(tmp_path / "runs", record("bsgal", 0, {"bbox": {"AP": 1.0}}))
    folder = report_command(str(tmp_path / "odd.yaml"), tmp_path / "runs", out=tmp_path / "report")
    check_latex((folder / "table.tex").read_text())
    assert escape(label) in (folder / "table.tex").read_text()
    table = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    page = (folder / "index.html").read_text()
    assert "| &lt;b&gt;$" in page
    assert "| <b>$" not in page


def check_latex(text: str) -> None:
    """Environments and braces balance, maths is closed, every row has as many cells as the tabular has columns."""
    stack: list[str] = []
    for word, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if word == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    bare = re.sub(r"\\[&%$#_{}\\]", "", "\n".join(text.splitlines()[1:]))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "%" not in bare
    assert "#" not in bare
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [row for row in re.split(r"\\\\", body)[:-1] if "multicolumn" not in row]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
            outside = re.sub(r"\$.*?\$", "", re.sub(r"\\[&%$#_{}]", "", row))
            assert not set("_^#%") & set(outside)


def test_a_single_seed_is_marked(tmp_path: Path) -> None:
    from harness.record.record import write_record
    from reports.command import report_command
    from tests.reports.made_up import record

    (tmp_path / "one.yaml").write_text("rows: {bsgal: {}}\ncolumns: [AP_box]")
    write_record(tmp_path / "runs", record("bsgal", 0, {"bbox": {"AP": 41.26}}))
    folder = report_command(str(tmp_path / "one.yaml"), tmp_path / "runs", out=tmp_path / "report")
    assert "| bsgal | 41.3 <sup>1</sup> | 1 of 1: single seed |" in (folder / "table.md").read_text()
    assert '<abbr title="single seed">1</abbr>' in (folder / "index.html").read_text()


def test_the_same_records_give_the_same_files(paper_main: Path, tmp_path: Path) -> None:
    from reports.command import report_command

    again = report_command("paper_main", paper_main.parent / "runs", out=paper_main.parent / "again")
    for path in sorted(paper_main.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_scaling_draws_the_published_curve_dashed(tmp_path: Path) -> None:
    from reports.command import report_command
    from tests.reports.made_up import write_divergen_scaling

    write_divergen_scaling(tmp_path / "runs")
    folder = report_command("divergen_scaling", tmp_path / "runs", out=tmp_path / "report")
    svg = (folder / "figure-1-curve.svg").read_text()
    for words in ("without GDDE, published", "with GDDE, published", "300k", "1200k"):
        assert words in svg
    assert svg.count("stroke-dasharray") >= 4
    assert "Dashed: published (DiverGen README scaling table)" in (folder / "index.html").read_text()


def test_mini_shows_both_baselines_and_how_decisions_agree(mini: Path) -> None:
    text = (mini / "index.html").read_text()
    assert "Difference to Baseline continued" in text
    assert "Decisions against the hidden truth" in text
    assert "with other seeds and other validation images" in text
    table = pd.read_csv(mini / "table.csv").set_index("row")
    assert table.loc["bsgal", "acceptance_rate"] == pytest.approx(55)
    assert table.loc["xpaste", "time_ratio"] == pytest.approx(1)
    difference = table.loc["oracle"]
    assert difference["AP_box.minus_baseline_continued.low"] < difference["AP_box.minus_baseline_continued"]
    assert difference["AP_box.minus_baseline_continued"] < difference["AP_box.minus_baseline_continued.high"]


def test_sentences_of_a_page_are_escaped_and_name_columns_as_its_tables_do() -> None:
    told = prose("`<b>` in AP_r^box & AP^mask")
    assert told == "<code>&lt;b&gt;</code> in AP<sub>r</sub><sup>box</sup> &amp; AP<sup>mask</sup>"
