"""How large the instances of each category are, by which pasted ones are scaled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.data.lvis.annotations import Annotations
from harness.errors import UserError


@dataclass(frozen=True, eq=False)
class AreaStatistics:
    """Per category: mean and standard deviation (C,) float64 of √(box area / image area), NaN where unknown."""

    mean: np.ndarray
    std: np.ndarray

    def has(self, category: int) -> bool:
        """Whether a category's statistics are known."""
        return category < len(self.mean) and not np.isnan(self.mean[category])


def area_statistics(annotations: Annotations, path: Path | None = None) -> AreaStatistics:
    """The statistics in a JSON file `{"<1-based id>": [mean, std], ...}`; without one, those of the annotations' boxes.

    `area_statistics_lvis_v1.json` holds those of LVIS v1 train that X-Paste and DiverGen publish
    (datasets/metadata/area_mean_std2.json, equal in both).

    Raises UserError when the file is missing or holds something else.
    """
    return _measured(annotations) if path is None else _read(path)


def statistics_file(named: str | None) -> Path | None:
    """The file that `data.area_statistics` names: one that comes with the package, or a path."""
    if named is None:
        return None
    shipped = Path(__file__).parent / f"area_statistics_{named}.json"
    return shipped if shipped.is_file() else Path(named).expanduser()


def _measured(annotations: Annotations) -> AreaStatistics:
    image = annotations.annotation_images
    pixels = annotations.heights[image].astype(np.float64) * annotations.widths[image]
    root = np.sqrt(annotations.boxes[:, 2] * annotations.boxes[:, 3] / pixels)
    category = annotations.annotation_categories
    count = np.bincount(category, minlength=len(annotations.category_ids)).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(category, root, len(count)) / count
        variance = np.bincount(category, (root - mean[category]) ** 2, len(count)) / count
    return AreaStatistics(mean, np.sqrt(variance))


def _read(path: Path) -> AreaStatistics:
    try:
        content = {int(key) - 1: (float(value[0]), float(value[1])) for key, value in _json(path).items()}
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        wanted = '{"<1-based category id>": [mean, standard deviation], ...}'
        raise UserError(f"{path}: not area statistics ({error}); expected {wanted}") from error
    if not content or min(content) < 0:
        raise UserError(f"{path}: area statistics need category ids from 1")
    mean, std = np.full((2, max(content) + 1), np.nan)
    for category, (m, s) in content.items():
        mean[category], std[category] = m, s
    return AreaStatistics(mean, std)


def _json(path: Path) -> dict[str, list[float]]:
    try:
        content: dict[str, list[float]] = json.loads(path.read_bytes())
        return content
    except OSError as error:
        raise UserError(
            f"data.area_statistics: {path} cannot be read ({error.strerror}); null computes them"
        ) from error
