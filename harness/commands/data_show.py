"""`harness data show`: sheets of a dataset's images and pool instances, and of images as a method augments them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from harness.commands.drawing import PAPER, contact_sheet, draw_targets, on_checkerboard
from harness.config import DataConfig, RunConfig
from harness.data.dataset import Dataset
from harness.data.images import TrainingImages
from harness.data.lvis.annotations import Annotations, rasterise
from harness.data.paste.cutout import FaultyInstance, read_rgba
from harness.data.pool.sources import FileSource
from harness.data.sample import Sample, View
from harness.data.training import TrainingData
from harness.errors import UserError
from harness.record.files import write_atomically

SIDE = 400  # pixels that the longer side of a view is enlarged to, about


def show_method(config: RunConfig, n: int, out: Path) -> None:
    """Writes a PNG of the first `n` training images as the configured method augments them.

    Every instance is outlined and named, pasted ones with a white rim. Raises UserError as training would.
    """
    dataset, method = Dataset(config.data), config.method
    annotations = dataset.train
    data = TrainingData(dataset, config.seed, method, dataset.prepared_pool(method, config.seed))
    names = annotations.category_names.tolist()
    samples = [data[position] for position in range(n)]
    pictures = [_picture(sample.augmented or sample.original, names) for sample in samples]
    captions = [_caption(sample, str(annotations.file_names[sample.image_index])) for sample in samples]
    with write_atomically(out) as temporary:
        Image.fromarray(contact_sheet(pictures, captions, columns=4)).save(temporary, format="PNG")


def _picture(view: View, names: list[str]) -> np.ndarray:
    targets = view.targets
    labels = [names[label] if label < len(names) else f"extra category {label}" for label in targets.labels.tolist()]
    return draw_targets(
        view.image.permute(1, 2, 0).numpy().copy(),
        masks=targets.masks.full().numpy(),
        labels=labels,
        highlight=targets.pasted.tolist(),
        zoom=max(1, round(SIDE / max(view.size))),
    )


def _caption(sample: Sample, file_name: str) -> str:
    pasted = 0 if sample.augmented is None else int(sample.augmented.targets.pasted.sum())
    skipped = f", {sum(sample.skipped.values())} unreadable" if sample.skipped else ""
    return f"{file_name}\n{len(sample.drawn_rows)} drawn, {pasted} pasted{skipped}"


def show_dataset(config: DataConfig, n: int, out: Path) -> None:
    """Writes a PNG of `n` training images, masks outlined and named, and of 4 n instances of the configured pool.

    The images are chosen to show many categories. Where the pool's hidden truth is known, captions tell it. Raises
    UserError for annotations, images or a pool that are not there.
    """
    dataset = Dataset(config)
    annotations, images = dataset.train, TrainingImages(dataset.train, dataset.image_root)
    chosen = _spread(dataset, n)
    pictures = [_annotated(annotations, images.read(index), index) for index in chosen]
    sheets = [contact_sheet(pictures, [_image_caption(annotations, index) for index in chosen], columns=4)]
    if dataset.pool_file is not None:
        sheets.append(_pool_sheet(dataset, 4 * n))
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [
        cv2.copyMakeBorder(sheet, 0, 0, 0, width - sheet.shape[1], cv2.BORDER_CONSTANT, value=PAPER) for sheet in sheets
    ]
    with write_atomically(out) as temporary:
        Image.fromarray(np.concatenate(padded)).save(temporary, format="PNG")


def _spread(dataset: Dataset, n: int) -> list[int]:
    """Images that together show many categories: each next one adds the most that no earlier one shows."""
    categories, images = dataset.facts.pairs
    left: dict[int, set[int]] = defaultdict(set)
    for image, category in zip(images.tolist(), categories.tolist(), strict=True):
        left[image].add(category)
    seen: set[int] = set()
    chosen: list[int] = []
    while left and len(chosen) < n:
        best = max(left, key=lambda image: len(left[image] - seen))
        seen |= left.pop(best)
        chosen.append(best)
    return chosen


def _annotated(annotations: Annotations, picture: np.ndarray, index: int) -> np.ndarray:
    span = range(*annotations.image_offsets[index : index + 2].tolist())
    masks = np.array([rasterise(annotations, i) for i in span]).reshape(-1, *picture.shape[:2])
    labels = [str(annotations.category_names[annotations.annotation_categories[i]]) for i in span]
    return draw_targets(picture, masks=masks, labels=labels, zoom=max(1, round(360 / max(picture.shape[:2]))))


def _image_caption(annotations: Annotations, index: int) -> str:
    unfinished = ", ".join(annotations.category_names[annotations.not_exhaustive_of(index)].tolist())
    verified = len(annotations.negatives_of(index))
    caption = f"image {annotations.image_ids[index]}, verified without: {verified} categories"
    return f"{caption}\nnot exhaustive: {unfinished or 'none'}"


def _pool_sheet(dataset: Dataset, n: int) -> np.ndarray:
    """Instances of different categories side by side: good ones and bad ones as the pool holds them."""
    pool, names = dataset.pool, dataset.train.category_names.tolist()
    kinds = dataset.kinds(pool)
    each = max(n // max(len(pool.present_categories), 1), 1)
    rows = [int(row) for category in pool.present_categories for row in pool.rows_of(int(category))[:each]][:n]
    pictures, captions = [], []
    for row in rows:
        source, category = pool.source(row), int(pool.categories[row])
        assert isinstance(source, FileSource)  # a pool that is opened from a file holds files
        try:
            rgba = read_rgba(source)
        except FaultyInstance as fault:
            raise UserError(f"{fault}; {dataset.pool_file} names it") from fault
        pictures.append(on_checkerboard(rgba, max(1, round(160 / max(rgba.shape[:2])))))
        name = names[category] if category < len(names) else f"extra category {category}"
        captions.append(name if kinds is None else f"{name}\n{kinds[row]}")
    return contact_sheet(pictures, captions, columns=8)
