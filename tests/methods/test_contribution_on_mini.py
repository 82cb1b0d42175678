"""The contribution against its definition, on the embedded dataset with the detector itself.

In double precision, unnormalised, with the step's own reference gradient in place of the cache and every draw frozen,
the first-order estimate is how much a small SGD step on the pasted loss lowers the reference loss.
"""

import copy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.compose import compose
from harness.data.dataset import Dataset
from harness.data.training import TrainingData, training_loader
from harness.engine import create
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.contract import Selection, Start

BATCHES = 12
PROBE = 1e-5
BY_GRADIENT = ["method.normalise=false", "method.momentum=0.0", "method.cache_precision=fp64"]
BY_DIFFERENCE = [
    "method.estimator=loss_difference",
    f"method.probe_lr={PROBE}",
    "method.reference_proposals=ground_truth",
]
SMALL = [
    "method=bsgal",
    "data.size=64",
    "detector.channels=32",
    "detector.fc_width=64",
    "detector.mask_channels=16",
    "data.workers=0",
    "schedule.precision=fp32",
    "schedule.global_batch=2",
    "schedule.batch_per_rank=2",
    "schedule.iterations=200",
]


@pytest.mark.usefixtures("mini_root")
def test_the_estimate_is_the_loss_difference_to_first_order(tmp_path: Path) -> None:
    config = compose(SMALL).config
    dataset = Dataset(config.data)
    torch.manual_seed(0)
    engine = create(config, dataset.num_classes, dataset.train.image_counts)
    engine.module.double()
    data = TrainingData(dataset, config.seed, config.method, dataset.prepared_pool(config.method, config.seed))
    batches = training_loader(data, config.schedule)
    usable = (batch for batch in batches if batch.has_pasted.any() and batch.reference)

    made = {"estimated": compose([*SMALL, *BY_GRADIENT]), "measured": compose([*SMALL, *BY_DIFFERENCE])}
    figures: dict[str, list[float]] = {name: [] for name in made}
    for iteration, batch in enumerate(islice(usable, BATCHES)):
        for name, composed in made.items():
            method = copy.deepcopy(composed.config.method)
            method.start(Start(200, torch.device("cpu"), 2, dataset.facts, data.pool))
            selection: Selection = method.select(TrainingStep(engine, batch, StepPosition(0, iteration, 200), Ranks()))
            assert selection.contribution is not None
            figures[name].append(float(selection.contribution))
    estimated, measured = np.array(figures["estimated"]), np.array(figures["measured"]) / PROBE
    assert len(estimated) == BATCHES
    assert np.corrcoef(estimated, measured)[0, 1] >= 0.99
    assert np.median(np.abs(measured / estimated - 1)) < 0.01
    assert np.std(estimated) > 0
