"""`harness evaluate`'s function: table, JSON, errors, and that it starts without torch."""

import json
import subprocess
import sys

import numpy as np
import pytest

from harness.commands.evaluate import evaluate_command
from harness.data.lvis.cache import load_annotations
from harness.errors import UserError
from harness.evaluate import Detections
from tests.evaluate.made_detections import REAL, make_results, package_evaluation


@pytest.fixture(scope="module")
def results():
    return make_results(load_annotations(REAL), 20, np.random.default_rng(4))


def test_json_holds_unrounded_fractions_of_the_package(tmp_path, results, capsys):
    path, out = tmp_path / "results.json", tmp_path / "figures.json"
    path.write_text(json.dumps(results))
    evaluate_command(path, REAL, "both", out)
    figures = json.loads(out.read_text())
    assert list(figures) == ["bbox", "segm"]
    printed = capsys.readouterr().out
    for iou_type in figures:
        package = package_evaluation(REAL, results, iou_type)
        assert figures[iou_type]["AP"] == pytest.approx(package.results["AP"], abs=1e-9)
        assert figures[iou_type]["APr"] == pytest.approx(package.results["APr"], abs=1e-9)
        assert f"{100 * package.results['AP']:.2f}" in printed
        precision = package.eval["precision"][:, :, :, 0].mean((0, 1))
        wanted = {
            str(k + 1): None if value < 0 else pytest.approx(value, abs=1e-9) for k, value in enumerate(precision)
        }
        assert figures[iou_type]["per_category"] == wanted


def test_one_iou_type_and_parquet(tmp_path, results):
    path, out = tmp_path / "results.parquet", tmp_path / "figures.json"
    Detections.from_results(results).write_parquet(path)
    evaluate_command(path, REAL, "segm", out)
    assert list(json.loads(out.read_text())) == ["segm"]


def test_boxes_alone_are_evaluated_as_boxes(tmp_path, results, capsys):
    path, out = tmp_path / "boxes.json", tmp_path / "figures.json"
    path.write_text(json.dumps([{k: v for k, v in entry.items() if k != "segmentation"} for entry in results]))
    evaluate_command(path, REAL, "both", out)
    assert list(json.loads(out.read_text())) == ["bbox"]
    assert "no masks" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="no masks"):
        evaluate_command(path, REAL, "segm", None)


def test_user_errors(tmp_path, results):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([*results[:3], results[3] | {"image_id": 1}]))
    with pytest.raises(UserError, match="entry 3 names image 1, which"):
        evaluate_command(path, REAL, "both", None)
    with pytest.raises(UserError, match="--iou masks: expected one of bbox, segm, both"):
        evaluate_command(path, REAL, "masks", None)
    path.write_text(json.dumps(results))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        evaluate_command(path, REAL, "bbox", tmp_path / "file" / "figures.json")


def test_torch_and_pandas_are_not_imported():
    late = ("torch", "pandas", "scipy", "pycocotools")
    code = f"import sys, harness.commands.evaluate; print([m for m in {late} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
