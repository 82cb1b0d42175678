"""Who executes a run: a claim that is taken when the run starts, on any shared file system, without file locks.

    runs/<run_id>/claim/000001/owner.json   who: machine, process, SLURM job, and how far the run was when it started
                              heartbeat     a number that grows every few seconds while the owner lives
                              released      seconds that the owner lived, present once it has ended in good order
                              rank1.error   why a rank failed; rank 0 reads it

A claim is made by renaming a prepared folder to the next generation's name, which fails for all starters but one,
since a folder that is not empty cannot be replaced. The highest generation is the valid one. An owner that was
thought dead and wakes up finds a higher generation in `check` and must not write any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field

from harness.record.reading import Damaged, Label, Name, read_bytes, read_json
from harness.run import scheduler

HEARTBEAT_SECONDS = 5.0
# Network file systems cache attributes for up to a minute: an owner is given that long to show a sign of life.
PATIENCE_SECONDS = 75.0
_GENERATION = re.compile("[0-9]{6,12}")
MOST_WORDS = 2**20  # bytes of what a rank leaves behind


class ClaimLost(Exception):
    """Another process has taken the run over; this one must stop without writing."""


@dataclass(frozen=True)
class Owner:
    """machine: boot id and process namespace, within which `pid` means something. process_ticks: when it started, in
    the kernel's ticks since the machine's, which setting a clock does not change; None if the kernel does not say,
    and process_started, seconds since the epoch, has to do. progress: digest of the checkpoints and of the evaluation's
    pieces that were there at the start, so that restarts without progress can be told from others. preparing: seconds
    that its job had been allocated before the claim was taken. heartbeat: seconds between two heartbeats.
    """

    host: Label
    machine: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    process_started: float
    job: Name | None  # as `scheduler.own_job` has it; a requeued job keeps it
    cluster: str | None
    restart: int
    progress: str
    taken: float
    preparing: float = 0.0
    heartbeat: float = HEARTBEAT_SECONDS
    process_ticks: int | None = None

    def process(self) -> psutil.Process | None:
        """The owner's process, where it lives and can be seen from here; never another one of that number."""
        if self.machine != _machine():
            return None
        try:
            process = psutil.Process(self.pid)
            if self.process_ticks is not None:
                same = _start_ticks(self.pid) == self.process_ticks
            else:
                same = abs(process.create_time() - self.process_started) < 2.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    @property
    def is_here(self) -> bool:
        """Whether its process, if it lives, could be seen from here."""
        return self.machine == _machine()


@dataclass(frozen=True)
class Life:
    """One start of a run, as its heartbeats tell, whatever the clocks of nodes say. seconds: from claim to last sign
    of life. preparing: seconds that its job was allocated before."""

    seconds: float
    preparing: float
    job: str | None
    host: str


class Claim:
    """A claim that this process holds; a context manager that releases it."""

    def __init__(self, folder: Path, generation: int, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self.folder = folder
        self.generation = generation
        self._begun = time.monotonic()
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._beat_on, args=(heartbeat_seconds,), name="claim", daemon=True)
        self._beat.start()

    @property
    def seconds(self) -> float:
        """How long it has been held."""
        return time.monotonic() - self._begun

    def check(self) -> None:
        """To be called before each write below the run's folder. Raises ClaimLost when the claim was taken over."""
        if _newest(self.folder) != self.generation:
            raise ClaimLost(f"{self.folder.parent.name} was taken over by another process; this one stops")

    def release(self) -> None:
        """Ends the claim, so that the next starter need not wait; does nothing the second time."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._beat.join()
        own = _generation_folder(self.folder, self.generation)
        if own.is_dir():
            with contextlib.suppress(OSError):  # on a full disk an empty file says it too, and how the run ended counts
                (own / "released").write_text(f"{self.seconds:.1f}")

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat_on(self, seconds: float) -> None:
        heartbeat = _generation_folder(self.folder, self.generation) / "heartbeat"
        count = 0
        while not self._ended.wait(seconds):
            count += 1
            try:
                heartbeat.write_text(str(count))
            except OSError:
                continue  # a full disk for a while is no reason to die; being taken over shows in `check`


def take(
    run_folder: Path, patience: float = PATIENCE_SECONDS, heartbeat_seconds: float = HEARTBEAT_SECONDS
) -> Claim | None:
    """Claims a run for this process; None if a live process holds it, or another starter was faster.

    Waits up to `patience` seconds only where nothing but the heartbeat can tell whether the owner lives.
    """
    folder = run_folder / "claim"
    folder.mkdir(parents=True, exist_ok=True)
    generation = _newest(folder)
    if generation and _held(folder, generation, patience):
        return None
    prepared = _prepared(folder, _this_process(run_folder, heartbeat_seconds))
    try:
        prepared.rename(_generation_folder(folder, generation + 1))
    except OSError:
        shutil.rmtree(prepared, ignore_errors=True)
        return None
    return Claim(folder, generation + 1, heartbeat_seconds)


def _prepared(folder: Path, process: Owner) -> Path:
    """A folder that is a claim once it is renamed."""
    prepared = folder / f".prepared-{uuid.uuid4().hex}"
    prepared.mkdir()
    try:
        (prepared / "owner.json").write_text(json.dumps(asdict(process)))
        (prepared / "heartbeat").write_text("0")
    except OSError as error:
        shutil.rmtree(prepared, ignore_errors=True)
        error.filename = str(folder)  # a write itself does not know it
        raise
    return prepared


def owner(run_folder: Path) -> Owner | None:
    """The last process that claimed a run, alive or not; None if there is none."""
    folder = run_folder / "claim"
    generation = _newest(folder)
    return _read_owner(folder, generation) if generation else None


def held(run_folder: Path, is_active: Callable[[str], bool | None]) -> bool | None:
    """Whether a live process holds a run, as far as is known without waiting; None if only waiting could tell.

    `is_active` says whether a SLURM job waits or runs, None if it cannot know.
    """
    folder = run_folder / "claim"
    generation = _newest(folder)
    if not generation or _is_released(folder, generation):
        return False
    last = _read_owner(folder, generation)
    if last is None:
        return False
    if last.machine == _machine():
        return _process_lives(last)
    return is_active(last.job) if last.job else None


def silent_seconds(run_folder: Path) -> float | None:
    """Seconds between the last heartbeat and now by this machine's clocks, only to be shown; None without a claim.

    A heartbeat far in the future is no sign of life: a clock was wrong, and no longer is.
    """
    folder = run_folder / "claim"
    generation = _newest(folder)
    try:
        return abs(time.time() - (_generation_folder(folder, generation) / "heartbeat").stat().st_mtime)
    except OSError:
        return None


def lives(run_folder: Path) -> list[Life]:
    """All starts of a run up to now, the earliest first."""
    folder = run_folder / "claim"
    found = []
    for generation in _generations(folder):
        own = _read_owner(folder, generation)
        if own is not None:
            place = _generation_folder(folder, generation)
            seconds = _number(place / "released") or (_number(place / "heartbeat") or 0.0) * own.heartbeat
            found.append(Life(seconds, own.preparing, own.job, own.host))
    return found


def spent(run_folder: Path, seconds: float) -> dict[str, float]:
    """A record's cost over all starts: the last one, which this process is, has taken `seconds` so far."""
    starts = lives(run_folder)
    wall = seconds + sum(life.seconds for life in starts[:-1])
    allocated = wall + sum(life.preparing for life in starts)
    return {"wall_seconds": wall, "allocated_seconds": allocated, "starts": float(len(starts))}


def leave_words(run_folder: Path, generation: int, rank: int, text: str) -> None:
    """Tells the other ranks why this one failed."""
    (_generation_folder(run_folder / "claim", generation) / f"rank{rank}.error").write_text(text)


def words_of_ranks(run_folder: Path, generation: int) -> dict[int, str]:
    """What failed ranks have said, by rank."""
    paths = _generation_folder(run_folder / "claim", generation).glob("rank*.error")
    ranks = {path: path.stem.removeprefix("rank") for path in paths}
    return {int(rank): text for path, rank in ranks.items() if rank.isdecimal() and (text := _text(path))}


def fruitless_restarts(run_folder: Path, job: str | None) -> int:
    """How many times in a row, up to now, `job` has started the run without a new checkpoint, or piece of
    an evaluation, since the last start."""
    folder = run_folder / "claim"
    now, count = _progress(run_folder), 0
    for generation in range(_newest(folder), 0, -1):
        earlier = _read_owner(folder, generation)
        if earlier is None or earlier.job != job or earlier.progress != now:
            break
        count += 1
    return count


def _held(folder: Path, generation: int, patience: float) -> bool:
    known = _known_held(folder, generation)
    if known is not None:
        return known
    heartbeat = _generation_folder(folder, generation) / "heartbeat"
    seen, end = _text(heartbeat), time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(min(1.0, patience / 10))
        if _text(heartbeat) != seen or _newest(folder) != generation:
            return True
        if _known_held(folder, generation) is False:
            return False
    return False


def _known_held(folder: Path, generation: int) -> bool | None:
    if _is_released(folder, generation):
        return False
    other = _read_owner(folder, generation)
    if other is None:
        return False  # a claim is renamed into place complete: one that cannot be read was deleted or damaged
    job, cluster = scheduler.own_job(), os.environ.get("SLURM_CLUSTER_NAME")
    same_cluster = other.job is not None and other.cluster == cluster
    if same_cluster and other.job == job and other.restart != _restart_count():
        return False  # this job was requeued: what is left of its earlier life finds out in `check`
    if other.machine == _machine():
        return _process_lives(other)
    if not same_cluster:
        return None
    return True if other.job == job else scheduler.is_active(str(other.job))


def _process_lives(other: Owner) -> bool:
    try:
        return other.process() is not None
    except psutil.AccessDenied:
        return True


def _this_process(run_folder: Path, heartbeat_seconds: float) -> Owner:
    begun = os.environ.get("BSGAL_BENCH_JOB_BEGAN", "")
    return Owner(
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        process_started=psutil.Process().create_time(),
        process_ticks=_start_ticks(os.getpid()),
        job=scheduler.own_job(),
        cluster=os.environ.get("SLURM_CLUSTER_NAME"),
        restart=_restart_count(),
        progress=_progress(run_folder),
        taken=time.time(),
        preparing=max(0.0, time.time() - float(begun)) if begun.isdecimal() else 0.0,
        heartbeat=heartbeat_seconds,
    )


def _machine() -> str:
    """Equal for two processes that can see each other's process ids: same boot, same process namespace."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _start_ticks(pid: int) -> int | None:
    """When a process started, in ticks since its machine did; None if it is gone, or /proc does not say."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _restart_count() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _progress(run_folder: Path) -> str:
    facts = []
    for path in sorted(path for kind in ("checkpoint", "evaluation") for path in (run_folder / kind).rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # another rank deletes what is complete
            facts.append((str(path.relative_to(run_folder)), path.stat().st_size, path.stat().st_mtime_ns))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _newest(folder: Path) -> int:
    return max(_generations(folder), default=0)


def _generations(folder: Path) -> list[int]:
    """The existing ones, ascending."""
    try:
        return sorted(int(name) for name in os.listdir(folder) if _GENERATION.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_released(folder: Path, generation: int) -> bool:
    return (_generation_folder(folder, generation) / "released").exists()


def _generation_folder(folder: Path, generation: int) -> Path:
    return folder / f"{generation:06d}"


def _read_owner(folder: Path, generation: int) -> Owner | None:
    try:
        path = _generation_folder(folder, generation) / "owner.json"
        owner: Owner | None = read_json(path, Owner, "a claim", "delete its folder")
        return owner
    except (OSError, Damaged):
        return None


def _number(path: Path) -> float | None:
    try:
        number = float(_text(path) or "")
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _text(path: Path) -> str | None:
    try:
        content = read_bytes(path, MOST_WORDS)
    except (OSError, Damaged):
        return None
    return None if content is None else content.decode(errors="replace")
