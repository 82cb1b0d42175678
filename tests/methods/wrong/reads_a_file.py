# `select` reads thresholds.txt, which `files\(\)` does not name
import pathlib
import tempfile
from dataclasses import dataclass

from methods.registry import register
from methods.xpaste import PoolPasting

FILE = pathlib.Path(tempfile.mkdtemp()) / "thresholds.txt"
FILE.write_text("0.5")


@register("reads_a_file")
@dataclass
class ReadsAFile(PoolPasting):
    """Wrong."""

    def select(self, step):
        float(FILE.read_text())
        return super().select(step)
