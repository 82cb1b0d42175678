"""BSGAL's figure 2 in small: the contribution of batches of which a growing share of images is noise.

    python -m tests.benchmarks.toy_contribution [--seeds 3] [--out docs/img/toy_contribution.png]

The paper takes CIFAR-10, which is a download; here a picture is a grating of 32² pixels whose orientation is its class,
one of ten, with colour, frequency and phase of its own. A small network learns them; then batches of the training set,
some of their images replaced by noise that keeps the label, are set against the gradient of pictures it has not seen.
The contribution is the cosine that BSGAL decides by. AUROC: of batches without noise against those of each share.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import RunConfig
from harness.training.torch_settings import prepare_torch
from methods.contribution import GradientCache

CLASSES, SIDE, BATCH = 10, 32, 64
SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
LINE = "{:>6} {:>14} {:>8} {:>8} {:>8}"


def pictures(labels: Tensor, rng: torch.Generator) -> Tensor:
    """(n, 3, 32, 32) gratings of the classes (n,), with a little noise; values about -1..1."""
    n = len(labels)

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, 1, 1, generator=rng)

    angle = labels.view(n, 1, 1) * math.pi / CLASSES + drawn(-0.1, 0.1)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    along = x * torch.cos(angle) + y * torch.sin(angle)
    wave = torch.sin(along * drawn(0.4, 0.8) + drawn(0, 2 * math.pi))
    return wave[:, None] * drawn(0.3, 1.0, 3) + 0.5 * torch.randn(n, 3, SIDE, SIDE, generator=rng)


def network() -> nn.Module:
    widths = (3, 16, 32, 64)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, CLASSES))


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(P,) the flat gradient of the batch's loss."""
    parts = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])


def trained(images: Tensor, labels: Tensor, steps: int, rng: torch.Generator) -> nn.Module:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (BATCH,), generator=rng)
        optimizer.zero_grad()
        F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return model


def contributions(seed: int, steps: int, batches: int) -> tuple[float, np.ndarray]:
    """Accuracy on unseen pictures in percent, and (shares, batches) contributions."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (2000,), generator=rng)
    unseen = torch.randint(CLASSES, (1000,), generator=rng)
    images, references = pictures(labels, rng), pictures(unseen, rng)
    model = trained(images, labels, steps, rng)
    accuracy = 100 * float((model(references).argmax(1) == unseen).float().mean())
    whole = gradient(model, references, unseen)
    cache = GradientCache(len(whole), None, torch.float32, torch.device("cpu"))
    cache.update(whole)
    found = np.zeros((len(SHARES), batches))
    for row, share in enumerate(SHARES):
        for column in range(batches):
            chosen = torch.randint(len(labels), (BATCH,), generator=rng)
            batch = images[chosen]
            noised = round(share * BATCH)
            batch[:noised] = torch.randn(noised, 3, SIDE, SIDE, generator=rng)
            own = gradient(model, batch, labels[chosen])
            found[row, column] = cache.product(own) / (cache.norm() * torch.linalg.vector_norm(own) + 1e-8)
    return accuracy, found


def auroc(clean: np.ndarray, noised: np.ndarray) -> float:
    """The chance that a batch without noise has the larger contribution."""
    return float((clean[:, None] > noised[None]).mean())


def draw(found: np.ndarray, out: Path) -> None:
    """(seeds, shares, batches): every batch a point, the medians a line."""
    figure, axis = plt.subplots(figsize=(4.6, 3.0), layout="constrained")
    pooled = np.moveaxis(found, 0, 1).reshape(len(SHARES), -1)
    jitter = np.random.default_rng(0).uniform(-1.2, 1.2, pooled.shape[1])
    for share, values in zip(SHARES, pooled, strict=True):
        axis.plot(100 * share + jitter, values, ".", color="#0072b2", alpha=0.25, markersize=3)
    axis.plot([100 * share for share in SHARES], np.median(pooled, axis=1), "o-", color="#d55e00")
    axis.axhline(0, color="#687080", linewidth=0.6)
    axis.set(xlabel="images of the batch that are noise, %", ylabel="contribution")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("docs/img/toy_contribution.png"))
    arguments = parser.parse_args()
    prepare_torch(RunConfig())
    made = [contributions(seed, arguments.steps, arguments.batches) for seed in range(arguments.seeds)]
    print(f"accuracy on unseen pictures: {', '.join(f'{accuracy:.1f} %' for accuracy, _ in made)}")
    found = np.stack([values for _, values in made])
    print(LINE.format("noise", "contribution", "below 0", "spread", "AUROC"))
    for row, share in enumerate(SHARES):
        values = found[:, row]
        rank = np.mean([auroc(seed[0], seed[row]) for seed in found])
        print(
            LINE.format(
                f"{share:.1%}",
                f"{np.median(values):.3f}",
                f"{(values < 0).mean():.0%}",
                f"{values.std():.3f}",
                f"{rank:.2f}",
            )
        )
    draw(found, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
