"""A run's name follows from contents and from what the result depends on, not from places or bookkeeping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.compose import compose
from harness.config import DataConfig
from harness.data.dataset import Dataset
from harness.data.mini.make import make_mini
from harness.errors import UserError
from harness.run.identity import fingerprints, identify


def name_of(*overrides: str) -> str:
    return identify(compose(["data=mini", *overrides]).config)


@pytest.mark.usefixtures("mini_root")
@pytest.mark.parametrize("option", ["weights", "backbone.weights"])
def test_weights_count_by_their_contents(option: str, tmp_path: Path) -> None:
    for name, content in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (name_of(f"{option}={tmp_path / name}") for name in ("one", "same", "other"))
    assert one == same
    assert len({one, other, name_of()}) == 3
    assert option in fingerprints(compose(["data=mini", f"{option}={tmp_path / 'one'}"]).config)
    with pytest.raises(UserError, match=f"{option}: .*none does not exist"):
        name_of(f"{option}={tmp_path / 'none'}")


def test_a_pool_counts_by_its_entries_and_columns(mini_root: Path, tmp_path: Path) -> None:
    (tmp_path / "pool.json").write_bytes((mini_root / "pools" / "half_bad.json").read_bytes())
    columns = tmp_path / "pool.columns.csv"
    names = [name_of("method=xpaste", f"data.pool={tmp_path / 'pool.json'}")]
    for score in (20, 30):
        columns.write_text(f"category,path,clip_score\n0,a.png,{score}\n")
        names.append(name_of("method=xpaste", f"data.pool={tmp_path / 'pool.json'}"))
    assert len(set(names)) == 3
    assert names[0] == name_of("method=xpaste", "data.pool=half_bad")


PLUGIN = """
from dataclasses import dataclass, field
from pathlib import Path
from methods.contract import Method
from methods.registry import register


@register("reads_in_secret")
@dataclass
class ReadsInSecret(Method):
    table: str = ""
    lists: list[str] = field(default_factory=list)
    declared: str = ""

    def files(self):
        return {"declared": Path(self.declared)} if self.declared else {}
"""


@pytest.mark.usefixtures("mini_root")
def test_a_file_that_would_not_count_is_refused(tmp_path: Path) -> None:
    file, plugin = tmp_path / "table.csv", tmp_path / "reads_in_secret.py"
    file.write_text("1")
    plugin.write_text(PLUGIN)
    of_plugin = ["method=reads_in_secret", f"method_paths=[{plugin}]"]
    for override in (f"method.table={file}", f"method.lists=[a,{file}]"):
        with pytest.raises(UserError, match=r"table\.csv is a file whose contents are not part .*InSecret\.files"):
            name_of(*of_plugin, override)
    assert name_of(*of_plugin, "method.table=no_file") != name_of(*of_plugin)
    assert name_of(*of_plugin, f"method.declared={file}") != name_of(*of_plugin)


@pytest.mark.usefixtures("mini_root")
def test_a_stage_is_named_by_the_pool_and_the_detector_not_by_what_trains() -> None:
    own = name_of("stage=score", "init_from=parent")
    assert own.startswith("score-resnet18-s0-")
    assert name_of("stage=score", "init_from=parent", "method=bsgal", "schedule.lr=9", "evaluation.limit=3") == own
    others = ["data.pool=clean", "stage.hosts=3", "seed=1", "detector.fc_width=8", "init_from=other", "stage=embed"]
    assert len({own, *(name_of("stage=score", "init_from=parent", other) for other in others)}) == 1 + len(others)


@pytest.mark.usefixtures("mini_root")
def test_places_launching_and_bookkeeping_do_not_count() -> None:
    elsewhere = ["runs_dir=elsewhere", "launcher=slurm", "launcher.cpus=7", "data.workers=1", "name=row"]
    assert name_of(*elsewhere, "schedule.checkpoint_every=3", "schedule.log_every=1") == name_of()


@pytest.mark.usefixtures("mini_root")
@pytest.mark.parametrize(
    "override", ["seed=1", "schedule.batch_per_rank=4", "threads=2", "detector.nms=0.4", "train=false"]
)
def test_what_the_result_depends_on_counts(override: str) -> None:
    further = ["init_from=parent"] if override == "train=false" else []
    assert name_of(override, *further) != name_of(*further)


def engine_name(config: Path | str, *overrides: str) -> str:
    texts = ",".join(f'"{text}"' for text in overrides)
    return name_of("engine=detectron2", f"engine.config={config}", f"engine.overrides=[{texts}]")


CONFIGURATIONS = {
    "detectron2": ("model.yaml", "_BASE_: base.yaml\nMODEL: {MASK_ON: true}", "base.yaml", "MODEL: {DEVICE: %s}"),
    "mmdet": ("model.py", "_base_ = ['base.py', 'mmdet::lvis/shipped.py']\nmodel = {}", "base.py", "depth = '%s'"),
    "mmdet, two steps": ("a/model.py", "_base_ = './middle.py'", "base.py", "depth = '%s'"),
    "read_base": ("model.py", "with read_base():\n    from .common.base import *", "common/base.py", "depth = '%s'"),
    "LazyConfig": ("a/model.py", "from ..common import base, absent", "common/base.py", "depth = '%s'"),
}


@pytest.mark.usefixtures("mini_root")
@pytest.mark.parametrize(("name", "text", "base", "content"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_an_engine_s_configuration_counts_with_its_bases(
    name: str, text: str, base: str, content: str, tmp_path: Path
) -> None:
    def written(place: str, value: str) -> Path:
        files = {name: text, base: content % value, "a/middle.py": "_base_ = ('../base.py',)"}
        for file, inside in files.items():
            (tmp_path / place / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place / file).write_text(inside)
        return tmp_path / place / name

    one, elsewhere, other = written("one", "x"), written("elsewhere", "x"), written("other", "y")
    assert engine_name(one) == engine_name(elsewhere) != engine_name(other)
    (tmp_path / "one" / base).unlink()
    if "absent" in text:
        return  # a name of a package that is no file is the framework's to judge
    with pytest.raises(UserError, match=r"engine\.config: .* builds on .*base\.(py|yaml), which does not exist"):
        engine_name(one)


@pytest.mark.usefixtures("mini_root")
@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", "MODEL: {: ["), ("a.py", "model = ("), ("b.yaml", b"\xff\xfe\xfa")]
)
def test_a_configuration_that_cannot_be_read_is_a_user_error(name: str, text: str | bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=name):
        engine_name(tmp_path / name)


@pytest.mark.usefixtures("mini_root")
def test_files_in_an_engine_s_settings_count_by_their_contents(tmp_path: Path) -> None:
    for name, content in (("one.pth", b"1"), ("same.pth", b"1"), ("other.pth", b"2")):
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.py").write_text(f"model = dict(backbone=dict(checkpoint='{tmp_path / name}'))")
    shipped = "Base-RCNN-FPN.yaml"
    one, same, other = (
        engine_name(shipped, f"MODEL.WEIGHTS={tmp_path / name}") for name in ("one.pth", "same.pth", "other.pth")
    )
    assert one == same != other
    assert engine_name(shipped, "MODEL.WEIGHTS=none.pth") != engine_name(shipped, "MODEL.WEIGHTS=no.pth")
    nested = engine_name(shipped, f"model.init_cfg={{type: Pretrained, checkpoint: {tmp_path / 'one.pth'}}}")
    assert nested != engine_name(shipped, f"model.init_cfg={{type: Pretrained, checkpoint: {tmp_path / 'other.pth'}}}")
    before = engine_name(tmp_path / "one.pth.py")
    (tmp_path / "one.pth").write_bytes(b"3")
    assert engine_name(tmp_path / "one.pth.py") != before


def test_columns_beside_a_pool_count(write_pool: Callable[[str], Path], tmp_path: Path) -> None:
    pool, columns = write_pool('{"0": ["a.png"]}'), tmp_path / "pool.columns.csv"
    names = []
    for content in ("", "category,path,clip_score\n0,a.png,20\n", "category,path,clip_score\n0,a.png,30\n"):
        if content:
            columns.write_text(content)
        names.append(name_of("method=xpaste", f"data.pool={pool}"))
    assert len(set(names)) == 3
    assert name_of("method=baseline", f"data.pool={pool}") == name_of("method=baseline")


def test_columns_of_the_embedded_dataset_count_where_they_were_changed(tmp_path: Path) -> None:
    paths = make_mini(tmp_path / "mini", train_images=24, val_images=12, pool_instances=2)
    dataset = Dataset(DataConfig("mini", str(tmp_path / "mini"), pool="half_bad"))
    dataset.__dict__["root"] = paths.folder  # of another size than data=mini would make
    assert dataset.pool_columns_file is None
    columns = paths.columns("half_bad")
    columns.write_text(columns.read_text() + "\n")
    assert dataset.pool_columns_file == columns
