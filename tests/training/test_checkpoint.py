"""Checkpoints: complete or absent, the last few kept, a damaged one passed over."""

import io
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.training import checkpoint
from harness.training.distributed import Ranks

CPU = torch.device("cpu")


def save(folder: Path, iteration: int, keep: int = 2) -> None:
    saver = checkpoint.Saver(folder, Ranks(), keep)
    saver.begin(iteration, {"iteration": iteration}, {"own": iteration * 10})
    saver.finish()


def test_the_newest_is_loaded_and_older_ones_go(tmp_path: Path) -> None:
    for iteration in (5, 10, 15):
        save(tmp_path, iteration)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000010", "000000015"]
    assert load_newest(tmp_path) == ({"iteration": 15}, {"own": 150})


def load_newest(folder: Path) -> tuple[dict[str, object], dict[str, object]] | None:
    found: list[tuple[dict[str, object], dict[str, object]]] = []
    checkpoint.restore_newest(folder, Ranks(), CPU, lambda shared, own: found.append((shared, own)))
    return found[0] if found else None


def a_list(_: bytes) -> bytes:
    file = io.BytesIO()
    torch.save([1, 2], file)
    return file.getvalue()


DAMAGED = {
    "truncated": lambda whole: whole[:100],
    "empty": lambda whole: b"",
    "a pickle of a call": lambda whole: b"cos\nsystem\n(S'exit 1'\ntR.",
    "a list": a_list,
    "a byte less": lambda whole: whole[:-1],
    "text": lambda whole: b"not a checkpoint" * 10,
}


@pytest.mark.parametrize("name", ["shared.pt", "rank0.pt"])
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_newest_falls_back_to_the_one_before(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    damaged = tmp_path / "000000010" / name
    damaged.write_bytes(damage(damaged.read_bytes()))
    state = load_newest(tmp_path)
    assert state is not None
    assert state[0] == {"iteration": 5}
    assert "000000010 cannot be read" in caplog.text


def test_one_that_cannot_be_gone_on_from_falls_back_and_is_never_taken_for_none(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    seen = []

    def restore(shared: dict[str, int], own: dict[str, int], bad: tuple[int, ...]) -> None:
        seen.append(shared["iteration"])
        if shared["iteration"] in bad:
            raise KeyError("model")

    assert checkpoint.restore_newest(tmp_path, Ranks(), CPU, partial(restore, bad=(10,)))
    assert seen == [10, 5]
    with pytest.raises(UserError, match=r"no checkpoint to resume from \('model'\); delete"):
        checkpoint.restore_newest(tmp_path, Ranks(), CPU, partial(restore, bad=(5, 10)))


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_final_weights_are_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    checkpoint.save_final(tmp_path, {"model": {"w": torch.ones(2)}})
    final = tmp_path / "final.pt"
    final.write_bytes(damage(final.read_bytes()))
    with pytest.raises(UserError, match=r"final\.pt is damaged"):
        checkpoint.load_final(tmp_path, CPU)


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert checkpoint.load_final(tmp_path, CPU) is None


def test_final_weights_stay_when_the_rest_is_dropped(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / ".000000010.part").mkdir()
    (tmp_path / ".final.pt.k3jx.part").touch()  # a process killed while it wrote
    checkpoint.save_final(tmp_path, {"model": {"w": torch.ones(2)}})
    checkpoint.drop_intermediate(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["final.pt"]
    final = checkpoint.load_final(tmp_path, CPU)
    assert final is not None
    assert final["model"]["w"].tolist() == [1, 1]


def test_a_checkpoint_is_written_from_a_copy_and_appears_once_every_rank_is_known_to_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    write = checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda path, content: (go_on.wait(30), write(path, content)))
    checked: list[int] = []
    saver = checkpoint.Saver(tmp_path, Ranks(), 2, lambda: checked.append(1))
    weight, log = torch.ones(2), ["first"]
    saver.begin(7, {"weight": weight}, {"log": log})
    weight.zero_()
    log.append("second")
    assert not saver.written
    go_on.set()
    while not saver.written:
        time.sleep(0.01)
    saver.conclude(known_at=7)  # said before this checkpoint was begun, and so of the one before
    assert load_newest(tmp_path) is None
    saver.conclude(known_at=8)
    assert checked == [1]
    state = load_newest(tmp_path)
    assert state is not None
    assert state[0]["weight"].tolist() == [1, 1]
    assert state[1] == {"log": ["first"]}
    assert not saver.written


def test_a_write_that_fails_is_raised_in_the_training_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    saver = checkpoint.Saver(tmp_path, Ranks(), 2)
    saver.begin(1, {}, {})
    with pytest.raises(OSError, match="No space left"):
        saver.finish()
    assert load_newest(tmp_path) is None
