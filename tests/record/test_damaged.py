"""Records and manifests that others wrote, or half wrote: named, shown as what they are, the others beside them."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from harness.launch.select import select
from harness.launch.state import State
from harness.record.manifest import ExpectedRun, Manifest, read_manifest, read_manifests, write_manifest
from harness.record.reading import Damaged, is_name, read_yaml
from harness.record.record import Record, Status, read_record, read_records, record_path, write_record
from reports.command import report_command

GOOD = asdict(Record("a-1", "bsgal", Status.complete, {"method": "bsgal", "seed": 0}, {"bbox": {"AP": 40.0}}))
DAMAGED: dict[str, Any] = {
    "a list": [],
    "a word": "complete",
    "without a status": {"run_id": "a-1", "name": "x"},
    "of another status": GOOD | {"status": "done"},
    "of another run": GOOD | {"run_id": "b-1"},
    "of a run elsewhere": GOOD | {"run_id": "../../a-1"},
    "a number for a name": GOOD | {"name": 5},
    "a name of several lines": GOOD | {"name": "bsgal\n\x1b[2J"},
    "a name of 10 MB": GOOD | {"name": "x" * 10**7},
    "a key of two lines": GOOD | {"metrics": {"bbox": {"a\nb": "high"}}},
    "metrics in words": GOOD | {"metrics": {"bbox": {"AP": "high"}}},
    "costs in words": GOOD | {"cost": {"iterations": "many"}},
    "fingerprints as a list": GOOD | {"provenance": {"fingerprints": ["x"]}},
    "methods' files as a number": GOOD | {"settings": {"method_paths": 3}},
}
BYTES = {
    "empty": b"",
    "cut off": json.dumps(GOOD).encode()[:-9],
    "latin-1": json.dumps(GOOD | {"name": "Müller"}, ensure_ascii=False).encode("latin-1"),
    "half a surrogate": json.dumps(GOOD | {"name": "\ud800"}).encode(),
    "deep": b"[" * 100_000,
    "binary": bytes(range(256)),
    **{name: json.dumps(content).encode() for name, content in DAMAGED.items()},
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_a_damaged_record_is_named_and_the_others_stay(content: bytes, tmp_path: Path) -> None:
    write_record(tmp_path, Record("b-2", "other", Status.complete))
    for name in ("a-1", "b-2"):
        (tmp_path / name / "claim").mkdir(parents=True)
    record_path(tmp_path, "a-1").write_bytes(content)
    with pytest.raises(Damaged, match=r"a-1/record\.json is not a record .*; delete the file") as told:
        read_record(tmp_path, "a-1")
    assert "\n" not in str(told.value)
    damaged, other = read_records(tmp_path)
    assert (damaged.run_id, damaged.status) == ("a-1", Status.failed)
    assert other.status is Status.complete
    rows = {row.run.run_id: row for row in select(tmp_path, [])}
    assert rows["b-2"].state is State.complete
    assert rows["a-1"].state is State.failed
    assert rows["a-1"].failure_kind == "damaged record"
    assert "is not a record" in rows["a-1"].reason


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a-1").mkdir()
    os.mkfifo(record_path(tmp_path, "a-1"))
    with pytest.raises(Damaged, match="not a regular file"):
        read_record(tmp_path, "a-1")


def a_manifest(**changes: Any) -> dict[str, Any]:
    resources = {"name": "local", "gpus": 0, "nodes": 1, "setup": [], "sbatch": {}}
    run = asdict(ExpectedRun("a-1", "bsgal", ["method=bsgal"], {"seed": "0"}, resources=resources))
    return asdict(Manifest("s", "", None, [])) | {"runs": [run | changes]}


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "../a-1"}, {"run_id": "javascript:alert(1)"}, {"run_id": "-rf"}, {"run_id": ""}, {"run_id": "a/b"},
        {"overrides": "method=bsgal"}, {"axes": [1]}, {"parents": ["../x"]}, {"iterations": "x"},
        {"resources": {"setup": "rm -rf ~"}}, {"resources": {"gpus": "two"}}, {"choices": {"a": []}},
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_named_and_the_others_stay(changes: dict[str, Any], tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest("other", "", None, [ExpectedRun("b-2", "x", [], {})]))
    write_manifest(tmp_path, Manifest("s", "", None, []))
    path = tmp_path / "sweeps" / "s" / "manifest.json"
    path.write_text(json.dumps(a_manifest()))
    assert read_manifest(tmp_path, "s") is not None
    path.write_text(json.dumps(a_manifest(**changes)))
    with pytest.raises(Damaged, match=r"s/manifest\.json is not a manifest .*`harness sweep s`"):
        read_manifest(tmp_path, "s")
    assert [manifest.sweep for manifest in read_manifests(tmp_path)] == ["other"]
    assert [row.run.run_id for row in select(tmp_path, [])] == ["b-2"]


def test_a_report_shows_a_damaged_record_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [ExpectedRun(f"{name}-1", name, [f"method={name}", "seed=0"], {"seed": "0"}) for name in ("bsgal", "xpaste")]
    write_manifest(tmp_path, Manifest("mini", "", None, runs))
    report_command("mini", tmp_path, ["csv", "md", "html"])  # a manifest alone, and nothing has begun
    (tmp_path / "bsgal-1").mkdir()
    record_path(tmp_path, "bsgal-1").write_text("{")
    folder = report_command("mini", tmp_path, ["csv", "md", "html"])
    line = next(line for line in (folder / "table.csv").read_text().splitlines() if line.startswith("bsgal,"))
    assert "1 failed" in line


@pytest.mark.parametrize("name", ["a", "mini_2", "bsgal-small-s0-0123abcdef", "größe", "a.b+c"])
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-rf", "a/b", "a,b", "%j", "a b", "x:y", "a\n", "a" * 201])
def test_no_names(name: str) -> None:
    assert not is_name(name)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(9)), "aliases"),
        ("a: &a [*a]\n", "aliases"),
        ("[" * 5000, "contain themselves"),
        ("a: [", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: 2024-99-99", "not valid YAML"),
        ("é".encode("latin-1"), "not UTF-8"),
    ],
)
def test_yaml_that_hangs_or_is_none(text: str | bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Damaged, match=rf"sweep\.yaml.*{why}"):
        read_yaml(path)
    path.write_text("a: &a [1, 2]\nb: *a\n")
    assert read_yaml(path) == {"a": [1, 2], "b": [1, 2]}
