"""`harness predict`: a run's detections drawn on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from harness.commands.drawing import draw_targets
from harness.data.augment import evaluation_size, resize
from harness.data.picture_files import read_rgb
from harness.engine.contract import Engine, Prediction
from harness.errors import UserError
from harness.record.files import write_atomically
from harness.run.finished_run import FinishedRun, finished_run

SIDE = 480  # small pictures are enlarged to about this, so that names can be read


def predict(
    images: Sequence[Path], runs: Path, run: str, out: Path, threshold: float = 0.3, trusted: Sequence[Path] = ()
) -> list[Path]:
    """Writes OUT/<name>.png for every image: boxes, masks and category names of detections scored `threshold` or more.

    `run` is a run_id or an unambiguous beginning of one. Raises UserError for an image or a run that cannot be read.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    finished = finished_run(runs, run, trusted)
    engine = finished.engine(device, evaluated=True)
    written = []
    for path, target in zip(images, _targets(images, out), strict=True):
        picture = _read(path)
        found = detections(engine, picture, finished)
        with write_atomically(target) as temporary:
            Image.fromarray(draw(picture, found, finished.dataset.train.category_names, threshold)).save(
                temporary, "PNG"
            )
        written.append(target)
    return written


def detections(engine: Engine, picture: np.ndarray, finished: FinishedRun) -> Prediction:
    """What the detector finds in an (H, W, 3) uint8 RGB picture at the run's test size."""
    height, width = picture.shape[:2]
    size = evaluation_size(height, width, finished.config.data.test_short, finished.config.data.test_long)
    planes = torch.from_numpy(resize(picture, size)).permute(2, 0, 1).contiguous()
    return engine.predict([planes], [(height, width)])[0]


def draw(picture: np.ndarray, found: Prediction, names: np.ndarray, threshold: float) -> np.ndarray:
    """An (h, w, 3) uint8 RGB picture, small ones enlarged. Classes beyond `names` are not drawn."""
    keep = ((found.scores >= threshold) & (found.labels < len(names))).nonzero()[:, 0].tolist()
    masks = [coco_mask.decode(found.rles[i]) for i in keep]
    return draw_targets(
        picture,
        boxes=found.boxes[keep].numpy(),
        masks=np.array(masks, np.uint8).reshape(-1, *picture.shape[:2]),
        labels=[f"{names[found.labels[i]]} {found.scores[i]:.2f}" for i in keep],
        zoom=max(1, round(SIDE / max(picture.shape[:2]))),
    )


def _targets(images: Sequence[Path], out: Path) -> list[Path]:
    """OUT/<stem>.png, numbered where names repeat."""
    seen: dict[str, int] = {}
    targets = []
    for path in images:
        count = seen[path.stem] = seen.get(path.stem, 0) + 1
        targets.append(out / (f"{path.stem}.png" if count == 1 else f"{path.stem}-{count}.png"))
    return targets


def _read(path: Path) -> np.ndarray:
    picture = read_rgb(path)
    if picture is None:
        raise UserError(f"{path} {'is not an image that OpenCV can read' if path.is_file() else 'does not exist'}")
    return picture
