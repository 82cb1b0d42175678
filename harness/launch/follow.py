"""`harness logs`: what runs have said, and what they are saying."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.launch import tables
from harness.launch.select import select
from harness.launch.state import ACTIVE, RunState, jobs_of
from harness.record.manifest import read_manifest

POLL_SECONDS = 0.5
LAST_LINES = 40


def logs(runs_dir: Path, words: Sequence[str], follow: bool = False) -> int:
    """Prints the end of the selected runs' logs; with `follow` what is added, until all of them have ended.

    Lines of several runs are told apart by the run's name in front. Raises UserError for words that name nothing.
    """
    if not words:
        raise UserError("say whose logs: a run, a sweep, or filters such as status=failed")
    rows = select(runs_dir, words)
    tails = [tail for row in rows for tail in _tails(runs_dir, row, len(rows) > 1)]
    if not tails:
        raise UserError("these runs have written no log yet; `harness status` says why")
    for tail in tails:
        for line in tail.last():
            print(line)
    try:
        while follow:
            sys.stdout.flush()
            ended = not any(row.state in ACTIVE for row in select(runs_dir, words))
            for _ in range(4):  # what stands of the runs is asked for less often than what they have written
                for line in (line for tail in tails for line in tail.new()):
                    print(line)
                time.sleep(0 if ended else POLL_SECONDS)
            if ended:
                break
    except KeyboardInterrupt:
        pass
    return 0


@dataclass
class _Tail:
    path: Path
    prefix: str
    position: int = 0

    def last(self) -> Iterator[str]:
        content = self.path.read_bytes()
        self.position = content.rfind(b"\n") + 1
        return (self.prefix + line for line in content.decode(errors="replace").splitlines()[-LAST_LINES:])

    def new(self) -> Iterator[str]:
        """Complete lines since the last look."""
        with self.path.open("rb") as file:
            file.seek(self.position)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        self.position += len(content)
        return (self.prefix + line for line in content.decode(errors="replace").splitlines())


def _tails(runs_dir: Path, row: RunState, several: bool) -> Iterator[_Tail]:
    """The run's own log; where it wrote none, what its last job said before the run began."""
    prefix = f"{tables.axes(row.run.name, row.run.axes)}: " if several else ""
    own = runs_dir / row.run.run_id / "log.txt"
    if own.is_file():
        yield _Tail(own, prefix)
        return
    manifest = read_manifest(runs_dir, row.sweep) if row.sweep else None
    for submission, job in (jobs_of(manifest).get(row.run.run_id, []) if manifest else [])[-1:]:
        for path in sorted(Path(submission.folder).glob(f"{job}_*log.err")):
            yield _Tail(path, prefix)
