"""What stands between mmdet and today's libraries, and whether it is still needed."""

import contextlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet", reason="mmdet is not installed: pip install 'bsgal-bench[mmdet]'")

from harness.engine.mmdet import operations as mmdet_ops
from harness.engine.mmdet.loading import load_weights
from harness.errors import UserError
from harness.weights import file as weights_file
from harness.weights.file import read_weights
from tests.engine.mmdet_models import make_engine

ROOT = Path(__file__).parents[2]
WITHOUT_COMPILED = isinstance(sys.modules[mmdet_ops.NAME], mmdet_ops._StandIn)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as mmengine's Runner writes it, of a model of one layer."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class OneLayer(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, inputs: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
            return {"loss": self.layer(inputs).sum()}

    folder = tmp_path_factory.mktemp("runner")
    Runner(
        OneLayer(),
        work_dir=str(folder),
        train_dataloader={
            "dataset": [{"inputs": torch.ones(2)}] * 4,
            "batch_size": 2,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "default_collate"},
        },
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        log_level="ERROR",
    ).train()
    return folder / "epoch_1.pth"


class Layer(torch.nn.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, width)


def test_a_runner_s_checkpoint_is_read_without_executing_code(checkpoint: Path) -> None:
    module = Layer()
    assert "2 tensors loaded" in load_weights(module, checkpoint)
    trusted = torch.load(checkpoint, weights_only=False)["state_dict"]
    for name, value in module.state_dict().items():
        assert torch.equal(value, trusted[name])


def test_mmengine_s_log_still_keeps_torch_from_reading_its_checkpoints(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When this fails, `readable_logs` has become unnecessary: delete it."""
    assert read_weights(checkpoint).part == "state_dict"
    monkeypatch.setattr(weights_file, "readable_logs", contextlib.nullcontext)
    with pytest.raises(UserError, match="holds something other than weights"):
        read_weights(checkpoint)


def test_mmengine_s_own_reader_still_fails(checkpoint: Path) -> None:
    """When this fails, mmengine reads its checkpoints again."""
    from mmengine.runner.checkpoint import load_from_local

    with pytest.raises(Exception, match="weights_only"):
        load_from_local(str(checkpoint), "cpu")


def test_reading_leaves_nothing_allowed_behind(checkpoint: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    load_weights(Layer(), checkpoint)
    assert set(torch.serialization.get_safe_globals()) == before


def test_code_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"state_dict": {"a": torch.zeros(1)}, "message_hub": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="holds something other than weights"):
        load_weights(Layer(), tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


def test_weights_of_another_model_are_named(checkpoint: Path, tmp_path: Path) -> None:
    engine = make_engine("mask_rcnn")
    with pytest.raises(UserError, match="holds only a backbone"):
        engine.load(checkpoint)
    part = {name: value for name, value in engine.module.state_dict().items() if not name.startswith("neck.")}
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"lacks 16 of \d+ tensors of this detector: neck\."):
        engine.load(tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"has shape \(2, 2\), but this detector has \(3, 2\)"):
        load_weights(Layer(3), checkpoint)


def test_an_engine_s_weights_go_round(tmp_path: Path) -> None:
    first, second = make_engine("cascade"), make_engine("cascade")
    with torch.no_grad():
        for parameter in first.module.parameters():
            parameter.add_(0.1)
    torch.save({"state_dict": first.module.state_dict(), "meta": {"epoch": 1}}, tmp_path / "model.pth")
    second.load(tmp_path / "model.pth")
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name])


# ------------------------------------------------------------------------------------------------------- operations


@pytest.mark.skipif(not WITHOUT_COMPILED, reason="mmcv has its compiled operations, which are taken then")
def test_the_stand_in_is_known_to_mmcv_and_refuses_what_it_lacks() -> None:
    import mmcv.ops

    assert mmdet_ops.provide_operations()
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
    scores = torch.tensor([0.5, 0.9, 0.1])
    kept, index = mmcv.ops.nms(boxes, scores, 0.5)
    assert index.tolist() == [1, 2]
    assert kept[:, 4].tolist() == pytest.approx([0.9, 0.1])
    with pytest.raises(UserError, match="softnms"):
        mmcv.ops.soft_nms(boxes, scores)


@pytest.mark.skipif(WITHOUT_COMPILED, reason="mmcv-lite has no compiled operations")
def test_nothing_stands_in_for_compiled_operations() -> None:
    assert not mmdet_ops.provide_operations()
    assert sys.modules[mmdet_ops.NAME].__file__


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_mmcv_s_roi_align_is_torchvision_s(aligned: bool, ratio: int) -> None:
    import mmcv.ops
    import torchvision

    rng = torch.Generator().manual_seed(0)
    rois = torch.tensor([[0.0, 1, 2, 12, 20], [1, 0, 0, 30, 31], [0, 5.5, 3.25, 9, 9.75]])
    gradients = []
    for pool in (mmcv.ops.roi_align, torchvision.ops.roi_align):
        features = torch.rand(2, 3, 16, 16, generator=rng.manual_seed(0)).requires_grad_()
        if pool is mmcv.ops.roi_align:
            pooled = pool(features, rois, 7, 0.5, ratio, "avg", aligned)
        else:
            pooled = pool(features, rois, 7, 0.5, ratio or -1, aligned)
        (pooled * torch.rand(pooled.shape, generator=rng.manual_seed(1))).sum().backward()
        gradients.append((pooled.detach(), features.grad))
    for own, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(own, theirs)


FINDS_HALF = """
import sys, threading, time
from pathlib import Path
from harness.engine.mmdet import first_import
from harness.errors import UserError

cache, whole = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()
cache.write_bytes(whole[: len(whole) // 2])
first_import.PATIENCE_SECONDS = 0.2
try:
    first_import.import_yapf()
except UserError as error:
    assert "delete ~/.cache/YAPF" in str(error)
else:
    raise SystemExit("half a grammar was read")
first_import.PATIENCE_SECONDS = 60
threading.Timer(0.5, cache.write_bytes, [whole]).start()
first_import.import_yapf()
"""


def test_a_first_import_waits_for_another_one(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    run = partial(subprocess.run, env=environment, check=True, timeout=120)
    run([sys.executable, "-c", "import yapf"])
    for cache in tmp_path.rglob("*.pickle"):
        run([sys.executable, "-c", FINDS_HALF, str(cache)])
    assert len(list(tmp_path.rglob("*.pickle"))) == 2
