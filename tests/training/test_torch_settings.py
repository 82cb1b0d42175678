"""One set-up of torch for runs, benchmarks and tests, under which no RoIAlign on a GPU goes torchvision's slow path."""

from __future__ import annotations

import importlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import ops

from harness.compose import compose
from harness.detector.deterministic_roi_align import DeterministicRoiAlign
from harness.errors import UserError
from harness.run.identity import identify
from harness.training.torch_settings import prepare_torch
from methods.contract import Proposals
from tests.detector.small import generator, small_engine, view

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def settings_put_back() -> Iterator[None]:
    yield
    prepare_torch(compose([]).config)


@pytest.fixture
def slow_path(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Calls of torchvision's RoIAlign in Python, for tensors of the CPU that pose as a GPU's."""
    calls: list[int] = []

    def counted(feature: Tensor, rois: Tensor, scale: float, height: int, width: int, *rest: Any) -> Tensor:
        calls.append(len(rois))
        return feature.new_zeros(len(rois), feature.shape[1], height, width)

    monkeypatch.setattr(importlib.import_module("torchvision.ops.roi_align"), "_roi_align", counted)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True), raising=False)
    return calls


def test_torchvision_asks_for_the_flag(slow_path: list[int]) -> None:
    """Else the tests below could not fail."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    ops.roi_align(torch.rand(1, 2, 8, 8), torch.tensor([[0.0, 1.0, 1.0, 6.0, 6.0]]), 3)
    assert slow_path == [1]


@pytest.mark.parametrize("mode", ["native", "strict"])
def test_no_step_and_no_prediction_on_a_gpu_goes_the_slow_path(mode: str, slow_path: list[int]) -> None:
    prepare_torch(compose([f"determinism={mode}", "launcher.gpus=1"]).config)
    engine = small_engine()
    engine.losses([view(1), view(2)], Proposals.SAMPLED, generator()).total().backward()
    found = engine.predict([view(3).image], [(96, 96)])
    assert len(found[0].boxes) > 0
    assert slow_path == []
    assert torch.are_deterministic_algorithms_enabled() == (mode == "strict")


def test_the_deterministic_gradient_is_torchvisions() -> None:
    """Boxes over the border, empty ones, and ones smaller than their bins among them."""
    rng = generator(4)
    feature = torch.randn(3, 5, 20, 31, generator=rng)
    corner = torch.rand(80, 2, generator=rng) * torch.tensor([300.0, 200.0]) - 20
    side = torch.exp(5.5 * torch.rand(80, 2, generator=rng)) - 1
    side[::9] = 0
    rois = torch.cat([torch.randint(0, 3, (80, 1), generator=rng).float(), corner, corner + side], 1)
    weight = torch.randn(80, 5, 7, 7, generator=rng)
    outputs, gradients = [], []
    for pool in (
        lambda own: ops.roi_align(own, rois, 7, 0.1, 0, aligned=True),
        lambda own: DeterministicRoiAlign.apply(own, rois, 7, 0.1),
    ):
        own = feature.clone().requires_grad_()
        outputs.append(pool(own))
        gradients.append(torch.autograd.grad((outputs[-1] * weight).sum(), own)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert gradients[0].abs().max() > 1
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_strict_is_for_the_engine_whose_pooling_is_ours() -> None:
    with pytest.raises(UserError, match="determinism=strict needs engine=native"):
        prepare_torch(compose(["engine=detectron2", "determinism=strict", "launcher.gpus=1"]).config)


def test_the_cpu_is_deterministic_and_fills_no_memory() -> None:
    torch.use_deterministic_algorithms(False)
    prepare_torch(compose(["threads=1"]).config)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_memory_that_was_freed_is_at_hand() -> None:
    """In most rounds: what else the process allocates may split memory that was held ready."""
    prepare_torch(compose([]).config)
    assert min(_pages_asked_for() for _ in range(6)) < 1000


def _pages_asked_for() -> int:
    """While a step's worth of tensors, 16384 pages, are made and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(2**21) for _ in range(8)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.usefixtures("mini_root")
def test_the_mode_names_a_run_on_a_gpu_alone() -> None:
    def name(*overrides: str) -> str:
        return identify(compose(["data=mini", *overrides]).config)

    assert name("determinism=strict") == name()
    assert name("determinism=strict", "launcher.gpus=1") != name("launcher.gpus=1")


def test_nothing_else_sets_what_this_sets() -> None:
    """Every benchmark that computes with torch goes through the set-up of runs, itself or by `tests.small_training`."""
    own = {"harness/training/torch_settings.py", "tests/training/test_torch_settings.py"}
    benchmarks = sorted((ROOT / "tests" / "benchmarks").glob("*.py"))
    for path in [*sorted((ROOT / "harness").rglob("*.py")), *benchmarks]:
        text = path.read_text()
        if str(path.relative_to(ROOT)) not in own:
            assert "use_deterministic_algorithms" not in text, path
            assert "torch.set_num_threads" not in text, path
        if path in benchmarks and "engine.losses(" in text:
            assert "prepare_torch(" in text or "small_training import setup" in text, path
