"""Composing configurations: what a user types wrongly is answered in one line that names the nearest valid word."""

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.compose import _composed_by_hydra, _composed_tree, compose, initialised, register_groups
from harness.config import cache_folder
from harness.errors import UserError


def test_overrides_reach_the_typed_configuration() -> None:
    composed = compose(["method=bsgal", "method.mode=paste_or_ori", "backbone=resnet50", "seed=3", "schedule.lr=0.1"])
    assert composed.config.seed == 3
    assert composed.config.schedule.lr == 0.1
    assert composed.config.method.mode.name == "paste_or_ori"
    assert composed.settings["method"] == "bsgal"
    assert composed.settings["backbone"] == "resnet50"
    assert composed.settings["method.mode"] == "paste_or_ori"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["recipe=bsgal_r50", "backbone=swin_l", "seed=3", "data.paste.blending=basic"],
        ["seed=1", "method=bsgal", "seed=2", "method.tau=0.1", "seed=1"],
        ["method.scores='a b.npy'", "method=confidence", "detector.strides=[8,16]", "name=a/b"],
        ["data=mini", "data.pool=null", "+launcher.extra.qos=high", "launcher=slurm"],
        ["data.root=${cache_dir}/x", "schedule=mini_continue", "init_from=abc"],
    ],
)
def test_kept_groups_compose_as_hydra_does(overrides: list[str]) -> None:
    compose([])  # keeps what groups make
    register_groups(overrides)
    with initialised():
        for _ in range(2):
            (tree, choices), (expected, chosen) = _composed_tree(overrides), _composed_by_hydra(overrides)
            assert tree == expected
            assert (choices, OmegaConf.is_struct(tree)) == (chosen, True)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=bsgl"], ["method=bsgl", "'bsgal'"]),
        (["backbone=resnet5"], ["'resnet50'"]),
        (["data=lvis"], ["'lvis_v1'"]),
        (["sead=1"], ["'sead'", "'seed'"]),
        (["method=bsgal", "method.mod=paste_only"], ["'method.mod'", "method=bsgal", "'method.mode'"]),
        (["method=bsgal", "method.mode=paste_onli"], ["method.mode", "'paste_only'"]),
        (["data.paste.blend=alpha"], ["'data.paste.blending'"]),
        (["seed=abc"], ["seed", "abc", "Integer"]),
        (["schedule.precision=bf17"], ["schedule.precision", "'bf16'"]),
        (["foo"], ["'foo'", "key=value"]),
        (["recipe=bsgl_r50"], ["'bsgal_r50'"]),
        (["recipe=bsgal_r50", "method=xpaste"], ["recipe=bsgal_r50 method=xpaste", "method.empty_reference"]),
        (["schedule.batch_per_rank=3"], ["schedule.global_batch=8", "schedule.batch_per_rank=3"]),
        (["train=false"], ["weights=FILE"]),
        (["threads=0"], ["threads=0", "at least 1"]),
        ([f"seed={10**23}"], ["seed=1", "at most"]),
        (["seed=-1"], ["seed=-1", "at least 0"]),
        (["schedule.lr=inf"], ["schedule.lr=inf", "finite"]),
        (["schedule.lr=nan"], ["schedule.lr=nan", "finite"]),
        (["schedule.checkpoint_every=0"], ["schedule.checkpoint_every=0", "at least 1"]),
        (["schedule.clip_value=-1"], ["schedule.clip_value=-1", "more than 0"]),
        (["detector.channels=0"], ["detector.channels=0", "at least 1"]),
        (["detector.channels=33"], ["detector.channels=33", "detector.head_groups"]),
        (["detector.strides=[8,.inf]"], ["detector.strides"]),
        (["evaluation.limit=-1"], ["evaluation.limit=-1", "at least 1"]),
        (["method=[0,0]"], ["'method=[0,0]': expected one word, such as method=NAME"]),
        (["method=bsgal", "method=null"], ["expected one word"]),
        (["recipe=null"], ["expected one word"]),
        (["launcher.nodes=0"], ["launcher.nodes=0", "at least 1"]),
        (["launcher.memory_gb=nan"], ["launcher.memory_gb=nan", "finite"]),
        (["launcher.cpus=0"], ["launcher.cpus=0"]),
        (["launcher.minutes=-1"], ["launcher.minutes=-1"]),
        (["launcher.parallel=0"], ["launcher.parallel=0"]),
        ([f"launcher.signal_seconds={10**12}"], ["launcher.signal_seconds"]),
        (["launcher.comment='a\nb'"], ["launcher.comment", "line breaks"]),
        (["data.scale_min=2", "data.scale_max=1"], ["data.scale_min=2", "data.scale_max=1"]),
        (["method_paths=[nowhere.py]"], ["nowhere.py", "does not exist"]),
        (["method_paths=['no,where.py']"], ["no,where.py does not exist"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        compose(overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_every_group_s_option_is_known_whether_it_was_given_or_not() -> None:
    choices = compose(["method=bsgal", "schedule=mini_continue"]).choices
    given = {"method": "bsgal", "schedule": "mini_continue"}
    defaults = {"stage": "none", "data": "mini", "detector": "small", "engine": "native"}
    defaults |= {"evaluation": "lvis", "launcher": "local"}
    assert choices == {**given, **defaults, "backbone": "resnet18", "recipe": None}


def test_the_cache_folder_is_the_user_s_or_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BSGAL_BENCH_CACHE", "~/elsewhere")
    assert compose([]).config.data.root == str(Path.home() / "elsewhere" / "mini")
    monkeypatch.delenv("BSGAL_BENCH_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder().name == "bsgal-bench"
    if sys.platform == "linux":
        assert cache_folder() == Path.home() / ".cache" / "bsgal-bench"


def test_a_method_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(UserError, match=r"broken\.py cannot be imported: ModuleNotFoundError"):
        compose([f"method_paths=[{tmp_path / 'broken.py'}]"])


def test_an_override_with_a_line_break_is_one_line() -> None:
    with pytest.raises(UserError) as told:
        compose(["seed=5\nP§w"])
    assert str(told.value).startswith(r"cannot read the override 'seed=5\nP§w': leave out its line breaks")
