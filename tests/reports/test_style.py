"""What tells the rows of a figure apart, and what a method card says of options."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reports.cards import method_cards
from reports.collect import collect
from reports.spec import read_spec
from reports.style import marker, stroke
from tests.reports import made_up


def test_twenty_rows_look_different() -> None:
    assert len({str(stroke(place)) for place in range(20)}) == 20
    assert len({(stroke(place)["color"], marker(place)) for place in range(20)}) == 20


def test_a_card_names_defaults_that_differ_in_value(tmp_path: Path) -> None:
    run = made_up.record("bsgal", 0, settings={"method.tau": 21, "method.scope": "all", "method.window": None})
    run.provenance["method"] = {"about": "", "options": {"tau": "21.0", "scope": "last", "window": "null"}}
    made_up.write_run(tmp_path / "runs", run, np.random.default_rng(0))
    (tmp_path / "one.yaml").write_text("rows: {bsgal: {}}\ncolumns: [AP_box]")
    spec = read_spec(str(tmp_path / "one.yaml"))
    (card,) = method_cards(spec, collect(spec, tmp_path / "runs"))
    assert dict(card.options) == {"tau": "21", "scope": "all (default last)", "window": "—"}
