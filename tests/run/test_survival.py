"""A run that is killed or told to stop, at any moment, ends with the figures of one that is left alone."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from harness.record.record import Status, read_records
from tests.run.lives import assert_equal, left_behind, live

KILLS = 50
# One stop in each life, at an event, and what it leaves. An evaluation predicts eight times: of the first one at least
# five are left after the second stop, so that the ninth of the third life is of the last evaluation.
STOPS = {
    "training": (("_step", 2), "*/checkpoint/000000002"),
    "evaluation on the way": (("predict", 3), "*/evaluation/*/*.parquet"),
    "evaluation": (("predict", 9), "*/evaluation/*.parquet"),
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)


@pytest.fixture(scope="module")
def calm(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """What a run leaves that nobody disturbs, and its events."""
    runs = tmp_path_factory.mktemp("calm")
    assert live(runs) == 0
    return left_behind(runs), json.loads((runs / "events.json").read_text())


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGUSR2])
def test_told_to_stop_it_saves_with_its_workers_alive_and_goes_on(
    sent: signal.Signals, calm: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    """While training and while evaluating; SIGTERM to the whole group, loader workers among it."""
    expected, _ = calm
    for during, (event, left) in STOPS.items():
        assert not list(tmp_path.glob(left))
        assert live(tmp_path, event, sent) == 75, (during, (tmp_path / "stderr").read_text())
        assert list(tmp_path.glob(left)), during
        (record,) = read_records(tmp_path)
        assert record.status is Status.interrupted
        assert record.failure == {"kind": "stopped", "message": sent.name}
    assert live(tmp_path) == 0
    assert_equal(left_behind(tmp_path), expected)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_at_random_moments_change_no_figure(calm: tuple[dict[str, Any], list[str]], tmp_path: Path) -> None:
    """Runs that are killed again and again until they end: at steps, in predictions, in the middle of every kind of
    write, by SIGKILL and SIGTERM to the group and by USR2."""
    expected, events = calm
    chance = random.Random(14)
    kills, runs = 0, 0
    while kills < KILLS:
        folder = tmp_path / str(runs)
        runs += 1
        status = None
        while status != 0:
            sent = chance.choice(SIGNALS)
            status = live(folder, chance.randint(1, len(events)), sent)
            assert status in (0, 75, -signal.SIGKILL, -signal.SIGTERM), (folder / "stderr").read_text()[-3000:]
            kills += status != 0
        assert_equal(left_behind(folder), expected)
    print(f"{kills} kills over {runs} runs of {len(events)} events")
