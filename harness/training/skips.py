"""Watching how many pool images cannot be read while training."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

from harness.data.sample import Batch
from harness.errors import UserError

WARN_ABOVE, STOP_ABOVE = 0.01, 0.2
ENOUGH = 100  # instances drawn before a share means anything
LISTED = 20

log = logging.getLogger(__name__)


@dataclass
class SkipMonitor:
    """Counts in the training process what the workers skipped. by_file: faults with their file, "fault: path"."""

    drawn: int = 0
    skipped: int = 0
    by_file: Counter[str] = field(default_factory=Counter)
    warned: bool = False

    @property
    def share(self) -> float:
        return self.skipped / max(self.drawn, 1)

    def by_fault(self) -> dict[str, int]:
        """Skips by fault alone."""
        total: Counter[str] = Counter()
        for name, count in self.by_file.items():
            total[name.split(":", 1)[0]] += count
        return dict(total)

    def update(self, batch: Batch) -> None:
        """Warns once above 1 % of the drawn instances and raises UserError with the files above 20 %."""
        for sample in batch.samples:
            self.drawn += len(sample.drawn_rows)
            self.skipped += sum(sample.skipped.values())
            self.by_file.update(sample.skipped)
        if self.drawn < ENOUGH:
            return
        if self.share > STOP_ABOVE:
            files = "\n  ".join(sorted(self.by_file)[:LISTED])
            more = f"\n  and {len(self.by_file) - LISTED} more" if len(self.by_file) > LISTED else ""
            raise UserError(
                f"{self.skipped} of {self.drawn} drawn pool images could not be used; `harness data index-pool` "
                f"lists them all and writes a pool without them:\n  {files}{more}"
            )
        if self.share > WARN_ABOVE and not self.warned:
            self.warned = True
            faults = ", ".join(f"{count} {fault}" for fault, count in self.by_fault().items())
            log.warning("%.1f %% of the drawn pool images could not be used (%s)", 100 * self.share, faults)
