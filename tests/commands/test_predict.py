"""`harness predict`: a run's detections, drawn on pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

from harness.commands.predict import predict
from tests.command_line import harness
from tests.small_training import Trained


def test_detections_are_drawn_on_pictures(trained_baseline: Trained, mini_root: Path, tmp_path: Path) -> None:
    pictures = sorted((mini_root / "coco" / "val2017").iterdir())[:2]
    runs, run_id = trained_baseline.runs, trained_baseline.record.run_id
    plain = predict(pictures, runs, run_id, tmp_path / "none", threshold=1.1)
    drawn = predict(pictures, runs, run_id, tmp_path / "drawn", threshold=0.0)
    assert [path.name for path in drawn] == [path.name for path in pictures]
    for bare, full in zip(plain, drawn, strict=True):
        first, second = np.asarray(Image.open(bare)), np.asarray(Image.open(full))
        assert first.shape == second.shape
        assert max(first.shape) >= 400
        assert (first != second).any()


def test_drawing_is_a_command_whose_errors_are_one_line(trained_baseline: Trained, tmp_path: Path) -> None:
    words = ["--run", trained_baseline.record.run_id, "--runs", str(trained_baseline.runs)]
    ended = harness("predict", "none.png", *words, cwd=tmp_path)
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert line.startswith("error: none.png does not exist")
