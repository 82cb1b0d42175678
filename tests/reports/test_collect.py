from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.record.record import Status, write_record
from reports.collect import Collection, collect
from reports.spec import read_spec
from tests.reports.made_up import record, write_sweep

SPEC = """
rows:
  baseline: {}
  bsgal: {label: BSGAL}
baseline: baseline
"""


def collected(folder: Path, spec: str = SPEC) -> Collection:
    (folder / "small.yaml").write_text(spec)
    return collect(read_spec(str(folder / "small.yaml")), folder / "runs")


def states(collection: Collection, row: str) -> dict[int, tuple[str, str]]:
    return {int(entry["seed"]): (entry["state"], entry["stale"]) for entry in collection.runs_of(row)}


def figures(ap: float) -> dict[str, dict[str, float | None]]:
    return {"bbox": {"AP": ap, "APr": None}, "segm": {"AP": ap - 4}}


def test_expected_runs_without_a_record_are_missing_and_failures_stay(tmp_path: Path) -> None:
    made = [record(name, seed, figures(40.0)) for name in ("baseline", "bsgal") for seed in (0, 1, 2)]
    made[4].status = Status.failed
    for run in made[:5]:
        write_record(tmp_path / "runs", run)
    write_sweep(tmp_path / "runs", "any", made, report="small")
    found = collected(tmp_path)
    assert states(found, "baseline") == dict.fromkeys((0, 1, 2), ("complete", ""))
    assert states(found, "bsgal") == {0: ("complete", ""), 1: ("failed", ""), 2: ("missing", "")}
    assert found.sweeps == ["any"]


def test_without_a_manifest_seeds_that_other_rows_have_are_missing(tmp_path: Path) -> None:
    for name, seeds in (("baseline", (0, 1)), ("bsgal", (1,))):
        for seed in seeds:
            write_record(tmp_path / "runs", record(name, seed, figures(40.0)))
    assert states(collected(tmp_path), "bsgal") == {0: ("missing", ""), 1: ("complete", "")}


def test_code_older_than_the_newest_record_is_stale(tmp_path: Path) -> None:
    old = record("baseline", 0, figures(40.0), provenance={"code": "old"}, ended=1.0)
    new = record("bsgal", 0, figures(41.0), provenance={"code": "new"}, ended=2.0)
    for run in (old, new):
        write_record(tmp_path / "runs", run)
    found = collected(tmp_path)
    assert states(found, "baseline") == {0: ("complete", "code changed")}
    assert states(found, "bsgal") == {0: ("complete", "")}


def test_a_changed_configuration_makes_the_old_record_stale_until_the_new_one_is_there(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_record(runs, record("bsgal", 0, figures(40.0), run_id="bsgal-old"))
    expected = record("bsgal", 0, figures(42.0), run_id="bsgal-new")
    write_sweep(runs, "small", [expected])
    before = collected(tmp_path)
    assert states(before, "bsgal") == {0: ("complete", "configuration changed")}
    assert list(before.complete("bsgal")["AP_box"]) == [40.0]

    write_record(runs, expected)
    after = collected(tmp_path)
    assert states(after, "bsgal") == {0: ("complete", "")}
    assert list(after.complete("bsgal")["AP_box"]) == [42.0]
    listed = after.frame[after.frame["row"] == "bsgal"]
    assert sorted(listed["run_id"]) == ["bsgal-new", "bsgal-old"]  # superseded, yet not dropped


def test_runs_that_the_sweep_does_not_expect_are_listed_and_not_counted(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed in (0, 9):
        write_record(runs, record("bsgal", seed, figures(40.0 + seed)))
    write_sweep(runs, "small", [record("bsgal", 0)])
    found = collected(tmp_path)
    assert states(found, "bsgal") == {0: ("complete", "")}
    assert found.frame["superseded"].sum() == 1


def test_each_gives_a_row_for_every_value_in_numerical_order(tmp_path: Path) -> None:
    spec = "rows: {random: {label: 'rate {method_rate}', where: {method: random_selection}, each: method.rate}}"
    for rate in (0.25, 1.0, 0.5):
        write_record(tmp_path / "runs", record("random_selection", 0, figures(40.0), {"method.rate": rate}))
    assert [row.label for row in collected(tmp_path, spec).rows] == ["rate 0.25", "rate 0.5", "rate 1"]


def test_a_value_that_runs_of_other_sweeps_alone_have_makes_no_row(tmp_path: Path) -> None:
    spec = "rows: {random: {label: 'rate {method_rate}', where: {method: random_selection}, each: method.rate}}"
    made = [record("random_selection", 0, figures(40.0), {"method.rate": rate}) for rate in (0.25, 0.5)]
    for each in made:
        write_record(tmp_path / "runs", each)
    write_sweep(tmp_path / "runs", "small", made[:1])
    assert [row.label for row in collected(tmp_path, spec).rows] == ["rate 0.25"]


def test_a_run_made_by_another_sweep_bears_the_name_that_this_one_gives_it(tmp_path: Path) -> None:
    made = record("bsgal", 0, figures(40.0))
    write_record(tmp_path / "runs", replace(made, name="elsewhere"))
    write_sweep(tmp_path / "runs", "small", [made])
    assert states(collected(tmp_path), "bsgal") == {0: ("complete", "")}


def test_a_label_with_an_unknown_field_is_named(tmp_path: Path) -> None:
    spec = "rows: {random: {label: 'rate {method_rat}', where: {method: random_selection}, each: method.rate}}"
    write_record(tmp_path / "runs", record("random_selection", 0, figures(40.0), {"method.rate": 0.5}))
    with pytest.raises(ValueError, match=r"\{method_rat\}.*may name \{method_rate\}"):
        collected(tmp_path, spec)


def test_groups_and_filters(tmp_path: Path) -> None:
    spec = "group: {backbone: {a: A, b: B}}\nfilters: {data.name: mini}\nrows: {bsgal: {}}"
    for backbone, data in (("a", "mini"), ("b", "mini"), ("c", "mini"), ("a", "lvis_v1")):
        write_record(tmp_path / "runs", record("bsgal", 0, figures(40.0), {"backbone": backbone, "data.name": data}))
    found = collected(tmp_path, spec)
    assert [(row.key, row.group) for row in found.rows] == [("bsgal-a", "a"), ("bsgal-b", "b")]
    assert len(found.frame) == 2


def test_values_with_one_heading_share_a_table(tmp_path: Path) -> None:
    """A row that the sweep has in other tables alone is left out of one."""
    spec = "group: {data.pool: {clean: Clean, bad: Bad, bad_oracle: Bad}}\nrows: {xpaste: {}, oracle: {}, bsgal: {}}"
    pools = (("xpaste", "clean"), ("xpaste", "bad"), ("oracle", "bad_oracle"))
    made = [record(name, 0, figures(40.0), {"data.pool": pool}) for name, pool in pools]
    for run in made:
        write_record(tmp_path / "runs", run)
    planned = ["xpaste-clean", "xpaste-bad", "oracle-bad"]
    found = collected(tmp_path, spec)
    assert [row.key for row in found.with_runs(found.rows)] == planned
    write_sweep(tmp_path / "runs", "any", made, report="small")
    found = collected(tmp_path, spec)
    assert [row.key for row in found.rows if "bsgal" not in row.key] == planned


def test_no_record_at_all_gives_empty_rows(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    found = collected(tmp_path)
    assert [row.key for row in found.rows] == ["baseline", "bsgal"]
    assert found.complete("bsgal").empty
