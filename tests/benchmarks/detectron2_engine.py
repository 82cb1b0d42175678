"""What the adapter to detectron2 costs within a step, timed inside it.

    python -m tests.benchmarks.detectron2_engine [--size 320] [--images 2] [--classes 1203]

`own` is the time in the adapter's own code: views made into detectron2's instances, and losses taken apart, less the
calls of detectron2's loss functions inside. `with losses` counts these calls too, an upper bound: detectron2 alone
would call them once for the batch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from harness.config import RunConfig
from harness.engine.detectron2 import engine as adapter
from harness.engine.detectron2 import losses as splitting
from harness.training.torch_settings import prepare_torch
from methods.contract import Proposals
from tests.detector.small import generator, view
from tests.engine.detectron2_models import engine_of

spent = {"own": 0.0, "theirs": 0.0, "masks": 0.0}


def timed(function: Callable[..., Any], to: str) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[to] += time.perf_counter() - begun

    return run


def watch() -> None:
    """Puts clocks around the adapter's functions and around detectron2's loss functions that these call."""
    adapter.instances_of = timed(adapter.instances_of, "own")
    take = splitting._replace

    def replace(stack: Any, owner: Any, name: str, value: Any) -> None:
        take(stack, owner, name, timed(value, "own") if name in ("losses", "_match_and_label_boxes") else value)

    splitting._replace = replace
    for owner in (splitting.RPN, splitting.FastRCNNOutputLayers):
        owner.losses = timed(owner.losses, "theirs")
    splitting.CascadeROIHeads._match_and_label_boxes = timed(splitting.CascadeROIHeads._match_and_label_boxes, "theirs")
    # The mask head's forward holds its layers too, so that its splitting is timed by its parts.
    splitting.mask_rcnn_loss = timed(splitting.mask_rcnn_loss, "masks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    prepare_torch(RunConfig())
    engine = engine_of(backbone="resnet50", classes=options.classes)
    size = options.size, options.size
    views = [view(i, instances=12, size=size, classes=options.classes, pasted=6) for i in range(options.images)]
    watch()
    engine.losses(views, Proposals.SAMPLED, generator()).total().backward()
    spent.update(dict.fromkeys(spent, 0.0))
    begun = time.perf_counter()
    for step in range(options.steps):
        engine.losses(views, Proposals.SAMPLED, generator(step)).total().backward()
    whole = time.perf_counter() - begun
    own = spent["own"] - spent["theirs"]
    upper = spent["own"] + spent["masks"]
    print(
        f"{options.images} images of {options.size}², {options.classes} classes, R50-FPN: step "
        f"{whole / options.steps:.2f} s, own {own / whole:.2%}, with losses {upper / whole:.2%}"
    )


if __name__ == "__main__":
    main()
