"""mmdet's losses, gradients and detections with compiled mmcv against those with torchvision's operations.

Both packages own one folder, so each needs an environment of its own:

    python -m tests.benchmarks.mmcv_operations FILE     # in the first one: writes its figures
    python -m tests.benchmarks.mmcv_operations FILE     # in the other one: prints the largest differences
"""

from __future__ import annotations

import sys
from pathlib import Path

import pycocotools.mask as coco
import torch
from torch import Tensor

from harness.config import RunConfig
from harness.engine.mmdet.operations import provide_operations
from harness.training.torch_settings import prepare_torch
from methods.contract import Proposals
from tests.engine.mmdet_models import MODELS, make_engine, make_view


def figures(model: str) -> dict[str, Tensor]:
    """Losses, gradients and detections of a small model with seeded weights on two images."""
    engine = make_engine(model)
    views = [make_view(4, 1), make_view(3, 2)]
    table = engine.losses(views, Proposals.SAMPLED, torch.Generator().manual_seed(5))
    table.total().backward()
    found = {f"loss {name}": table.batch(name).detach() for name in table.names()}
    for name, parameter in engine.module.named_parameters():
        if parameter.grad is not None:
            found[f"gradient {name}"] = parameter.grad
    for place, each in enumerate(engine.predict([view.image for view in views], [view.size for view in views])):
        found[f"boxes {place}"], found[f"scores {place}"] = each.boxes, each.scores
        found[f"labels {place}"] = each.labels.float()
        found[f"masks {place}"] = torch.from_numpy(coco.area(each.rles).astype("int64")).float()
    return found


def main(file: Path) -> None:
    prepare_torch(RunConfig())
    operations = "torchvision's" if provide_operations() else "mmcv's compiled"
    found = {model: figures(model) for model in MODELS}
    if not file.exists():
        torch.save({"operations": operations, "found": found}, file)
        print(f"{file}: figures with {operations} operations")
        return
    before = torch.load(file, weights_only=True)
    print(f"{operations} operations against {before['operations']}: largest differences, relative to the largest value")
    for model, own in found.items():
        other = before["found"][model]
        assert own.keys() == other.keys()
        for kind in ("loss", "gradient", "boxes", "scores", "labels", "masks"):
            pairs = [(own[name], other[name]) for name in own if name.startswith(f"{kind} ")]
            worst = max(_difference(one, another) for one, another in pairs)
            equal = sum(torch.equal(one, another) for one, another in pairs)
            print(f"{model:10} {kind:9} {worst:.1e}   {equal} of {len(pairs)} bit-equal")


def _difference(one: Tensor, other: Tensor) -> float:
    if not one.numel():
        return 0.0 if one.shape == other.shape else float("inf")
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-30))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
