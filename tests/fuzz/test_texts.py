"""What people write by hand or on the command line: sweep files, report specs, options."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from harness.compose import compose
from harness.data.mini.stamp import read_stamp
from harness.errors import UserError
from harness.launch.sweepfile import read
from reports.spec import FOLDER, read_spec
from tests.fuzz.hostile import VALUES, changed, changed_bytes, fuzz, refused

pytestmark = pytest.mark.timeout(600)
SWEEP = Path(str(files("sweeps"))) / "mini.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def _sweep(path: Path) -> None:
    with refused(path.name, UserError):
        read(path)


def _spec(path: Path) -> None:
    with refused(path.name, ValueError):  # reports know nothing of the harness's errors
        read_spec(str(path))


def _dumped(content: Any) -> str:
    return yaml.safe_dump(content, allow_unicode=True)


@fuzz(50, changed(yaml.safe_load(SWEEP.read_text())))
def test_sweeps(folder: Path, content: Any) -> None:
    (folder / "sweep.yaml").write_text(_dumped(content), errors="replace")
    _sweep(folder / "sweep.yaml")


@fuzz(50, changed_bytes(SWEEP.read_bytes()))
def test_bytes_of_sweeps(folder: Path, content: bytes) -> None:
    (folder / "sweep.yaml").write_bytes(content)
    _sweep(folder / "sweep.yaml")


@fuzz(50, changed(yaml.safe_load((FOLDER / "mini.yaml").read_text())))
def test_specs(folder: Path, content: Any) -> None:
    (folder / "spec.yaml").write_text(_dumped(content), errors="replace")
    _spec(folder / "spec.yaml")


@fuzz(60, changed_bytes((FOLDER / "mini.yaml").read_bytes()))
def test_bytes_of_specs(folder: Path, content: bytes) -> None:
    (folder / "spec.yaml").write_bytes(content)
    _spec(folder / "spec.yaml")


KEYS = (
    "seed", "threads", "name", "runs_dir", "weights", "init_from", "needed_runs", "data.size", "data.root", "data.pool",
    "data.workers", "data.paste.rotation", "detector.channels", "detector.strides", "detector.nms", "schedule.lr",
    "schedule.iterations", "schedule.clip_value", "schedule.checkpoint_every", "schedule.global_batch",
    "schedule.profile", "evaluation.limit", "launcher.nodes", "launcher.memory_gb", "launcher.setup", "launcher.sbatch",
    "launcher.comment",
    "engine.overrides", "method.threshold", "method", "backbone", "recipe", "schedule", "nothing",
)  # fmt: skip


@fuzz(3, st.sampled_from(KEYS), st.sampled_from(VALUES) | st.text(max_size=12))
def test_options(key: str, value: Any) -> None:
    text = "null" if value is None else str(value)
    for override in (f"{key}={text}", f"{key}='{text}'"):
        with refused("", UserError):
            compose(["method=bsgal", override])


@fuzz(60, changed_bytes(b'{"recipe": {"version": 1}, "files": {"pools/x.json": null, "coco/a.png": null}}'))
def test_stamps_of_mini(folder: Path, content: bytes) -> None:
    (folder / "mini.json").write_bytes(content)
    stamp = read_stamp(folder)
    if stamp is not None:
        stamp.is_whole(folder, {"version": 1})
        assert not any(".." in name or name.startswith("/") for name in stamp.files)
