"""What an evaluation leaves for a bootstrap over images, written and read by one module."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.record.matches import read_matches, write_matches
from harness.record.reading import Damaged

DETECTIONS = {
    "bbox": {
        "image": np.array([2, 0, 1]),
        "category": np.array([0, 0, 2]),
        "score": np.array([0.9, 0.4, 0.7]),
        "matched": np.array([0b11, 0, 0b1000000001]),
        "ignored": np.array([0b10, 0b1111111111, 0]),
    }
}
TRUTH = {
    "image": np.array([0, 2, 1]),
    "category": np.array([0, 0, 2]),
    "instances": np.array([1, 4, 2]),
    "frequency": np.array(["r", "r", "f"]),
}


def test_bits_and_counts_come_back_by_hand(tmp_path: Path) -> None:
    write_matches(tmp_path, DETECTIONS, TRUTH, images=3, categories=4)
    found = read_matches(tmp_path, "bbox")
    assert found is not None
    assert found.images == 3
    assert found.image.tolist() == [2, 0, 1]
    assert found.starts.tolist() == [0, 2, 2, 3, 3]
    # The first detection matches at 0.5 and 0.55, there to ignored ground truth; the second is ignored everywhere; the
    # third matches at 0.5 and 0.95.
    assert found.hit.T.astype(int).tolist() == [[1] + [0] * 9, [0] * 10, [1] + [0] * 8 + [1]]
    assert found.counted.T.astype(int).tolist() == [[1, 0] + [1] * 8, [0] * 10, [1] * 10]
    assert found.truth_image.tolist() == [0, 2, 1]
    assert found.truth_category.tolist() == [0, 0, 2]
    assert found.instances.tolist() == [1, 4, 2]
    assert found.frequency.tolist() == ["r", "", "f", ""]


def test_the_columns_are_those_that_the_module_states(tmp_path: Path) -> None:
    write_matches(tmp_path, DETECTIONS, TRUTH, images=3, categories=4)
    matches, truth = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("matches", "ground_truth"))
    assert {field.name: str(field.type) for field in matches.schema if field.name != "iou_type"} == {
        "image": "int32",
        "category": "int32",
        "score": "double",
        "matched": "uint16",
        "ignored": "uint16",
        "fault": "uint8",
        "truth": "int32",
    }
    assert matches["iou_type"].to_pylist() == ["bbox"] * 3
    assert matches.schema.metadata == {b"iou_types": b"bbox"}
    assert truth.schema.metadata == {b"images": b"3", b"categories": b"4"}


def test_what_was_not_evaluated_is_not_there(tmp_path: Path) -> None:
    assert read_matches(tmp_path, "bbox") is None
    write_matches(tmp_path, DETECTIONS, TRUTH, images=3, categories=4)
    assert read_matches(tmp_path, "segm") is None
    (tmp_path / "ground_truth.parquet").unlink()
    assert read_matches(tmp_path, "bbox") is None


@pytest.mark.parametrize("category", [-1, 4])
def test_a_range_that_is_left_at_either_end_is_told_whole(tmp_path: Path, category: int) -> None:
    truth = TRUTH | {"category": np.array([0, 0, category])}
    write_matches(tmp_path, DETECTIONS, truth, images=3, categories=4)
    with pytest.raises(Damaged, match=rf"{min(0, category)} to {max(0, category)}, where 0 to 3 are possible"):
        read_matches(tmp_path, "bbox")
