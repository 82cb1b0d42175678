"""Repeat factor sampling and the order of samples, by definition."""

import numpy as np
import pytest

from harness.data.sample_order import SampleOrder, batch_positions, grouped_positions, repeat_factors
from harness.errors import UserError


def test_repeat_factors_by_definition(small) -> None:
    threshold = 0.1
    factors = repeat_factors(small.facts, threshold)
    for image in range(small.facts.num_images):
        shares = [len(small.facts.images_of(c)) / small.facts.num_images for c in small.facts.categories_of(image)]
        expected = max((max(1, np.sqrt(threshold / share)) for share in shares), default=0)
        assert factors[image] == pytest.approx(expected)
    assert factors.max() > 1
    assert set(repeat_factors(small.facts, 0).tolist()) <= {0.0, 1.0}


def test_facts_agree_with_the_annotations(small) -> None:
    known = small.annotations
    for category in range(small.facts.num_categories):
        images = np.unique(known.annotation_images[known.annotation_categories == category])
        assert small.facts.images_of(category).tolist() == images.tolist()
        assert small.facts.image_count[category] == len(images)


def test_an_epoch_holds_every_image_its_factor_of_times() -> None:
    factors = np.array([0, 1, 2.5, 1.25])
    order = SampleOrder(factors, seed=3)
    order.image_at(2000)
    counts = []
    for epoch in range(200):
        start, stop = order._starts[epoch : epoch + 2]
        images = [order.image_at(position) for position in range(start, stop)]
        counts.append(np.bincount(images, minlength=4))
    assert set(np.unique(np.array(counts)[:, 2])) == {2, 3}
    np.testing.assert_allclose(np.mean(counts, 0), factors, atol=0.15)


def test_any_position_is_reached_directly() -> None:
    factors = 1 + np.random.default_rng(0).random(50)
    whole = SampleOrder(factors, seed=1)
    stream = [whole.image_at(position) for position in range(1000)]
    for position in (999, 0, 512):
        assert SampleOrder(factors, seed=1).image_at(position) == stream[position]
    assert [SampleOrder(factors, seed=2).image_at(p) for p in range(50)] != stream[:50]


def test_ranks_share_the_order_of_one_process() -> None:
    alone = list(batch_positions(3, 6, 8, 0, 1))
    ranks = [list(batch_positions(3, 6, 2, rank, 4)) for rank in range(4)]
    for step, batch in enumerate(alone):
        assert [position for rank in ranks for position in rank[step]] == batch


def test_nothing_to_train_on() -> None:
    with pytest.raises(UserError, match="no instance"):
        SampleOrder(np.zeros(4), seed=0)


def groups_one_by_one(order: SampleOrder, wide: np.ndarray, size: int, number: int) -> list[list[int]]:
    """Two buckets that are emptied when they are full."""
    buckets: dict[bool, list[int]] = {False: [], True: []}
    full, position = [], 0
    while len(full) < number:
        bucket = buckets[bool(wide[order.image_at(position)])]
        bucket.append(position)
        if len(bucket) == size:
            full.append(bucket.copy())
            bucket.clear()
        position += 1
    return full


def test_batches_of_one_shape_are_a_function_of_the_order() -> None:
    """Over several epochs, for any rank and start, as buckets filled one by one."""
    factors = np.random.default_rng(0).uniform(1, 3, 23)
    wide = np.arange(23) % 3 > 0
    expected = groups_one_by_one(SampleOrder(factors, 4), wide, 4, 60)
    taken = [position for group in expected for position in group]
    assert len(set(taken)) == len(taken)
    for world in (1, 3):
        stop = 60 // world
        for start in (0, 7):
            ranks = [
                list(grouped_positions(SampleOrder(factors, 4), wide, start, stop, 4, rank, world))
                for rank in range(world)
            ]
            dealt = [group for step in zip(*ranks, strict=True) for group in step]
            assert dealt == expected[start * world :]


def test_an_epoch_of_lvis_is_grouped_in_a_moment() -> None:
    import time

    factors = np.ones(100_000)
    wide = np.random.default_rng(0).random(100_000) < 0.7
    order = SampleOrder(factors, 0)
    begun = time.process_time()
    batches = list(grouped_positions(order, wide, 99_000, 100_000, 4, 0, 1))  # in the fourth epoch
    assert len(batches) == 1000
    assert time.process_time() - begun < 5
