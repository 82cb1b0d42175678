from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.detector.sampling import FederatedClasses, RandomProposals, federated_weights
from tests.detector.small import generator


def test_proposals_are_sampled_by_count_and_share() -> None:
    foreground = torch.zeros(3, 100, dtype=torch.bool)
    foreground[0, :40] = True  # more than a quarter of 32
    foreground[1, :3] = True  # fewer
    present = torch.ones(3, 100, dtype=torch.bool)
    present[2, 10:] = False  # fewer proposals than wanted
    foreground[2, 8:30] = True
    foreground &= present
    indices, kept = RandomProposals(32, 0.25)(foreground, present, generator())
    assert kept.sum(1).tolist() == [32, 32, 10]
    for i, (many, most) in enumerate([(8, 32), (3, 32), (2, 10)]):
        chosen = indices[i][kept[i]]
        assert len(set(chosen.tolist())) == most
        assert foreground[i][chosen].sum() == many
        assert present[i][chosen].all()


def test_every_background_proposal_is_as_likely() -> None:
    foreground = torch.zeros(1, 50, dtype=torch.bool)
    foreground[0, :10] = True
    present = torch.ones_like(foreground)
    seen = np.zeros(50)
    for seed in range(2000):
        indices, kept = RandomProposals(12, 0.25)(foreground, present, generator(seed))
        seen[indices[kept].numpy()] += 1
    share = seen / 2000
    np.testing.assert_allclose(share[:10], 3 / 10, atol=0.04)
    np.testing.assert_allclose(share[10:], 9 / 40, atol=0.04)


def test_federated_classes_are_topped_up_with_background_counted() -> None:
    draw = FederatedClasses(torch.ones(200), 50)
    for background in (False, True):
        appeared = torch.zeros(201, dtype=torch.bool)
        appeared[[1, 2, 3]] = True
        appeared[200] = background
        counted = draw(0, appeared, generator())
        assert counted[[1, 2, 3]].all()
        assert counted.sum() == (49 if background else 50)


def test_no_draw_once_enough_appear() -> None:
    appeared = torch.zeros(201, dtype=torch.bool)
    appeared[:60] = True
    assert FederatedClasses(torch.ones(200), 50)(0, appeared, generator()).equal(appeared[:-1])


def test_few_classes_all_count_and_weightless_ones_never() -> None:
    weights = torch.tensor([1.0, 0.0, 4.0])
    counted = FederatedClasses(weights, 50)(0, torch.zeros(4, dtype=torch.bool), generator())
    assert counted.tolist() == [True, False, True]


def test_federated_odds_are_those_of_a_draw_without_replacement() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    draw = FederatedClasses(weights, 2)
    pairs = np.zeros((4, 4))
    trials = 6000
    rng = generator()
    for _ in range(trials):
        first, second = draw(0, torch.zeros(5, dtype=torch.bool), rng).nonzero().squeeze(1).tolist()
        pairs[first, second] += 1
    p = (weights / weights.sum()).numpy().astype(float)
    for i in range(4):
        for j in range(i + 1, 4):
            expected = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
            assert abs(pairs[i, j] / trials - expected) < 0.025


@pytest.mark.parametrize(("images", "weight"), [(None, 10.0), (9, 3.0)])
def test_extra_classes_count_as_the_commonest_or_as_they_are_told(images: int | None, weight: float) -> None:
    counts = torch.tensor([1, 100, 4])
    assert federated_weights(counts, 5, 0.5, images).tolist() == [1.0, 10.0, 2.0, weight, weight]
    assert federated_weights(counts, 2, 0.5, images).tolist() == [1.0, 10.0]
