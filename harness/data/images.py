"""The images that annotations name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.data.lvis.annotations import Annotations
from harness.data.picture_files import read_rgb
from harness.errors import UserError


class TrainingImages:
    """Decodes the images that annotations name, with OpenCV; keeps the latest, since a draw often takes several
    instances from one image.
    """

    def __init__(self, annotations: Annotations, root: Path) -> None:
        self.annotations = annotations
        self.root = root
        self._latest: tuple[int, np.ndarray] | None = None

    def path(self, index: int) -> Path:
        """The file of an image, by its index in the annotations."""
        return self.root / str(self.annotations.file_names[index])

    def read(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises UserError that names a missing, corrupt or exchanged file."""
        latest = self._latest  # once, since threads share this object
        if latest is not None and latest[0] == index:
            return latest[1]
        path = self.path(index)
        image = read_rgb(path)
        if image is None:
            raise UserError(_what_is_wrong(path, self.root))
        expected = int(self.annotations.heights[index]), int(self.annotations.widths[index])
        if image.shape[:2] != expected:
            found = "x".join(map(str, image.shape[:2]))
            raise UserError(
                f"{path} is {found} pixels, but its annotations say {expected[0]}x{expected[1]}; is it the wrong image?"
            )
        self._latest = index, image
        return image


def _what_is_wrong(path: Path, root: Path) -> str:
    if not root.is_dir():
        return f"{root} does not exist, and should hold the images; set data.root and data.images"
    if not path.is_file():
        return f"{path} does not exist, and the annotations name it; is the image folder complete?"
    return f"{path} is damaged: OpenCV cannot decode it; fetch the file again"
