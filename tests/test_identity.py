"""A run's name follows from contents and from what the result depends on, not from places or bookkeeping."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.compose import compose
from harness.errors import UserError
from harness.identity import fingerprints, identify


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
