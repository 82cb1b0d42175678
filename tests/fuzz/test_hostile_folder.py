"""A folder of runs into which a stranger wrote every trick that we know of: whatever reads it ends within seconds and
4 GB, without a traceback, executes nothing, writes and quotes nothing that lies elsewhere, and shows the runs beside.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.record.manifest import ExpectedRun, Manifest, Submission
from harness.record.record import Record, Status
from tests.command_line import Ended, harness
from tests.reports import made_up

SECONDS, MORE_MEMORY = 60, 2**32
SECRET = "the password of the one who looks"
GOOD = ("bsgal-s0", "xpaste-s0")
METRICS = {kind: {"AP": 40.0, "APr": 30.0} for kind in ("bbox", "segm")}


def a_record(run_id: str, **changes: Any) -> dict[str, Any]:
    settings = {"method": "bsgal", "backbone": "resnet18", "seed": 7, "data.name": "mini", "name": "bsgal"}
    return asdict(Record(run_id, "bsgal", Status.complete, settings, METRICS)) | changes


RECORDS: dict[str, Any] = {  # by the run's folder; a text or bytes as they are
    "x-id-elsewhere": a_record("../../elsewhere"),
    "x-id-script": a_record("javascript:alert(1)"),
    "x-list": [],
    "x-number": 5,
    "x-null": None,
    "x-status": a_record("x-status", status={"a": 1}),
    "x-metrics": a_record("x-metrics", metrics={"bbox": {"AP": "high"}}),
    "x-metrics-list": a_record("x-metrics-list", metrics=[1]),
    "x-huge-number": json.dumps(a_record("x-huge-number")).replace("40.0", "1e999"),
    "x-digits": json.dumps(a_record("x-digits")).replace("40.0", "9" * 100_000),
    "x-cost": a_record("x-cost", cost={"train_seconds": -1e308, "iterations": 0, "wall_seconds": float("inf")}),
    "x-time": a_record("x-time", started=1e300, ended=-1e300),
    "x-seed": a_record("x-seed", settings={"method": "bsgal", "seed": 10**40}),
    "x-markup": a_record("x-markup", name="[/x][link=file:///etc/passwd]"),
    "x-latex": a_record("x-latex", name="\\input{/etc/passwd}$_^&%#"),
    "x-html": a_record("x-html", name="<!--<script>alert(1)</script>"),
    "x-formula": a_record("x-formula", name="=cmd|' /C calc'!A0"),
    "x-format": a_record("x-format", name="{name:>2000000000}"),
    "x-escape": a_record("x-escape", name="\x1b]0;title\x07"),
    "x-long": a_record("x-long", name="x" * 10**7),
    "x-plugin": a_record("x-plugin", settings={"method": "evil", "method_paths": ["EVIL"]}),
    "x-failure": a_record("x-failure", status="failed", failure={"kind": "[/]", "message": "\x1b[2J" * 1000}),
    "x-fingerprints": a_record("x-fingerprints", provenance={"fingerprints": "x", "hardware": 3, "packages": [1]}),
    "x-curve": a_record("x-curve", curve=[{"iteration": "x"}, 5]),
    "x-schema": a_record("x-schema", schema=10**9),
    "x-latin": json.dumps(a_record("x-latin", name="Müller"), ensure_ascii=False).encode("latin-1"),
    "x-cut": json.dumps(a_record("x-cut"))[:-20],
    "x-nul": json.dumps(a_record("x-nul")).encode().replace(b"bsgal", b"bs\0al"),
    "x-nuls": bytes(5000),
    "x-deep": "[" * 10**6,
    "x-twice": '{"run_id": "x-twice", "run_id": "y"}' * 2,
    "x-empty": b"",
}
MANIFESTS: dict[str, Any] = {
    "m-other": {"sweep": "../other"},
    "m-parents": {"runs": [asdict(ExpectedRun("x-late", "x", [], {}, ["../../x"]))]},
    "m-cycle": {"runs": [asdict(ExpectedRun(a, "x", [], {}, [b])) for a, b in (("x-a", "x-b"), ("x-b", "x-a"))]},
    "m-setup": {"runs": [asdict(ExpectedRun("x-setup", "x", [], {}, [], {"setup": ["touch EXECUTED"]}))]},
    "m-job": {
        "runs": [asdict(ExpectedRun("x-job", "x", ["method_paths=[EVIL]", "method=evil"], {}))],
        "submissions": [asdict(Submission("m-job-1", "/", "slurm", ["x-job"], ["1; touch EXECUTED"], 1.0))],
    },
    "m-script": {"runs": [asdict(ExpectedRun("javascript:alert(1)", "x", [], {}))]},
    "m-many": {"runs": [asdict(ExpectedRun("x-same", "x", [], {}))] * 2000},
    "m-report": {
        "report": "mini",
        "runs": [asdict(ExpectedRun("x-none", "[/x]", ["seed=[/]"], {"seed": "\\input{x}"}))],
    },
}
BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(12))


def _a_good_run(runs: Path, method: str, seed: int, gain: float) -> Record:
    rng, folder = np.random.default_rng(seed), runs / f"{method}-s{seed}"
    folder.mkdir(parents=True)
    made_up.write_matches(folder, rng, gain)
    made = made_up.record(method, seed, made_up.matched_figures(folder), cost=made_up.cost(method, rng, 200, 0.1))
    made_up.write_run(runs, made, rng, categories=24, steps=20)
    made_up.write_pictures(folder, rng, judges=True)
    made_up.write_metrics(folder, rng, 200)
    return made


def _of_other_images(path: Path) -> None:
    table = pq.read_table(path)
    moved = pa.array(table["image"].to_numpy() + 10**6)
    pq.write_table(table.set_column(table.column_names.index("image"), "image", moved), path)


def _with_a_picture_from_elsewhere(path: Path) -> None:
    content = json.loads(path.read_text())
    content["images"][0]["file"] = "../../../secret.png"
    path.write_text(json.dumps(content))


def _pointing_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parents[3] / "secret")


DAMAGES: dict[str, Callable[[Path], object]] = {  # of files that a good run left
    "confidence-s1/matches.parquet": _of_other_images,
    "confidence-s1/per_category.parquet": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "bsgal-s1/decisions.parquet": lambda path: path.write_bytes(b"PAR1"),
    "confidence-s1/metrics.jsonl": lambda path: path.write_text('{"iteration": 1, "loss": 2}\n{"loss": "x"}\n'),
    "confidence-s1/learning_curve.json": lambda path: path.write_text("[1]"),
    "confidence-s1/gallery/gallery.json": _with_a_picture_from_elsewhere,
    "confidence-s0/gallery/1.jpg": _pointing_elsewhere,
}


def _file(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, (dict, list, int)) or content is None:
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _inflates(path: Path) -> None:
    """A thousand times its size, as a checkpoint whose tensors they are."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(2**26))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/, and beside it what must not be touched or told."""
    place = tmp_path_factory.mktemp("shared")
    runs = place / "runs"
    gains = {"xpaste": 0.0, "bsgal": 1.0, "confidence": 2.0}
    good = [_a_good_run(runs, method, seed, gain) for method, gain in gains.items() for seed in (0, 1)]
    made_up.write_sweep(runs, "mini", good)
    (place / "secret").write_text(SECRET)
    evil, executed = place / "evil.py", place / "executed"
    evil.write_text(f"open({str(executed)!r}, 'w')\n")
    words = {"EVIL": str(evil), "EXECUTED": str(executed)}

    def named(content: Any) -> Any:
        text = json.dumps(content)
        for word, path in words.items():
            text = text.replace(word, path)
        return json.loads(text)

    for name, content in RECORDS.items():
        _file(runs, f"{name}/record.json", named(content) if isinstance(content, dict) else content)
        _file(runs, f"{name}/config.yaml", BOMB)
    for name, changes in MANIFESTS.items():
        whole = asdict(Manifest(name, "", None, [])) | changes
        _file(runs, f"sweeps/{name}/manifest.json", named(whole))
    _file(runs, "sweeps/m-cut/manifest.json", b'{"sweep": "m-cut", "runs": [')
    _pipes_and_links(place, runs)
    _file(runs, "x-bomb/record.json", a_record("x-bomb"))
    _file(runs, "x-bomb/config.yaml", (runs / "x-null" / "config.yaml").read_bytes())
    (runs / "x-bomb" / "checkpoint").mkdir()
    _inflates(runs / "x-bomb" / "checkpoint" / "final.pt")
    return place


def _pipes_and_links(place: Path, runs: Path) -> None:
    for name in ("record.json", "metrics.jsonl", "log.txt", "config.yaml", "cancelled", "claim/000001/owner.json"):
        run = f"x-pipe-{name.split('.')[0].replace('/', '-')}"
        (runs / run / name).parent.mkdir(parents=True, exist_ok=True)
        if name != "record.json":
            _file(runs, f"{run}/record.json", a_record(run, status="running"))
        os.mkfifo(runs / run / name)
    for name in ("matches.parquet", "ground_truth.parquet", "decisions.parquet", "per_category.parquet", "gallery"):
        run = f"x-pipe-{name.split('.')[0]}"
        _file(runs, f"{run}/record.json", a_record(run))
        os.mkfifo(runs / run / name)
    (runs / "sweeps" / "m-pipe").mkdir()
    os.mkfifo(runs / "sweeps" / "m-pipe" / "manifest.json")
    for run, target in (("x-link", place / "secret"), ("x-loop", Path("record.json")), ("x-device", Path("/dev/zero"))):
        (runs / run).mkdir()
        (runs / run / "record.json").symlink_to(target)
    (runs / "x-folder" / "record.json").mkdir(parents=True)
    (runs / "x-around").symlink_to(runs)
    (runs / "x-root").symlink_to("/")
    for name, damage in DAMAGES.items():
        damage(runs / name)
    log = runs / GOOD[0] / "log.txt"
    log.write_bytes(b"\x1b]0;owned\x07 a line\n")
    for name in ("x\n", "[bold]", "-rf", "a,b", "%j", "é" * 60):
        _file(runs, f"{name}/record.json", a_record("x-null"))


@contextmanager
def limited() -> Iterator[None]:
    """The memory that this process may take further, and the seconds that it may go on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    earlier = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_MEMORY, earlier[1]))

    def over(*_: object) -> None:
        raise AssertionError(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, earlier)


def run(place: Path, *words: str) -> Ended:
    before = {path for path in place.iterdir() if path.name != "report"}
    with limited():
        ended = harness(*words, "--runs", str(place / "runs"), cwd=place)
    said = ended.out + ended.err
    assert "Traceback" not in said, (words, said[-2000:])
    assert SECRET not in said
    assert "\x1b]0" not in said
    assert not (place / "executed").exists(), words
    assert {path for path in place.iterdir() if path.name != "report"} == before, words
    return ended


WHOLE: dict[str, Callable[[Ended], bool]] = {
    "status": lambda ended: ended.code == 3 and "x-a" in ended.out,
    "status --json": lambda ended: {"x-a", "x-none"} <= {row["run_id"] for row in json.loads(ended.out)},
    "status --cost": lambda ended: ended.code == 3,
    "logs bsgal-s0": lambda ended: "]0;owned" in ended.out,
    "power mini": lambda ended: ended.code == 0,
    "compare bsgal-s0 xpaste-s0": lambda ended: ended.code == 0,
}


@pytest.mark.parametrize("words", WHOLE)
def test_what_reads_the_whole_folder(place: Path, words: str) -> None:
    ended = run(place, *words.split())
    assert WHOLE[words](ended), ended


def test_a_report_is_of_what_is_whole(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    ended = run(place, "report", "mini")
    assert ended.code == 0, ended
    folder = place / "report" / "mini"
    page, latex, table = ((folder / name).read_text() for name in ("index.html", "table.tex", "table.csv"))
    assert "Faults and scores" in page
    assert "bsgal-s0" in page
    assert SECRET not in page
    assert 'href="javascript:' not in page
    assert "<script>alert" not in page
    assert "\\input{" not in latex
    assert not any(cell.startswith("=") for line in table.splitlines() for cell in line.split(","))
    for name in DAMAGES:
        assert f"runs/{name}" in page, name
    assert len(caplog.messages) == len(set(caplog.messages))
    assert "data:image/jpeg" in page


OF_ONE = ("decisions", "predict nothing.png --run", "score --run", "embed --run", "compare bsgal-s0", "logs", "status")


@pytest.mark.parametrize("words", OF_ONE)
def test_what_reads_one_run(place: Path, words: str) -> None:
    """Of every strange run in turn; each ends in a sentence."""
    names = sorted(path.name for path in (place / "runs").glob("x-*"))
    chosen = (
        names[::2] if words.startswith("compare") else [*names[::9], "x-bomb", "x-plugin", "x-pipe-config", "x-around"]
    )
    for name in chosen:
        ended = run(place, *words.split(), name)
        if ended.code and words.split()[0] not in ("status", "logs"):
            assert len([line for line in ended.err.splitlines() if line.startswith("error: ")]) == 1, (name, ended)
