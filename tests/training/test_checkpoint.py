"""Checkpoints: complete or absent, the last few kept, a damaged one passed over."""

from pathlib import Path

import pytest
import torch

from harness.training import checkpoint
from harness.training.distributed import Ranks

CPU = torch.device("cpu")


def save(folder: Path, iteration: int, keep: int = 2) -> None:
    checkpoint.save(folder, iteration, {"iteration": iteration}, {"own": iteration * 10}, Ranks(), keep)


def test_the_newest_is_loaded_and_older_ones_go(tmp_path: Path) -> None:
    for iteration in (5, 10, 15):
        save(tmp_path, iteration)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000010", "000000015"]
    assert checkpoint.load_newest(tmp_path, Ranks(), CPU) == ({"iteration": 15}, {"own": 150})


@pytest.mark.parametrize("name", ["shared.pt", "rank0.pt"])
def test_a_truncated_newest_falls_back_to_the_one_before(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    damaged = tmp_path / "000000010" / name
    damaged.write_bytes(damaged.read_bytes()[:100])
    state = checkpoint.load_newest(tmp_path, Ranks(), CPU)
    assert state is not None
    assert state[0] == {"iteration": 5}
    assert "000000010 cannot be read" in caplog.text


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path, Ranks(), CPU) is None
    assert checkpoint.load_final(tmp_path, CPU) is None


def test_final_weights_stay_when_the_rest_is_dropped(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / ".000000010.part").mkdir()
    checkpoint.save_final(tmp_path, {"model": {"w": torch.ones(2)}})
    checkpoint.drop_intermediate(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["final.pt"]
    final = checkpoint.load_final(tmp_path, CPU)
    assert final is not None
    assert final["model"]["w"].tolist() == [1, 1]
