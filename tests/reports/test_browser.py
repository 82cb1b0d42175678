"""The page in headless Chromium: no console errors, sorting, figures, two widths, light and dark, no network."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from reports.compare import compare_command

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="Chromium is missing: apt-get install chromium chromium-driver",
)
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def view(browser, page: Path, width: int, scheme: str = "light") -> None:  # type: ignore[no-untyped-def]
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    browser.get(page.resolve().as_uri())


def column(browser, table: str, place: int) -> list[str]:  # type: ignore[no-untyped-def]
    rows = "[...document.getElementById(arguments[0]).tBodies[0].rows]"
    return browser.execute_script(f"return {rows}.map(row => row.cells[arguments[1]].dataset.value)", table, place)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_errors_no_network_and_no_sideways_scrolling(browser, paper_main: Path, width: int, scheme: str) -> None:  # type: ignore[no-untyped-def]
    view(browser, paper_main / "index.html", width, scheme)
    assert browser.get_log("browser") == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    colours = browser.execute_script("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    ink, paper = (sum(int(part) for part in colour[4:-1].split(",")) for colour in colours)
    assert (ink < paper) == (scheme == "light")
    fills = browser.execute_script(
        "return [...document.querySelectorAll('figure svg text')].map(text => getComputedStyle(text).fill)"
    )
    assert colours[0] in fills  # figures take the page's ink
    assert "rgb(0, 0, 0)" not in fills


def test_sorting_turns_down_up_and_back(browser, paper_main: Path) -> None:  # type: ignore[no-untyped-def]
    view(browser, paper_main / "index.html", 1280)
    table = pd.read_csv(paper_main / "table.csv", dtype=str)  # not every pandas reads numbers to the last bit
    expected = [float(value) for value in table[table["backbone"] == "swin_l"]["APr_box"]]
    before = [float(value) for value in column(browser, "results-swin_l", 3)]
    assert before == expected
    button = browser.find_element("css selector", "#results-swin_l thead th:nth-child(4) button")
    heading = browser.find_element("css selector", "#results-swin_l thead th:nth-child(4)")
    for direction, order in (("descending", sorted(expected, reverse=True)), ("ascending", sorted(expected))):
        button.click()
        assert [float(value) for value in column(browser, "results-swin_l", 3)] == order
        assert heading.get_attribute("aria-sort") == direction
    button.click()
    assert [float(value) for value in column(browser, "results-swin_l", 3)] == expected
    assert heading.get_attribute("aria-sort") is None
    by_name = browser.find_element("css selector", "#results-swin_l thead th:first-child button")
    by_name.send_keys("\n")  # by keyboard as well
    assert column(browser, "results-swin_l", 0) == sorted(
        column(browser, "results-swin_l", 0), key=str.lower, reverse=True
    )
    assert browser.get_log("browser") == []


def test_a_cell_opens_its_runs(browser, paper_main: Path) -> None:  # type: ignore[no-untyped-def]
    view(browser, paper_main / "index.html", 1280)
    opened = "return document.getElementById('runs-bsgal-swin_l').open"
    assert not browser.execute_script(opened)
    browser.find_element("css selector", "#results-swin_l tbody tr:last-child td a").click()
    assert browser.execute_script(opened)
    link = browser.find_element("css selector", "#runs-bsgal-swin_l .run-head a")
    browser.get(link.get_attribute("href"))
    assert '"run_id": "bsgal-swin_l-lvis_v1-s0"' in browser.page_source


def test_empty_cells_sort_last(browser, mini: Path) -> None:  # type: ignore[no-untyped-def]
    view(browser, mini / "index.html", 1280)
    button = browser.find_element("css selector", "#results-all thead th:nth-child(6) button")
    for _ in range(2):
        button.click()
        values = column(browser, "results-all", 5)
        assert all(values[:2])
        assert not any(values[2:])


def test_the_comparison_page(browser, paper_main: Path) -> None:  # type: ignore[no-untyped-def]
    runs = paper_main.parent / "runs"
    folder = compare_command("xpaste-resnet50-lvis_v1-s0", "bsgal-resnet50-lvis_v1-s0", runs, runs.parent / "compared")
    for width in (360, 1280):
        view(browser, folder / "index.html", width)
        assert browser.get_log("browser") == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_on_paper_nothing_is_cut_and_nothing_is_folded(browser, paper_main: Path) -> None:  # type: ignore[no-untyped-def]
    view(browser, paper_main / "index.html", 1032)  # A4 landscape within its margins
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    wide = "return [...document.querySelectorAll('.scroll, .drawing')].map(e => e.scrollWidth - e.clientWidth)"
    assert max(browser.execute_script(wide)) <= 1
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    heading = "return getComputedStyle(document.querySelector('h2')).breakAfter"
    assert browser.execute_script(heading) == "avoid"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("width", [400, 1280])
def test_text_in_figures_is_readable(browser, mini: Path, width: int) -> None:  # type: ignore[no-untyped-def]
    view(browser, mini / "index.html", width)
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].flatMap(s => [...s.querySelectorAll('text')].map(t => "
        "parseFloat(getComputedStyle(t).fontSize) * s.getBoundingClientRect().width / s.viewBox.baseVal.width))"
    )
    assert min(sizes) >= 11
    described = "return [...document.querySelectorAll('.drawing svg')].map(s => s.getAttribute('aria-describedby'))"
    for caption in browser.execute_script(described):
        assert len(browser.find_element("id", caption).text) > 20


@pytest.mark.parametrize("width", [400, 1280])
def test_names_of_categories_and_figures_do_not_overlap(browser, mini: Path, width: int) -> None:  # type: ignore[no-untyped-def]
    folder = compare_command("xpaste-s0", "bsgal-s0", mini.parent / "runs", mini.parent / "compared_names")
    beyond = "return [...document.querySelectorAll('tbody th')].map(e => e.scrollWidth - e.clientWidth)"
    for page in (mini, folder):
        view(browser, page / "index.html", width)
        assert max(browser.execute_script(beyond)) <= 0


def test_sorting_is_shown_and_told(browser, mini: Path) -> None:  # type: ignore[no-untyped-def]
    view(browser, mini / "index.html", 400)
    arrow = "return getComputedStyle(document.querySelector('#results-all th .arrow'), '::after').content"
    assert browser.execute_script(arrow) == '"↕"'
    browser.find_element("css selector", "#results-all thead th:first-child button").click()
    told = browser.find_element("id", "announced")
    assert told.get_attribute("aria-live") == "polite"
    assert told.get_attribute("textContent").startswith("Sorted by method")


def test_a_runs_files_and_command_are_at_hand(browser, mini: Path) -> None:  # type: ignore[no-untyped-def]
    view(browser, mini / "index.html", 1280)
    browser.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    run = browser.find_element("css selector", "#runs-bsgal .run")
    assert [link.text for link in run.find_elements("css selector", ".run-files a")] == ["metrics.jsonl", "record.json"]
    command = run.find_element("css selector", ".command code").text
    assert command.startswith("harness run ")
    assert "method=bsgal" in command
    run.find_element("css selector", "button.copy").click()  # either copies or selects, and complains of nothing
    assert browser.get_log("browser") == []
    contents = browser.find_elements("css selector", ".contents a")
    assert contents[0].text == "Results"
    assert contents[-1].text == "Runs"


AXE = "axe-core@4.10.3"


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Deque's accessibility checks, to be run in a page."""
    if shutil.which("npm") is None:
        pytest.skip("npm is missing: apt-get install npm")
    folder = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, check=True, capture_output=True, text=True)
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        content = archive.extractfile("package/axe.min.js")
        assert content is not None
        return content.read().decode()


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light")])
@pytest.mark.parametrize("page", ["mini", "compared", pytest.param("paper_main", marks=pytest.mark.slow)])
def test_axe_finds_nothing_serious(browser, axe: str, request, page: str, width: int, scheme: str) -> None:  # type: ignore[no-untyped-def]
    """The third has 1203 categories."""
    folder: Path = request.getfixturevalue("mini" if page == "compared" else page)
    if page == "compared":
        folder = compare_command("xpaste-s0", "bsgal-s0", folder.parent / "runs", folder.parent / "compared")
    browser.set_script_timeout(540)
    browser.command_executor.client_config.timeout = 560
    view(browser, folder / "index.html", width, scheme)
    browser.execute_script("document.querySelectorAll('details:first-of-type').forEach(each => { each.open = true; })")
    browser.execute_script(axe)
    found = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run().then(r => done([r.passes.length, r.violations.map(v => [v.impact, v.id, v.nodes[0].html])]))"
    )
    assert found[0] > 20  # rules that had something to check
    assert [each for each in found[1] if each[0] in ("serious", "critical")] == []


def test_categories_are_searched_and_two_rows_chosen(browser, mini: Path) -> None:  # type: ignore[no-untyped-def]
    view(browser, mini / "index.html", 1280)
    names = "return [...document.querySelectorAll('#categories tbody th')].map(cell => cell.textContent)"
    assert len(browser.execute_script(names)) == 24
    browser.find_element("id", "category-search").send_keys("rare")
    assert len(browser.execute_script(names)) == 8
    assert browser.find_element("id", "category-count").text == "8 of 24"
    circles = browser.find_elements("css selector", "#scatter circle")
    assert len(circles) == 24
    assert {each.get_attribute("class") for each in circles} == {"rare", "common", "frequent"}

    chosen = browser.find_element("id", "row-b")
    before = browser.find_element("css selector", "#categories tbody td:nth-child(4)").text
    chosen.find_element("css selector", "option:nth-child(2)").click()
    assert browser.find_element("css selector", "#categories tbody td:nth-child(4)").text != before
    runs = [
        pd.read_parquet(path) for path in sorted(mini.parent.glob("runs/baseline_continued-s*/per_category.parquet"))
    ]
    boxes = [run[run["iou_type"] == "bbox"].set_index("name")["AP"] for run in runs]
    first = browser.find_element("css selector", "#categories tbody th").text
    mean = sum(100 * each[first] for each in boxes) / len(boxes)
    shown = browser.find_element("css selector", "#categories tbody tr td:nth-child(4)").text
    assert float(shown) == pytest.approx(mean, abs=0.06)
    assert browser.get_log("browser") == []


def test_pictures_of_both_rows_and_judged_instances(browser, mini: Path) -> None:  # type: ignore[no-untyped-def]
    view(browser, mini / "index.html", 1280)
    drawn = browser.find_elements("css selector", "#pictures figure")
    assert [each.text.split(" category")[0] for each in drawn] == ["truth", "X-Paste", "Oracle"] * 2
    assert all(each.find_elements("css selector", "path.outline") for each in drawn)
    loaded = "return [...document.querySelectorAll('.instances img')].map(image => image.naturalWidth)"
    browser.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert browser.execute_script(loaded) == [40] * 8  # four of each of the two rows that judge
    words = browser.find_element("css selector", ".instances li").text
    assert "clean" in words
    assert "+0.100" in words
    card = browser.find_elements("css selector", "#methods ~ .cards .card")
    assert "Made up: bsgal." in " ".join(each.text for each in card)


def test_the_front_page_leads_to_every_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mini: Path) -> None:
    from reports.command import report_command

    monkeypatch.chdir(tmp_path)
    runs = mini.parent / "runs"
    (tmp_path / "mine.yaml").write_text("title: Mine & others\nrows: {bsgal: {}}\ncolumns: [AP_box]")
    for name in ("mini", "mine.yaml"):
        report_command(name, runs, ["html"])
    front = (tmp_path / "report" / "index.html").read_text()
    assert '<a href="mine/index.html">Mine &amp; others</a>' in front
    assert front.index("mine/index.html") < front.index("mini/index.html")  # the newest first
