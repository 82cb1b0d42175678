"""LVIS average precision, box and mask, equal to the `lvis` package's in every figure (1908.03195, package 0.5.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.data.lvis.annotations import FREQUENCIES, Annotations
from harness.evaluate.detections import Detections
from harness.evaluate.faults import NO_TRUTH
from harness.evaluate.matching import AREAS, IOU_THRESHOLDS, MAX_DETECTIONS, IouType, Matches, match
from harness.record.files import write_table
from harness.record.matches import Columns, write_matches
from harness.record.precision import average_precision

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class CategoryFigures:
    """Average precision and greatest recall, (T, 4, C) float64 in [0, 1] by IoU threshold, area range and category.

    NaN where the evaluated images hold no instance to find.
    """

    ap: np.ndarray
    recall: np.ndarray

    def of_category(self) -> dict[str, np.ndarray]:
        """(C,) float64 by name: AP, AP50, AP75, APs, APm, APl, AR; NaN where undefined."""
        small, medium, large = (self.ap[:, AREAS.index(area)].mean(0) for area in AREAS[1:])
        everywhere = self.ap[:, 0]
        return {
            "AP": everywhere.mean(0),
            "AP50": everywhere[_threshold(0.5)],
            "AP75": everywhere[_threshold(0.75)],
            "APs": small,
            "APm": medium,
            "APl": large,
            "AR": self.recall[:, 0].mean(0),
        }

    def metrics(self, frequency: np.ndarray) -> dict[str, float | None]:
        """The package's figures as fractions, None where it gives -1 for no instances. `frequency` (C,) r, c, f."""
        everywhere = self.ap[:, 0]
        figures = {
            "AP": everywhere,
            "AP50": everywhere[_threshold(0.5)],
            "AP75": everywhere[_threshold(0.75)],
            **{f"AP{area[0]}": self.ap[:, i] for i, area in enumerate(AREAS) if i},
            **{f"AP{group}": everywhere[:, frequency == group] for group in FREQUENCIES},
            f"AR@{MAX_DETECTIONS}": self.recall[:, 0],
            **{f"AR{area[0]}@{MAX_DETECTIONS}": self.recall[:, i] for i, area in enumerate(AREAS) if i},
        }
        return {name: _mean(values) for name, values in figures.items()}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found, by IoU type ("bbox", "segm").

    metrics: AP, AP50, AP75, APs, APm, APl, APr, APc, APf, AR@300, ARs@300, ARm@300, ARl@300 as fractions, None where
    undefined. figures: the same by category. matches: what they were computed from.
    """

    annotations: Annotations
    metrics: dict[IouType, dict[str, float | None]]
    figures: dict[IouType, CategoryFigures]
    matches: dict[IouType, Matches]

    def per_category(self, iou_type: IouType) -> dict[str, float | None]:
        """AP as a fraction by category id (as text, in the order of the ids), None if undefined."""
        ap = self.figures[iou_type].of_category()["AP"].tolist()
        ids = self.annotations.category_ids.tolist()
        return {str(i): None if np.isnan(value) else value for i, value in zip(ids, ap, strict=True)}

    def write(self, folder: Path) -> None:
        """Writes per_category.parquet, and matches.parquet and ground_truth.parquet for a bootstrap over images.

        per_category: iou_type, category_id, name, frequency, instances, images, and AP, AP50, AP75, APs, APm, APl, AR
        as fractions. The other two are described in `harness.record.matches`.
        """
        write_table(self._per_category_table(), folder / "per_category.parquet")
        any_type, frequency = next(iter(self.matches.values())), self.annotations.frequency
        detections: dict[str, Columns] = {kind: _ranked_detections(found) for kind, found in self.matches.items()}
        write_matches(folder, detections, _ground_truth(any_type, frequency), len(any_type.images), len(frequency))

    def _per_category_table(self) -> pa.Table:
        import pyarrow as pa

        annotations = self.annotations
        tables = []
        for iou_type, figures in self.figures.items():
            matches = self.matches[iou_type]
            count = len(annotations.category_ids)
            present = ~matches.truth_ignored[:, 0]
            pairs = np.unique(np.stack([matches.truth_image, matches.truth_category])[:, present], axis=1)
            columns = {
                "iou_type": [iou_type] * count,
                "category_id": annotations.category_ids,
                "name": annotations.category_names,
                "frequency": annotations.frequency,
                "instances": np.bincount(matches.truth_category[present], minlength=count),
                "images": np.bincount(pairs[1], minlength=count),
            }
            values = {n: pa.array(v, mask=np.isnan(v)) for n, v in figures.of_category().items()}
            tables.append(pa.table(columns | values))
        return pa.concat_tables(tables)


def evaluate(
    annotations: Annotations,
    detections: Detections,
    iou_types: Sequence[IouType] = ("bbox", "segm"),
    images: np.ndarray | None = None,
    mask_area: bool = False,
    ignore_unknown: bool = False,
    with_faults: bool = False,
) -> Evaluation:
    """Evaluates detections on `images` (image indices; all if None). Arguments and errors as for `match`."""
    matches = {t: match(annotations, detections, t, images, mask_area, ignore_unknown, with_faults) for t in iou_types}
    return accumulate(annotations, matches)


def accumulate(annotations: Annotations, matches: Mapping[IouType, Matches]) -> Evaluation:
    """Computes the figures of matches, which may be merged from several ranks."""
    figures = {iou_type: _figures(found, len(annotations.category_ids)) for iou_type, found in matches.items()}
    metrics = {iou_type: found.metrics(annotations.frequency) for iou_type, found in figures.items()}
    return Evaluation(annotations, metrics, figures, dict(matches))


def _figures(matches: Matches, num_categories: int) -> CategoryFigures:
    order = matches.ranked()
    starts = np.searchsorted(matches.category[order], np.arange(num_categories + 1))
    ap = np.empty((len(IOU_THRESHOLDS), len(AREAS), num_categories))
    recall = np.empty_like(ap)
    for area in range(len(AREAS)):
        present = ~matches.truth_ignored[:, area]
        instances = np.bincount(matches.truth_category[present], minlength=num_categories)
        matched, ignored = matches.matched[order, area], matches.ignored[order, area]
        for t in range(len(IOU_THRESHOLDS)):
            bit = np.uint16(1 << t)
            hit, counted = (matched & bit) != 0, (ignored & bit) == 0
            ap[t, area], recall[t, area] = average_precision(hit, counted, starts, instances)
    return CategoryFigures(ap, recall)


def _ranked_detections(matches: Matches) -> Columns:
    """The columns of matches.parquet."""
    order = matches.ranked()
    faults: Columns = {}
    if matches.fault is not None and matches.truth is not None:
        # Instances are numbered as ground_truth.parquet counts them: by image and category.
        present = np.flatnonzero(~matches.truth_ignored[:, 0])
        number = np.full(len(matches.truth_image) + 1, NO_TRUTH, np.int32)  # the last for NO_TRUTH
        by_key = np.lexsort((matches.truth_category[present], matches.truth_image[present]))
        number[present[by_key]] = np.arange(len(present))
        faults = {"fault": matches.fault[order], "truth": number[matches.truth[order]]}
    return {
        "image": np.searchsorted(matches.images, matches.image[order]).astype(np.int32),
        "category": matches.category[order],
        "score": matches.score[order],
        "matched": matches.matched[order, 0],
        "ignored": matches.ignored[order, 0],
        **faults,
    }


def _ground_truth(matches: Matches, frequency: np.ndarray) -> Columns:
    """The columns of ground_truth.parquet; `frequency` (C,) r, c, f."""
    present = ~matches.truth_ignored[:, 0]
    image = np.searchsorted(matches.images, matches.truth_image[present])
    keys, instances = np.unique(image * len(frequency) + matches.truth_category[present], return_counts=True)
    category = keys % len(frequency)
    return {
        "image": (keys // len(frequency)).astype(np.int32),
        "category": category.astype(np.int32),
        "instances": instances.astype(np.int32),
        "frequency": frequency[category],
    }


def _threshold(iou: float) -> int:
    return int(np.flatnonzero(iou == IOU_THRESHOLDS)[0])


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None
