"""Commands whose output does not fit on the disk: one sentence, a code that tells of it, and no half file."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.commands.data_score_pool import score_pool
from harness.errors import ending_in_a_sentence
from harness.record.manifest import ExpectedRun, Manifest, write_manifest
from harness.record.record import Record, Status, write_record
from harness.weights.file import write_weights
from tests.command_line import Ended, harness
from tests.conftest import SmallMini
from tests.evaluate.made_detections import REAL
from tests.reports import made_up
from tests.small_training import TINY, Trained

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """So much room in memory."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(tmp_path_factory.mktemp("disk"), "4m") as folder:
        yield folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    made_up.write_mini(folder)
    return folder


def empty(disk: Path) -> None:
    gc.collect()  # a deleted file that an earlier test's traceback holds open still takes its room
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def files(disk: Path) -> list[str]:
    """What is there and not empty."""
    return sorted(path.name for path in disk.rglob("*") if path.is_file() and path.stat().st_size)


def fill(disk: Path, left: int = 0) -> None:
    """All but so many bytes, in pages of 4096."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.ftruncate(file.fileno(), max(file.tell() - left, 0))


def on_full(disk: Path, words: list[str], cwd: Path, left: int = 0, environment: dict[str, str] | None = None) -> Ended:
    """What the command says; it leaves no file."""
    empty(disk)
    fill(disk, left)
    ended = harness(*words, cwd=cwd, environment=environment)
    assert files(disk) == ["filler"], words
    return ended


def is_said(ended: Ended) -> None:
    assert ended.code == 1, ended
    said = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, ended.err
    assert ended.err.splitlines()[-1] == said[0]
    assert "Traceback" not in ended.err
    assert any(words in said[0] for words in ("No space left on device", "no space left", "cannot be written")), said


REPORTS = {
    "report": "report mini --runs RUNS --out DISK/report",
    "report, csv": "report mini --runs RUNS --out DISK/report --format csv",
    "report, tex": "report mini --runs RUNS --out DISK/report --format tex",
    "compare": "compare bsgal-s0 xpaste-s0 --runs RUNS --out DISK/compared",
}
DATA = {
    "methods new": "methods new my_rule --folder DISK/mine",
    "data show": "data show mini --n 2 --out DISK/sheet.png",
    "data show --method": "data show mini --method xpaste --n 2 --set data.pool=clean --out DISK/sheet.png",
    "data index-pool": "data index-pool POOL --workers 1 --out DISK/pool.arrow",
    "data export": "data export POOL DISK/pool.parquet",
    "data merge-pools": "data merge-pools POOL POOL --out DISK/pool.json",
    "data subset-pool": "data subset-pool POOL --out DISK/pool.arrow",
    "data subset-pool, parquet": "data subset-pool POOL --out DISK/pool.parquet",
    "data make-pool": "data make-pool PICTURES --by index --out DISK/pool.json",
    "data pack-pool": "data pack-pool POOL --out DISK/pool.zip",
    "data pool-stats": "data pool-stats data=mini data.pool=clean --out DISK/stats.png",
    "mini dataset": "data check data=mini data.root=DISK/mini",
    "evaluate": f"evaluate RESULTS -a {REAL} --iou bbox --json DISK/figures.json",
    "sweep": "sweep mini runs_dir=DISK/runs launcher.parallel=1",
}  # fmt: skip


@pytest.mark.parametrize("words", REPORTS.values(), ids=REPORTS)
@pytest.mark.parametrize("left", [0, 3 * 4096])
def test_reports(words: str, left: int, disk: Path, runs: Path, tmp_path: Path) -> None:
    """Where a first small file fits and the page does not, what is there is whole."""
    empty(disk)
    fill(disk, left)
    ended = harness(*words.replace("RUNS", str(runs)).replace("DISK", str(disk)).split(), cwd=tmp_path)
    if left == 0 or ended.code:
        is_said(ended)
    assert not list(disk.rglob("*.part"))
    assert left or files(disk) == ["filler"]


@pytest.mark.parametrize("words", DATA.values(), ids=DATA)
def test_data_and_methods(words: str, disk: Path, mini_root: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    names = {
        "DISK": disk,
        "POOL": mini_root / "pools" / "clean.json",
        "PICTURES": _pictures(tmp_path),
        "RESULTS": tmp_path / "results.json",
    }
    for name, path in names.items():
        words = words.replace(name, str(path))
    is_said(on_full(disk, words.split(), tmp_path))


def _pictures(folder: Path) -> Path:
    """RGBA pictures of category 0."""
    import cv2

    (folder / "pictures" / "0").mkdir(parents=True)
    cv2.imwrite(str(folder / "pictures" / "0" / "a.png"), np.full((8, 8, 4), 255, np.uint8))
    return folder / "pictures"


def test_weights(disk: Path, trained_baseline: Trained, tmp_path: Path) -> None:
    final = next((trained_baseline.runs / trained_baseline.record.run_id / "checkpoint").glob("final.pt"))
    for name in ("w.pth", "w.pkl"):
        for left in (0, 2**20):
            is_said(on_full(disk, ["weights", "convert", str(final), str(disk / name)], tmp_path, left))


def test_a_tensor_that_does_not_fit_is_lack_of_space(disk: Path) -> None:
    """Torch hides the system's words."""
    empty(disk)
    for name in ("w.pth", "w.pkl"):
        with pytest.raises(OSError, match=r"No space left on device: .*w\.p"):
            write_weights(disk / name, {"a": torch.zeros(2**21)})
    assert not list(disk.rglob("*w.p*"))


OF_A_RUN = {
    "predict": "predict PICTURE --run RUN --runs RUNS --out DISK/drawn",
    "embed": "embed --run RUN --runs RUNS --pool clean --size 32 --out DISK/e.npy",
    "score": "score --run RUN --runs RUNS --pool clean --hosts 1 --per-category 1 --out DISK/s.csv",
}


@pytest.mark.parametrize("words", OF_A_RUN.values(), ids=OF_A_RUN)
def test_looking_back(words: str, disk: Path, trained_baseline: Trained, mini_root: Path, tmp_path: Path) -> None:
    names = {
        "DISK": str(disk),
        "PICTURE": str(next((mini_root / "coco" / "val2017").iterdir())),
        "RUNS": str(trained_baseline.runs),
        "RUN": trained_baseline.record.run_id,
    }
    for name, value in names.items():
        words = words.replace(name, value)
    is_said(on_full(disk, words.split(), tmp_path))


def test_scores_of_a_pool(disk: Path, small: SmallMini) -> None:
    empty(disk)
    fill(disk)
    said = r"error: .*scored\.json: cannot be written .No space left on device.; free some"
    with pytest.raises(SystemExit, match=said), ending_in_a_sentence():
        score_pool(small.paths.folder / "pools" / "half_bad.json", disk / "scored.json", small.annotations, Alike())
    assert files(disk) == ["filler"]


class Alike:
    """CLIP of one dimension."""

    def images(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.ones(len(pictures), 1)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.ones(len(texts), 1)


def test_a_run_that_fills_the_disk_and_resumes_when_there_is_room(mini_root: Path, tmp_path: Path) -> None:
    """Its decisions are drawn then, where there is room for that."""
    steps = ["method=random_selection", "data.pool=half_bad", "schedule.iterations=6", "schedule.checkpoint_every=2"]
    with mounted(tmp_path / "disk", "16m") as disk:  # for one checkpoint, not for two
        words = ["run", *TINY, *steps, f"runs_dir={disk}/runs"]
        assert_no_space(harness(*words, cwd=tmp_path), disk)
        (folder,) = (disk / "runs").iterdir()
        (kept,) = (folder / "checkpoint").iterdir()
        assert kept.name == "000000002"
        before = contents(folder)
        fill(disk)
        assert_no_space(harness(*words, cwd=tmp_path), disk)
        assert contents(folder) == before
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        ended = harness(*words, cwd=tmp_path)
        assert ended.code == 0, ended
        assert "resuming from step 2" in ended.err
        fill(disk)
        sheet = ["decisions", folder.name, "--runs", str(disk / "runs"), "--sheet", str(disk / "sheet.png")]
        assert_no_space(harness(*sheet, cwd=tmp_path), disk)
        assert not (disk / "sheet.png").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_no_space(ended: Ended, disk: Path) -> None:
    """One sentence with the place and the remedy, and no half file."""
    assert ended.code == 1, ended
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: "), ended.err
    assert all(words in last for words in (str(disk), "o space left on", "free some")), last
    assert "Traceback" not in ended.err
    assert not list(disk.rglob(".*"))


def test_a_run_and_what_is_remembered_of_files(disk: Path, mini_root: Path, tmp_path: Path) -> None:
    """Neither the run's folder nor the cache of annotations takes anything."""
    short = ["run", "method=baseline", "schedule.iterations=1", "evaluation.limit=1", "data.workers=0"]
    ended = on_full(disk, [*short, f"runs_dir={disk}/runs"], tmp_path)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert "o space left" in ended.err
    stats = ["data", "pool-stats", "data=mini", "data.pool=clean", f"data.cache={disk}/cache"]
    is_said(on_full(disk, stats, tmp_path))
    doctor = on_full(disk, ["doctor"], tmp_path, environment={"BSGAL_BENCH_CACHE": str(disk / "cache")})
    assert "Traceback" not in doctor.err


@pytest.mark.parametrize("command", ["cancel", "retry", "status"])
def test_a_sweep_that_is_there(command: str, disk: Path, tmp_path: Path) -> None:
    """`status` needs no room; what would write says so, and the manifest stays as it was."""
    empty(disk)
    manifest = Manifest("s", "", None, [ExpectedRun("a-1", "x", ["method=baseline", "schedule.iterations=1"], {})])
    write_manifest(disk, manifest)
    write_record(disk, Record("a-1", "x", Status.failed, {"method": "baseline"}))
    before = {path: path.read_bytes() for path in disk.rglob("*.json")}
    fill(disk)
    ended = harness(command, "s", "--runs", str(disk), cwd=tmp_path)
    assert ended.code == (0 if command == "cancel" else 1), ended  # nothing is left to be cancelled
    assert "Traceback" not in ended.err + ended.out
    assert {path: path.read_bytes() for path in before} == before
