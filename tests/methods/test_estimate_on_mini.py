"""BSGAL's contribution against its definition, with the real detector on the embedded dataset.

In double precision, unnormalised, with the step's own reference gradient in place of the cache, all draws frozen.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.compose import compose
from harness.config import Precision
from harness.data import sources
from harness.data.facts import TrainingFacts
from harness.data.lvis import load_annotations
from harness.data.sample import Batch
from harness.data.training import TrainingData, cache_folder, prepare_pool
from harness.distributed import Ranks
from harness.engine.native import NativeEngine, build
from harness.step import StepPosition, TrainingStep
from methods.bsgal import BSGAL, CachePrecision, Estimator, ReferenceProposals
from methods.contract import Start

BATCHES, IMAGES, LR = 50, 2, 1e-6


@pytest.mark.slow
def test_the_first_order_estimate_is_the_loss_difference(mini_root: Path) -> None:
    torch.manual_seed(0)
    config = compose(["method=bsgal", "data.pool=half_bad", "method.max_samples=6"]).config
    annotations = load_annotations(sources.train_annotations(config.data), cache_folder(config.data))
    facts = TrainingFacts(annotations)
    pool = prepare_pool(config, config.method, facts)
    data = TrainingData(config.data, 0, annotations, config.method, pool, facts)
    built = build(config, facts.num_categories, facts.image_count)
    engine = NativeEngine(built.module.double(), Precision.fp32, channels_last=False)

    by_gradient = BSGAL(normalise=False, momentum=0.0, cache_precision=CachePrecision.fp64)
    by_difference = BSGAL(
        estimator=Estimator.loss_difference, probe_lr=LR, reference_proposals=ReferenceProposals.ground_truth
    )
    figures = []
    for number in range(BATCHES):
        batch = Batch([data[IMAGES * number + i] for i in range(IMAGES)])
        if not batch.has_pasted.any() or not batch.reference:
            continue
        pair = []
        for method in (by_gradient, by_difference):
            method.start(Start(BATCHES, torch.device("cpu"), IMAGES, facts))
            step = TrainingStep(engine, batch, StepPosition(0, number, BATCHES), Ranks())
            pair.append(float(method.select(step).contribution))
        figures.append((pair[0], pair[1] / LR))
    estimated, measured = np.array(figures).T
    assert len(figures) >= BATCHES * 0.8
    assert np.corrcoef(estimated, measured)[0, 1] >= 0.99
    assert np.median(np.abs(measured / estimated - 1)) < 0.01
