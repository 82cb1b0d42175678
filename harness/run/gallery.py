"""Pictures of a run: its detections in a few validation images, and a few instances that it judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from harness.data.dataset import Dataset
from harness.data.lvis.annotations import Annotations, rasterise
from harness.data.paste.cutout import FaultyInstance, read_rgba
from harness.data.pool.pool import InstancePool
from harness.data.pool.sources import FileSource
from harness.data.seeding import generator
from harness.data.testing import EvaluationImage, evaluation_images
from harness.engine.contract import Engine, Prediction
from harness.record.decisions import read_pasted
from harness.record.gallery import write_gallery

IMAGES, INSTANCES = 6, 12  # validation images; instances of each verdict
SIDE, POOL_SIDE = 320, 96  # pixels of the longer side at most
SURE = 0.3  # score of detections that are shown


def write_pictures(
    folder: Path, engine: Engine, dataset: Dataset, pool: InstancePool | None, seed: int, images: int
) -> None:
    """Writes evenly spread ones of the first `images` validation images. The engine holds the evaluated weights.
    pool: as the method prepared it, None if the run did not train."""
    shown, pictures = [], {}
    chosen = range(0, images, max(images // IMAGES, 1))[:IMAGES]
    for image in evaluation_images(dataset, chosen):
        entry, encoded = _image(engine, dataset.val, image)
        pictures[entry["file"]] = encoded
        shown.append(entry)
    judged = []
    for entry, encoded in _judged(folder, dataset, pool, seed) if pool is not None else ():
        pictures[entry["file"]] = encoded
        judged.append(entry)
    write_gallery(folder, {"images": shown, "instances": judged}, pictures)


def _image(engine: Engine, annotations: Annotations, image: EvaluationImage) -> tuple[dict[str, Any], bytes]:
    index, planes, size = image
    found = engine.predict([planes], [size])[0]
    scale = min(1.0, SIDE / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    names = annotations.category_names.tolist()
    rows = range(*annotations.image_offsets[index : index + 2].tolist())
    entry = {
        "file": f"{annotations.image_ids[index]}.jpg",
        "width": width,
        "height": height,
        "truth": [
            {
                "category": names[annotations.annotation_categories[row]],
                "outline": _outline(rasterise(annotations, row), scale),
            }
            for row in rows
        ],
        "found": _found(found, names, scale),
    }
    pixels = cv2.resize(planes.permute(1, 2, 0).numpy(), (width, height), interpolation=cv2.INTER_AREA)
    return entry, _encoded(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def _found(found: Prediction, names: list[str], scale: float) -> list[dict[str, Any]]:
    """Classes beyond the dataset's own are not shown."""
    keep = ((found.scores >= SURE) & (found.labels < len(names))).nonzero()[:, 0].tolist()
    return [
        {
            "category": names[found.labels[i]],
            "score": round(float(found.scores[i]), 3),
            "outline": _outline(mask_utils.decode(found.rles[i]), scale),
        }
        for i in keep
    ]


def _outline(mask: np.ndarray, scale: float) -> list[list[float]]:
    contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    simple = [cv2.approxPolyDP(contour, 0.5 / scale, True)[:, 0] for contour in contours]
    return [np.round((points + 0.5) * scale, 1).ravel().tolist() for points in simple if len(points) > 2]


def _judged(folder: Path, dataset: Dataset, pool: InstancePool, seed: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Drawn from the pasted instances, each once; of a method that judges."""
    pasted = read_pasted(folder)
    if pasted is None:
        return
    names, clean = dataset.train.category_names.tolist(), dataset.clean_rows(pool)
    drawn = pasted.iloc[generator(seed, "gallery").permutation(len(pasted))].drop_duplicates("pool_row")
    for accepted in (True, False):
        chosen = drawn[drawn["accepted"] == accepted].head(INSTANCES)
        columns = (chosen[name].tolist() for name in ("pool_row", "category", "contribution"))
        for row, category, contribution in zip(*columns, strict=True):
            source = pool.source(row)
            if not isinstance(source, FileSource):
                continue  # of a training image: no picture of its own
            try:
                rgba = read_rgba(source)
            except FaultyInstance:
                continue
            entry = {
                "file": f"pool-{row}.png",
                "category": names[category] if category < len(names) else f"extra category {category}",
                "accepted": accepted,
                "contribution": None if np.isnan(contribution) else contribution,
                "clean": None if clean is None else bool(clean[row]),
            }
            scale = min(1.0, POOL_SIDE / max(rgba.shape[:2]))
            small = cv2.resize(rgba, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            yield entry, _encoded(".png", cv2.cvtColor(small, cv2.COLOR_RGBA2BGRA))


def _encoded(suffix: str, pixels: np.ndarray) -> bytes:
    done, encoded = cv2.imencode(suffix, pixels)
    assert done
    return encoded.tobytes()
