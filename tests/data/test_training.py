"""The training data: equal in every process, paired views, reference images, and clear errors."""

import multiprocessing
import os
import pickle
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.config import MaskTargets, RunConfig
from harness.data.dataset import Dataset
from harness.data.facts import TrainingFacts
from harness.data.pool.pool import InstancePool
from harness.data.sample import Batch, Outlines, views_in
from harness.data.testing import evaluation_images, evaluation_indices
from harness.data.training import TrainingData, training_loader
from harness.data.transport import pack, unpack
from harness.errors import UserError
from harness.training.skips import SkipMonitor
from methods.contract import (
    DatasetFacts,
    Draw,
    ImageFacts,
    Method,
    PasteRule,
    Pool,
    concatenated,
    uniform_over_categories,
)


@dataclass
class Pasting(Method):
    """Pastes from the pool and asks for a reference image of a drawn category."""

    pastes = True
    max_samples: int = 8

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        return uniform_over_categories(pool, rng, self.max_samples)

    def reference(self, draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int | None:
        assert draw.image is not None
        wanted = draw.categories if len(draw.categories) else draw.image.categories
        images = dataset.images_of(int(rng.choice(wanted)))
        return int(rng.choice(images)) if len(images) else None


@dataclass
class Mixing(Method):
    """Training instances as they lie beside generated ones."""

    pastes = True

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        return dataset.join(dataset.instance_pool(), pool)

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        real = np.flatnonzero(pool.column("image") >= 0)
        return concatenated(
            [
                Draw(rows=rng.choice(real, 3), rules=PasteRule.AS_IT_LIES),
                Draw(rows=rng.integers(len(real), len(pool), 3)),
            ]
        )


@dataclass
class Plain(Method):
    """No pasting."""


def training_data(config: RunConfig, method: Method) -> TrainingData:
    dataset = Dataset(config.data)
    return TrainingData(dataset, config.seed, method, dataset.prepared_pool(method, config.seed))


def prepare_pool(config: RunConfig, method: Method) -> InstancePool:
    return Dataset(config.data).prepared_pool(method, config.seed)


def batches(small, method: Method, config: RunConfig, **place: int) -> list[Batch]:
    return list(training_loader(training_data(config, method), config.schedule, **place))


def tensors(value: object) -> list[Tensor]:
    """Everything in a sample, flat."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Batch):
        return tensors(value.samples)
    if isinstance(value, list):
        return [t for item in value for t in tensors(item)]
    if value is None or isinstance(value, int | dict | tuple):
        return []
    return [t for item in vars(value).values() for t in tensors(item)]


def equal(first: object, second: object) -> bool:
    one, two = tensors(first), tensors(second)
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("method", [Pasting(), Mixing(), Plain()], ids=lambda method: type(method).__name__)
def test_workers_do_not_change_the_data(small, method: Method) -> None:
    alone = batches(small, method, small.config(method, workers=0))
    assert len(alone) == 3
    assert [sample.position for batch in alone for sample in batch.samples] == list(range(12))
    for workers in (1, 2):
        others = batches(small, method, small.config(method, workers=workers))
        assert all(equal(a, b) for a, b in zip(alone, others, strict=True))
    resumed = batches(small, method, small.config(method), start_iteration=2)
    assert equal(resumed[0], alone[2])


def test_ranks_make_the_batch_of_one_process(small) -> None:
    method = Pasting()
    config = small.config(method)
    alone = batches(small, method, config)
    config.schedule = replace(config.schedule, batch_per_rank=2)
    ranks = [batches(small, method, config, rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(alone):
        assert equal(batch, Batch(ranks[0][step].samples + ranks[1][step].samples))


def test_batches_of_one_shape(small) -> None:
    known = small.annotations
    config = small.config(Pasting(), aspect_grouping=True, iterations=8)
    alone = batches(small, Pasting(), config)
    for batch in alone:
        shapes = {bool(known.widths[s.image_index] > known.heights[s.image_index]) for s in batch.samples}
        assert len(shapes) == 1
    workers = batches(small, Pasting(), small.config(Pasting(), aspect_grouping=True, iterations=8, workers=2))
    assert all(equal(a, b) for a, b in zip(alone, workers, strict=True))
    assert equal(batches(small, Pasting(), config, start_iteration=5)[0], alone[5])


def test_views_with_polygons_travel_and_train(small) -> None:
    config = small.config(Plain(), mask_targets=MaskTargets.polygon, workers=1)
    (first, *_) = batches(small, Plain(), config)
    usual = batches(small, Plain(), small.config(Plain()))[0]
    for sample, other in zip(first.samples, usual.samples, strict=True):
        outlines = sample.original.targets.masks
        assert isinstance(outlines, Outlines)
        assert torch.equal(sample.original.image, other.original.image)
        assert outlines.full().sum() == other.original.targets.masks.full().sum()


def test_pasting_never_changes_the_original_view(small) -> None:
    plain = batches(small, Plain(), small.config(Plain()))
    pasting = batches(small, Pasting(), small.config(Pasting()))
    assert all(equal(a.original, b.original) for a, b in zip(plain, pasting, strict=True))
    assert not any(batch.has_pasted.any() for batch in plain)
    assert all(batch.augmented == batch.original for batch in plain)


def data_of(small, method: Method, **data: object) -> TrainingData:
    config = small.config(method, **data)
    return training_data(config, method)


@pytest.mark.parametrize("method", [Pasting(), Mixing()], ids=lambda method: type(method).__name__)
def test_what_a_sample_promises(small, method: Method) -> None:
    data = data_of(small, method)
    samples = [data[position] for position in range(40)]
    assert any(sample.augmented for sample in samples)
    for sample in samples:
        if sample.augmented is None:
            continue
        own = sample.augmented.targets
        assert own.pasted.any()
        assert torch.equal(own.pasted, own.pool_row >= 0)
        rows = own.pool_row[own.pasted]
        assert set(rows.tolist()) <= set(sample.drawn_rows.tolist())
        assert own.labels[own.pasted].tolist() == data.pool.categories[rows.numpy()].tolist()
        full = own.masks.full()
        assert (full[own.pasted].sum(0) <= 1).all()
        assert not (full[own.pasted].any(0) & full[~own.pasted].any(0)).any()
        for view in (sample.original, sample.augmented):
            assert view.image.is_contiguous()
            assert (view.targets.boxes[:, 2:] > view.targets.boxes[:, :2]).all()
            assert view.targets.masks.size == view.size


def test_reference_images_hold_what_was_asked_for(small) -> None:
    data = data_of(small, Pasting())
    samples = [data[position] for position in range(30)]
    assert sum(len(sample.references) for sample in samples) > 20
    for sample in samples:
        for view in sample.references:
            assert view is not None
            assert len(view.targets)
            assert not view.targets.pasted.any()
    assert all(data_of(small, Plain())[p].references == () for p in range(5))


@dataclass
class KeepsEmptied(Pasting):
    """Keeps reference images that the crop left without instances."""

    def keeps_emptied_references(self) -> bool:
        return True


def test_emptied_reference_images_stay_for_a_method_that_keeps_them(small) -> None:
    near = {"scale_min": 5.0, "scale_max": 6.0}  # crops that miss instances
    usual, keeping = data_of(small, Pasting(), **near), data_of(small, KeepsEmptied(), **near)
    pairs = [(usual[position].references[0], keeping[position].references[0]) for position in range(100)]
    emptied = [kept for left_out, kept in pairs if left_out is None]
    assert emptied
    assert all(kept is not None and len(kept.targets) == 0 for kept in emptied)
    assert all(equal(left_out, kept) for left_out, kept in pairs if left_out is not None)


def test_a_batch_travels_whole(small) -> None:
    batch = batches(small, Pasting(), small.config(Pasting(), iterations=1))[0]
    again = unpack(pack(batch))
    assert equal(batch.samples, again.samples)
    copied = again.block.clone()
    elsewhere = again.moved(views_in(again.block, copied))
    assert equal(batch.samples, elsewhere.samples)
    elsewhere.samples[0].original.targets.boxes.zero_()
    assert not torch.equal(copied, again.block), "every tensor is a view of the one copy"
    again.samples[0].original.image.zero_()  # writable


def test_prepared_pools(small, tmp_path: Path) -> None:
    config = small.config(Pasting(), pool=None)
    with pytest.raises(UserError, match=r"Pasting pastes instances: give data\.pool=PATH"):
        prepare_pool(config, Pasting())
    with pytest.raises(UserError, match=r"half_bed.*half_bad"):
        prepare_pool(small.config(Pasting(), pool="half_bed"), Pasting())
    with pytest.raises(UserError, match=r"extra\.json.*category 27.*num_classes=28"):
        prepare_pool(small.config(Pasting(), pool="extra"), Pasting())
    extended = prepare_pool(small.config(Pasting(), pool="extra", num_classes=28), Pasting())
    assert extended.present_categories[-1] == 27
    assert len(prepare_pool(config, Plain())) == 0
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(UserError, match=r"empty\.json: method Pasting leaves none of 0 instances"):
        prepare_pool(small.config(Pasting(), pool=str(tmp_path / "empty.json")), Pasting())


def test_extra_categories_are_pasted_by_the_free_rule(small) -> None:
    data = data_of(small, Pasting(), pool="extra", num_classes=28)
    labels = [data[position].augmented for position in range(40)]
    found = np.concatenate([view.targets.labels[view.targets.pasted].numpy() for view in labels if view])
    assert (found >= 24).any()


def test_workers_are_forked_however_their_run_was_started(small, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that shares its job with others was spawned, and what it starts would be, too."""
    monkeypatch.setattr(
        "multiprocessing.context._default_context._actual_context", multiprocessing.get_context("spawn")
    )
    config = small.config(Pasting(), workers=1)
    loader = training_loader(training_data(config, Pasting()), config.schedule)
    next(loader)
    (worker,) = multiprocessing.active_children()
    assert isinstance(worker, multiprocessing.get_context("fork").Process)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_training_image_is_named(small, workers: int, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(small.paths.folder, root, ignore=shutil.ignore_patterns("instances", "cache"))
    config = small.config(Plain(), workers=workers, root=str(root))
    for image in (root / "coco" / "train2017").iterdir():
        os.truncate(image, 40)
    with pytest.raises(UserError, match=r"train2017/0+\d+\.png is damaged") as error:
        batches(small, Plain(), config)
    assert "Traceback" not in str(error.value)
    assert not multiprocessing.active_children(), "its workers have ended"
    shutil.rmtree(root / "coco" / "train2017")
    with pytest.raises(UserError, match=r"train2017/0+\d+\.png does not exist"):
        batches(small, Plain(), config)
    shutil.rmtree(root / "coco")
    with pytest.raises(UserError, match="coco does not exist"):
        batches(small, Plain(), config)


def test_an_exchanged_training_image_is_named(small, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(small.paths.folder, root, ignore=shutil.ignore_patterns("instances", "cache"))
    images = sorted((root / "coco" / "train2017").iterdir())
    odd = next(i for i in images[1:] if sizes(i) != sizes(images[0]))
    shutil.copy(images[0], odd)
    data = data_of(small, Plain(), root=str(root))
    index = small.annotations.file_names.tolist().index(f"train2017/{odd.name}")
    with pytest.raises(UserError, match="pixels, but its annotations say"):
        data.images.read(index)


def sizes(path: Path) -> tuple[int, ...]:
    import cv2

    return cv2.imread(str(path)).shape


def test_missing_pool_images_are_skipped_while_training(small, tmp_path: Path) -> None:
    pools = tmp_path / "pools"
    shutil.copytree(small.paths.folder / "pools", pools)
    for image in sorted((pools / "instances").rglob("*.png"))[::2]:
        image.unlink()
    method = Pasting()
    config = small.config(method, pool=str(pools / "clean.json"), iterations=40)
    monitor = SkipMonitor()

    def train() -> None:
        for batch in batches(small, method, config):
            monitor.update(batch)

    with pytest.raises(UserError, match="could not be used"):
        train()
    assert set(monitor.by_fault()) == {"missing file"}


# -------------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_images(small) -> None:
    config = small.config(Plain(), workers=2)
    dataset = Dataset(config.data)
    annotations = dataset.val
    indices = evaluation_indices(dataset, None)
    found = list(evaluation_images(dataset, indices))
    assert [index for index, _, _ in found] == list(range(len(annotations.image_ids)))
    for index, image, size in found:
        assert size == (annotations.heights[index], annotations.widths[index])
        assert image.dtype == torch.uint8
        assert min(image.shape[1:]) == 64 or max(image.shape[1:]) == 80
    shares = [list(evaluation_indices(dataset, 5, rank, 2)) for rank in range(2)]
    assert shares == [[0, 2, 4], [1, 3]]


def test_facts_are_those_of_the_contract(small) -> None:
    facts: DatasetFacts = TrainingFacts(small.annotations, small.paths.folder)
    assert facts.num_categories == len(facts.frequency) == len(facts.image_count) == 24
    assert facts.images_of(99).tolist() == []
    for image in range(5):
        for category in facts.categories_of(image):
            assert image in facts.images_of(int(category))


def test_workers_can_be_spawned(small) -> None:
    """What a spawned worker is handed is small, and gives the same samples."""
    data = data_of(small, Mixing())
    handed = pickle.dumps(data)
    assert len(handed) < 50_000
    assert all(equal(pickle.loads(handed)[position], data[position]) for position in (0, 7))
