"""A rule of one's own: what it is handed, and what is said of one that does not keep to its contract."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from harness.compose import compose
from harness.data.dataset import Dataset
from harness.engine.contract import Engine
from harness.errors import UserError
from harness.run.identity import identify
from harness.stages.chunks import Chunk
from harness.stages.own_rule import OwnRule, read_rule
from harness.stages.scoring import check_score

DETECTOR = cast(Engine, SimpleNamespace(name="the detector"))


@pytest.fixture(scope="module")
def dataset(mini_root: Path) -> Dataset:
    return Dataset(compose(["data=mini", "data.pool=half_bad"]).config.data)


def scores(dataset: Dataset, file: Path, text: str) -> np.ndarray:
    file.write_text(text)
    return OwnRule(read_rule(file), dataset, DETECTOR)(Chunk(0, 3, dataset.pool.rows_of(3)[:5]))


def test_a_rule_sees_the_instances_as_they_lie(dataset: Dataset, tmp_path: Path) -> None:
    text = """
def score(instances):
    assert {each.category for each in instances} == {3}
    assert all(each.image.shape[2] == 4 and each.image.dtype.name == "uint8" for each in instances)
    assert all(each.path.endswith(".png") and each.name for each in instances)
    return [each.row for each in instances]
"""
    found = scores(dataset, tmp_path / "sees.py", text)
    assert found.tolist() == dataset.pool.rows_of(3)[:5].tolist()


def test_a_rule_may_ask_the_detector(dataset: Dataset, tmp_path: Path) -> None:
    text = "def score(instances, detector):\n    return [len(detector.name)] * len(instances)\n"
    assert scores(dataset, tmp_path / "asks.py", text).tolist() == [12.0] * 5


def test_an_instance_that_cannot_be_opened_has_no_score(tmp_path: Path, mini_root: Path) -> None:
    (tmp_path / "pool.json").write_text('{"3": ["nowhere.png", "nowhere_either.png"]}')
    dataset = Dataset(compose(["data=mini", f"data.pool={tmp_path / 'pool.json'}"]).config.data)
    (tmp_path / "never.py").write_text("def score(instances):\n    raise AssertionError\n")
    rule = OwnRule(read_rule(tmp_path / "never.py"), dataset, DETECTOR)
    assert np.isnan(rule(Chunk(0, 3, np.arange(2)))).all()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return [1.0, 2.0]", r"one number for each of its 5 instances; its result has shape \(2,\)"),
        ("return 1.0", r"has shape \(\)"),
        ("return [[1.0]] * 5", r"has shape \(5, 1\)"),
        ("return ['good'] * 5", "one number per instance, not"),
        ("return [float('inf')] * 5", "NaN for no score"),
    ],
)
def test_what_is_no_number_a_row_is_refused(
    body: str, words: str, dataset: Dataset, tmp_path: Path, request: Any
) -> None:
    file = tmp_path / f"wrong_{abs(hash(body))}.py"
    with pytest.raises(UserError, match=words):
        scores(dataset, file, f"def score(instances):\n    {body}\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", r"has no function `score\(instances\)`"),
        ("import no_such_thing\n", "cannot be imported: ModuleNotFoundError"),
        ("def score():\n    return []\n", r"takes \(instances\) or \(instances, detector\)"),
    ],
)
def test_a_file_that_is_no_rule_is_named_before_anything_runs(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / f"no_rule_{len(text)}.py"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        check_score(compose(["stage=score", f"stage.by={file}"]).config.stage)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stage.by=confidense"], "neither a score nor a Python file; did you mean 'confidence'"),
        (["stage.by=none.py"], r"none\.py does not exist"),
        (["stage.scope=head"], "did you mean 'heads'"),
        (["stage.hosts=0"], "at least 1"),
    ],
)
def test_words_that_mean_nothing_are_answered_with_those_that_do(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_score(compose(["stage=score", *overrides]).config.stage)


@pytest.mark.usefixtures("mini_root")
def test_a_rule_counts_by_its_contents_and_those_of_its_helpers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sharpness_helper_of_a_test.py").write_text("def sharpness(image):\n    return image.std()\n")
    rule = tmp_path / "sharp.py"
    rule.write_text(
        "import sharpness_helper_of_a_test as helper\n\n"
        "def score(instances):\n    return [helper.sharpness(each.image) for each in instances]\n"
    )

    def name() -> str:
        return identify(compose(["data=mini", "stage=score", f"stage.by={rule}"]).config)

    first = name()
    assert first.startswith("score-resnet18-s0-")
    (tmp_path / "sharpness_helper_of_a_test.py").write_text("def sharpness(image):\n    return -image.std()\n")
    second = name()
    rule.write_text(rule.read_text() + "# another\n")
    assert len({first, second, name()}) == 3
