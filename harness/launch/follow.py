"""`harness logs`: the end of runs' logs, and what is added to them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.launch import tables
from harness.launch.endings import SCHEDULER_LINE
from harness.launch.select import select
from harness.launch.state import RunState, jobs_of
from harness.launch.status import Pace, under_way
from harness.record.manifest import read_manifest

POLL_SECONDS = 0.5
LAST_LINES = 40
MOST_TAIL_BYTES = 2**20  # that they are looked for in


def logs(runs_dir: Path, words: Sequence[str], follow: bool = False) -> int:
    """Prints the end of the selected runs' logs; with `follow` what is added, until all of them have ended.

    Lines of several runs begin with the run's name. Raises UserError for words that name nothing.
    """
    if not words:
        raise UserError("say whose logs: a run, a sweep, or filters such as status=failed")
    rows = select(runs_dir, words)
    if not rows:
        raise UserError(f"no run fits {' '.join(words)}; `harness status` shows the runs and their states")
    tails = [tail for row in rows for tail in _tails(runs_dir, row, len(rows) > 1)]
    if not tails:
        raise UserError("these runs have not written a log yet; `harness status` says why")
    for tail in tails:
        for line in tail.last():
            print(line)
    try:
        pace = Pace()
        while follow:
            goes_on = under_way(rows := select(runs_dir, words))
            next_look = time.monotonic() + (pace.seconds(rows) if goes_on else 0.0)
            while True:  # files are read often, the scheduler is asked seldom
                for line in (line for tail in tails for line in tail.new()):
                    print(line)
                sys.stdout.flush()
                if time.monotonic() >= next_look:
                    break
                time.sleep(POLL_SECONDS)
            follow = goes_on
    except KeyboardInterrupt:
        pass
    return 0


@dataclass
class _Tail:
    """The end of a file. only: a pattern of the lines to show; all by default."""

    path: Path
    prefix: str
    only: re.Pattern[str] | None = None
    position: int = 0

    def last(self) -> list[str]:
        with self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - MOST_TAIL_BYTES))
            content = file.read()
            end = file.tell()
        self.position = end - len(content) + content.rfind(b"\n") + 1
        return self._shown(content)[-LAST_LINES:]

    def new(self) -> list[str]:
        """Complete lines since the last look."""
        with self.path.open("rb") as file:
            file.seek(self.position)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        self.position += len(content)
        return self._shown(content)

    def _shown(self, content: bytes) -> list[str]:
        """Without what a terminal would obey."""
        lines = "".join(c if c.isprintable() or c in "\n\r\t" else "�" for c in content.decode(errors="replace"))
        return [self.prefix + line for line in lines.splitlines() if self.only is None or self.only.match(line)]


def _tails(runs_dir: Path, row: RunState, several: bool) -> Iterator[_Tail]:
    """The run's own log and SLURM's words about its last job; all that the job said where the run wrote no log."""
    prefix = f"{tables.axes(row.run.name, row.run.axes)}: " if several else ""
    own = runs_dir / row.run.run_id / "log.txt"
    if own.is_file():
        yield _Tail(own, prefix)
    manifest = read_manifest(runs_dir, row.sweep) if row.sweep else None
    for submission, job in (jobs_of(manifest).get(row.run.run_id, []) if manifest else [])[-1:]:
        for path in sorted(Path(submission.folder).glob(f"{job}_*log.err")):
            if path.is_file():  # and no pipe, which would be waited for
                yield _Tail(path, prefix, SCHEDULER_LINE if own.is_file() else None)
