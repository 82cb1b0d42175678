"""A real SLURM on one machine, for tests: controller, nodes with fake GPUs, with accounting or without.

Every daemon runs in the foreground as a child of this process, under the user who runs the tests, on free ports, with
all its files in one folder; nothing of the system's own configuration is read or changed.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "mungekey", "slurmdbd", "mariadbd", "mariadb-install-db")
PACKAGES = "slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core mariadb-client-core"
NODES, CPUS, GPUS = 3, 4, 2
# Debian puts daemons where an ordinary user's PATH does not look.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONTROLLER = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=20
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
SlurmctldParameters=preempt_send_user_signal
DependencyParameters=kill_invalid_depend
FirstJobId={first_job}
MaxArraySize=2001
MaxJobCount=5000
JobRequeue=1
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{accounting}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=strict Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=0
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={database_port}
AccountingStoragePass={folder}/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,wckeys
TrackWCKey=yes"""
DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={database_port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=accounts
CommitDelay=0
TrackWCKey=yes
"""
SMALL_DATABASE = (
    "--innodb-log-file-size=4M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-lock-wait-timeout=900",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--aria-log-file-size=8M",
    "--skip-log-bin",
)


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


class Cluster:
    """A running cluster. environment: variables under which SLURM's commands find it."""

    def __init__(self, folder: Path, accounting: bool) -> None:
        self.folder = folder
        self.accounting = accounting
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def command(self, *words: str, check: bool = True) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def start(self) -> None:
        self._write_configuration()
        subprocess.run(["mungekey", "--create", f"--keyfile={self.folder}/munge.key"], env=self.environment, check=True)
        parts = {"socket": "sock", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{ending}" for option, ending in parts.items()]
        self._spawn("munged", "munged", "--foreground", "--force", "--num-threads=4", *options)
        self.wait_for(lambda: (self.folder / "munge.sock").exists())
        if self.accounting:
            self._start_accounting()
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        for number in range(1, NODES + 1):
            self.start_node(number)
        self.wait_for(lambda: self._idle_nodes() == NODES)

    def stop(self) -> None:
        self.command("scancel", f"--user={getpass.getuser()}", check=False)
        with contextlib.suppress(TimeoutError, RuntimeError):
            self.wait_for(lambda: not self.command("squeue", "--noheader", check=False).strip(), 20)
        for name in reversed(list(self._daemons)):
            self._end(name, signal.SIGTERM)

    def start_node(self, number: int) -> None:
        self._spawn(f"slurmd-n{number}", "slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", f"n{number}")

    def kill_node(self, number: int) -> None:
        """Kills a node's daemon without warning; the jobs' own processes live on, as they do on a real node."""
        self._end(f"slurmd-n{number}", signal.SIGKILL)

    def logs(self) -> str:
        """The end of every daemon's output, for a failed test."""
        texts = (f"== {path.name}\n" + path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.log"))
        return "\n".join(texts)

    def wait_for(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while True:
            asked = time.monotonic()
            if condition():
                return
            answered = time.monotonic()
            for name, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    raise RuntimeError(f"{name} ended with {daemon.returncode}\n{self.logs()}")
            if answered > end:
                raise TimeoutError(f"not within {seconds:.0f} s\n{self.logs()}")
            time.sleep(max(0.05, 4 * (answered - asked)))  # a fifth of the time at most goes into asking

    def _idle_nodes(self) -> int:
        names = self.command("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N", check=False)
        return len(set(names.split()))

    def _write_configuration(self) -> None:
        with contextlib.ExitStack() as stack:
            ports = [
                stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(NODES + 2)
            ]
        values = {
            "folder": self.folder,
            "host": socket.gethostname().partition(".")[0],
            "user": getpass.getuser(),
            "controller_port": ports[0],
            "database_port": ports[1],
            # Job ids of another cluster must not come again: submitit would take its files for the new job's.
            "first_job": secrets.randbelow(60_000_000) + 1,
            "nodes": "\n".join(
                f"NodeName=n{number} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} "
                f"RealMemory=16000 Gres=gpu:{GPUS} State=UNKNOWN"
                for number, port in enumerate(ports[2:], 1)
            ),
        }
        accounting = ACCOUNTING.format(**values) if self.accounting else "AccountingStorageType=accounting_storage/none"
        (self.folder / "slurm.conf").write_text(CONTROLLER.format(accounting=accounting, **values))
        (self.folder / "slurmdbd.conf").write_text(DATABASE.format(**values))
        (self.folder / "slurmdbd.conf").chmod(0o600)
        for number in range(GPUS):
            (self.folder / f"gpu{number}").symlink_to("/dev/null")
        gpus = f"NodeName=n[1-{NODES}] Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n"
        (self.folder / "gres.conf").write_text(gpus)
        for name in ("state", *(f"spool-n{number}" for number in range(1, NODES + 1))):
            (self.folder / name).mkdir()

    def _start_accounting(self) -> None:
        data, user = self.folder / "mariadb", getpass.getuser()
        common = [f"--user={user}", f"--datadir={data}", *SMALL_DATABASE]
        root = ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={user}", "--skip-test-db"]
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", *root, *common], env=self.environment, check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        sock = self.folder / "mariadb.sock"
        self._spawn(
            "mariadbd", "mariadbd", "--no-defaults", f"--socket={sock}", f"--pid-file={self.folder}/mariadb.pid",
            "--skip-networking", *common,
        )  # fmt: skip
        ask = ["mariadb", "--no-defaults", f"--socket={sock}", "--execute=select 1"]
        self.wait_for(lambda: subprocess.run(ask, env=self.environment, capture_output=True).returncode == 0)
        self._spawn("slurmdbd", "slurmdbd", "-D", MYSQL_UNIX_PORT=str(sock))
        self.wait_for(lambda: self._answers("sacctmgr", "--noheader", "show", "cluster"))
        # The one workload key that this user may name, taken where a job names none.
        self.command("sacctmgr", "--immediate", "add", "cluster", "tests")
        key = ("wckey=plain", "defaultwckey=plain")
        self.command("sacctmgr", "--immediate", "add", "user", user, "account=root", *key)

    def _answers(self, *words: str) -> bool:
        return subprocess.run(words, env=self.environment, capture_output=True).returncode == 0

    def _spawn(self, name: str, *words: str, **variables: str) -> None:
        with (self.folder / f"{name}.out.log").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                words, env={**self.environment, **variables}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    def _end(self, name: str, number: signal.Signals) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


@contextmanager
def running_cluster(folder: Path, accounting: bool) -> Iterator[Cluster]:
    """A cluster below `folder`, which is best in memory: everything is written and read many times."""
    cluster = Cluster(folder, accounting)
    try:
        # Ports are free until the daemons take them: another session's cluster must not choose the same ones.
        with FileLock(Path(tempfile.gettempdir()) / f"bsgal-bench-slurm-{getpass.getuser()}.lock"):
            cluster.start()
        yield cluster
    finally:
        cluster.stop()
