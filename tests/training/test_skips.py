"""Pool instances that cannot be pasted: a warning at first, an end when they are many."""

import pytest
import torch

from harness.data.sample import Batch, Sample, Targets, View
from harness.errors import UserError
from harness.training.skips import ENOUGH, SkipMonitor


def skipping(drawn: int, skipped: dict[str, int]) -> Batch:
    nothing = View(torch.zeros(3, 1, 1, dtype=torch.uint8), Targets(*[torch.zeros(0)] * 5))  # type: ignore[arg-type]
    return Batch([Sample(0, 0, nothing, drawn_rows=torch.zeros(drawn, dtype=torch.int64), skipped=skipped)])


def test_skips_warn_once_and_stop_with_the_list(caplog: pytest.LogCaptureFixture) -> None:
    monitor = SkipMonitor()
    monitor.update(skipping(ENOUGH - 1, {"missing file: /p/a.png": ENOUGH - 1}))  # too few to judge
    monitor = SkipMonitor()
    monitor.update(skipping(1000, {"missing file: /p/a.png": 10}))
    assert not caplog.records
    monitor.update(skipping(100, {"missing file: /p/a.png": 2, "empty mask: /p/b.png": 1}))
    monitor.update(skipping(100, {}))
    assert len(caplog.records) == 1
    assert monitor.by_fault() == {"missing file": 12, "empty mask": 1}
    with pytest.raises(UserError, match=r"(?s)313 of 1500 .*\n  empty mask: /p/b\.png\n  missing file: /p/a\.png"):
        monitor.update(skipping(300, {"empty mask: /p/b.png": 300}))
