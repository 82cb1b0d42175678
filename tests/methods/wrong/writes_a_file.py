# `select` writes to a file
import pathlib
import tempfile
from dataclasses import dataclass

from methods.registry import register
from methods.xpaste import PoolPasting

FILE = pathlib.Path(tempfile.mkdtemp()) / "log.txt"


@register("writes_a_file")
@dataclass
class WritesAFile(PoolPasting):
    """Wrong."""

    def select(self, step):
        with open(FILE, "a") as file:
            file.write("x")
        return super().select(step)
