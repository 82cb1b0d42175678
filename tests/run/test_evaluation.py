"""An evaluation that is stopped or killed goes on where it was, to the same figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from harness.compose import compose
from harness.config import EvaluationConfig, Precision
from harness.data.dataset import Dataset
from harness.data.testing import EvaluationImage, evaluation_images
from harness.engine.contract import Prediction
from harness.engine.native import NativeEngine
from harness.errors import UserError
from harness.evaluate.detections import Detections
from harness.run.evaluation import Evaluating
from harness.run.evaluation_shards import Shards, drop_shards
from harness.run.signals import Interrupted
from harness.training.distributed import Ranks
from methods.baseline import Baseline
from tests.conftest import SmallMini
from tests.detector.small import small_engine, view

INDICES = range(12)


class Watched(NativeEngine):
    """Counts the groups that it predicts."""

    groups = 0

    def predict(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        self.groups += 1
        return super().predict(images, sizes)


@pytest.fixture
def engine() -> Watched:
    made = small_engine(classes=24)
    return Watched(made.module, made.precision, made.channels_last)


@pytest.fixture
def images(small: SmallMini) -> Callable[[range], Iterable[EvaluationImage]]:
    return partial(evaluation_images, Dataset(small.config(Baseline()).data))


def never() -> bool:
    return False


def evaluating(
    small: SmallMini, engine: Watched, stop_after: int | None = None, batch: int = 2, minutes: float = 5.0
) -> Evaluating:
    config = EvaluationConfig(batch=batch, save_minutes=minutes, save_detections=True)
    asked = never if stop_after is None else lambda: engine.groups >= stop_after
    return Evaluating(config, Dataset(small.config(Baseline()).data).val, Ranks(), asked)


def written(found: object, folder: Path) -> dict[str, pd.DataFrame]:
    assert isinstance(found, tuple)
    evaluation, detections = found
    evaluation.write(folder)
    detections.write_parquet(folder / "detections.parquet")
    return {path.name: pd.read_parquet(path) for path in folder.glob("*.parquet")}


@pytest.mark.parametrize("stops", [(1,), (2, 4), (3, 5, 6)])
def test_stopped_it_goes_on_to_the_same_figures(
    stops: tuple[int, ...], small: SmallMini, engine: Watched, images: Callable, tmp_path: Path
) -> None:
    calm = written(evaluating(small, engine).run(engine, images, INDICES, tmp_path / "none"), tmp_path / "calm")
    assert engine.groups == 6
    assert len(calm["detections.parquet"]) > 20

    engine.groups = 0
    shards = tmp_path / "evaluation"
    for stop in stops:
        with pytest.raises(Interrupted, match="of this rank's 12 images"):
            evaluating(small, engine, stop_after=stop).run(engine, images, INDICES, shards)
    again = written(evaluating(small, engine).run(engine, images, INDICES, shards), tmp_path / "again")
    assert engine.groups < 6 * (1 + len(stops))
    assert calm.keys() == again.keys()
    for name in calm:
        pd.testing.assert_frame_equal(calm[name], again[name], check_exact=True)
    drop_shards(tmp_path)
    assert not shards.exists()


def test_it_saves_by_the_clock_and_nothing_is_predicted_twice(
    small: SmallMini, engine: Watched, images: Callable, tmp_path: Path
) -> None:
    evaluating(small, engine, minutes=0.0).run(engine, images, INDICES, tmp_path)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [f"rank0of1-{i:06d}-{i + 2:06d}.parquet" for i in range(0, 12, 2)]
    assert engine.groups == 6
    evaluating(small, engine).run(engine, images, INDICES, tmp_path)
    assert engine.groups == 6


def test_a_damaged_piece_and_what_comes_after_it_is_evaluated_again(
    small: SmallMini, engine: Watched, images: Callable, tmp_path: Path
) -> None:
    before = evaluating(small, engine, minutes=0.0).run(engine, images, INDICES, tmp_path / "evaluation")
    damaged = tmp_path / "evaluation" / "rank0of1-000004-000006.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    engine.groups = 0
    after = evaluating(small, engine).run(engine, images, INDICES, tmp_path / "evaluation")
    assert engine.groups == 4
    one, other = (written(found, tmp_path / name) for found, name in ((before, "before"), (after, "after")))
    for name in one:
        pd.testing.assert_frame_equal(one[name], other[name], check_exact=True)


def test_pieces_of_another_number_of_ranks_are_left_alone(tmp_path: Path) -> None:
    shards = Shards(tmp_path, Ranks(0, 2))
    shards.write(Detections.concatenate([]), 4)
    assert Shards(tmp_path, Ranks(0, 1)).read() == []
    assert Shards(tmp_path, Ranks(1, 2)).read() == []
    again = Shards(tmp_path, Ranks(0, 2))
    assert len(again.read()) == 1
    assert again.done == 4


def test_mixed_prediction_is_near_full_precision() -> None:
    full, mixed = (small_engine(classes=24, precision=Precision.bf16) for _ in range(2))
    mixed.predict_mixed = True
    image = view(3).image
    (one,), (other,) = (engine.predict([image], [(96, 96)]) for engine in (full, mixed))
    assert not torch.equal(one.scores, other.scores[: len(one.scores)])
    torch.testing.assert_close(one.scores[:3], other.scores[:3], rtol=0.05, atol=0.02)
    with pytest.raises(UserError, match=r"evaluation\.mixed needs engine=native"):
        compose(["engine=mmdet", "evaluation.mixed=true"])
