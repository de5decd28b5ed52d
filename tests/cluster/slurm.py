"""A real SLURM on this machine for tests: two nodes with two fake GPUs each, all on 127.0.0.1, without systemd.

`python -m tests.cluster.slurm` starts it in the foreground (Ctrl-C stops it), so that faults can be tried by hand.
Everything is stopped by the pid of the process that was started; nothing is looked up by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.cluster.processes import descendants, kill, step_daemons

CONFIG = Path("/etc/slurm")
"""The job steps drop SLURM_CONF, so the configuration has to lie where SLURM looks by itself."""
MARK = "# written by cgDDI's tests/cluster/slurm.py\n"
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")


class NoCluster(Exception):
    """This machine cannot run the test cluster; the text says why."""


def install() -> None:
    """Make SLURM and munge available.

    Raises:
        NoCluster: they are not installed and this user cannot install them.
    """
    os.environ["PATH"] = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if os.geteuid() != 0:
        raise NoCluster("the test cluster needs root: SLURM reads /etc/slurm and makes device files")
    install_packages(TOOLS, "slurm-wlm", "munge")


def install_packages(tools: Iterable[str], *packages: str) -> None:
    """Install packages where one of their tools is not there.

    Raises:
        NoCluster: it cannot be installed here.
    """
    if all(map(shutil.which, tools)):
        return
    names = " and ".join(packages)
    if shutil.which("apt-get") is None:
        raise NoCluster(f"SLURM is not installed, and there is no apt-get to install {names}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    for attempt in (["apt-get", "update"], None):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            return
        if attempt:
            subprocess.run(attempt, env=environment, capture_output=True, stdin=subprocess.DEVNULL)
    raise NoCluster(f"apt-get could not install {names}: {done.stderr.strip()[-300:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Slurm:
    """Two nodes (node1, node2) x two fake GPUs x 8 CPUs x 64 GB; partition `night` preempts `main`, whose jobs are queued
    again, and `scrap`, whose jobs are not; `brief` gives two minutes and 4 GB. Use as a context manager.

    Args:
        folder: where its state, logs and fake devices lie; a new temporary one by default.
        gpus: fake GPUs of each node, with four CPUs each.

    Raises:
        NoCluster: it cannot be started here; the text says why.
    """

    def __init__(self, folder: str | Path | None = None, gpus: int = 2):
        self.gpus = gpus
        self.folder = Path(folder or tempfile.mkdtemp(prefix="cgddi-slurm-"))
        self.daemons: dict[str, subprocess.Popen] = {}
        self.ports = [free_port() for _ in range(3)]
        self._alone: int | None = None

    # ---- start and stop ----------------------------------------------------------------------------

    def __enter__(self) -> Slurm:
        install()
        CONFIG.mkdir(exist_ok=True)
        self._alone = os.open(CONFIG / ".cgddi-test.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._alone)
            raise NoCluster("another test cluster is running on this machine (it holds /etc/slurm)") from None
        present = CONFIG / "slurm.conf"
        if present.exists() and not present.read_text().startswith(MARK):
            raise NoCluster("/etc/slurm/slurm.conf is a real cluster's: the tests leave it alone")
        try:
            self._configure()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _configure(self) -> None:
        for name in ("state", "spool", "log", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        for index in range(self.gpus):
            os.mknod(self.folder / f"fakegpu{index}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        here, folder = socket.gethostname(), self.folder
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={here} NodeAddr=127.0.0.1 Port={port} CPUs={4 * self.gpus} RealMemory=64000 "
            f"Gres=gpu:fake:{self.gpus}"
            for name, port in zip(("node1", "node2"), self.ports[1:], strict=True)
        )
        (CONFIG / "slurm.conf").write_text(
            f"""{MARK}ClusterName=cgddi-test
SlurmctldHost={here}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={self.ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdTimeout=10
KillWait=3
OverTimeLimit=0
MinJobAge=3600
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=night Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=scrap Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL
PartitionName=brief Nodes=ALL MaxTime=2 MaxMemPerNode=4000 State=UP PriorityTier=1
"""
        )
        (CONFIG / "gres.conf").write_text(
            f"{MARK}AutoDetect=off\nNodeName=node[1-2] Name=gpu Type=fake File={folder}/fakegpu[0-{self.gpus - 1}]\n"
        )
        (CONFIG / "cgroup.conf").write_text(f"{MARK}CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")

    def launch(self, name: str, *command: str, user: str | None = None) -> None:
        """Start a daemon, known by a name from then on."""
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=user,
                preexec_fn=_die_with_parent,
            )

    def _start(self) -> None:
        munge = self.folder / "munge"
        (munge / "munge.key").write_bytes(os.urandom(128))
        (munge / "munge.key").chmod(0o600)
        for path in (munge, munge / "munge.key"):
            shutil.chown(path, "munge", "munge")
        munge.chmod(0o755)
        self.launch(
            "munged",
            "munged",
            "--foreground",
            f"--socket={munge}/munge.socket",
            f"--key-file={munge}/munge.key",
            f"--pid-file={munge}/munged.pid",
            f"--log-file={munge}/munged.log",
            f"--seed-file={munge}/munged.seed",
            user="munge",
        )
        self.wait(lambda: (munge / "munge.socket").exists(), "munged did not start")
        self.start_controller()
        for node in ("node1", "node2"):
            self.start_node(node)
        self.wait(lambda: self.states() == {"node1": "IDLE", "node2": "IDLE"}, "the nodes did not come up")

    def wait(self, ready, complaint: str, seconds: float = 60) -> None:
        """Wait until something is so.

        Raises:
            NoCluster: it is not in time; the text ends with the daemons' logs.
        """
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                logs = "\n".join(p.read_text(errors="replace")[-800:] for p in sorted((self.folder / "log").iterdir()))
                raise NoCluster(f"{complaint} within {seconds:g} s:\n{logs}")
            time.sleep(0.2)

    def start_controller(self) -> None:
        """Start the controller; it knows its jobs again."""
        self.launch("slurmctld", "slurmctld", "-D")

    def stop_controller(self) -> None:
        """The controller goes away, as for an update: no command of SLURM gets an answer, what runs goes on."""
        self.end("slurmctld")

    def end(self, name: str, seconds: float = 30) -> None:
        """End a daemon that was started."""
        if (daemon := self.daemons.pop(name, None)) is None:
            return
        daemon.terminate()
        try:
            daemon.wait(seconds)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def set(self, **settings: object) -> None:
        """Change settings of the running cluster, e.g. MinJobAge."""
        path = CONFIG / "slurm.conf"
        text = path.read_text()
        for key, value in settings.items():
            text = re.sub(rf"^{key}=.*$", f"{key}={value}", text, flags=re.M)
        path.write_text(text)
        subprocess.run(["scontrol", "reconfigure"], check=True, timeout=60)

    def _of_node(self, node: str) -> list[int]:
        steps = [int(pid) for pid in step_daemons(self.folder / "spool" / node)]
        return [self.daemons[node].pid, *(pid for step in steps for pid in (step, *descendants(step)))]

    def hang_node(self, node: str) -> list[int]:
        """A node stops answering, with all its jobs; the processes that stand still, for `thaw`."""
        pids = self._of_node(node)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    @staticmethod
    def thaw(pids: list[int]) -> None:
        """A hung node goes on where it was."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self.launch(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """A node dies: its daemon, its job steps and their processes, at once and without a farewell."""
        victim = self.daemons.pop(node)
        steps = [int(pid) for pid in step_daemons(self.folder / "spool" / node)]
        victim.kill()
        victim.wait()
        for step in steps:
            for pid in [step, *descendants(step)]:
                kill(pid)

    def stop(self) -> None:
        """Stop every daemon that was started, and remove what was written."""
        if "slurmctld" in self.daemons and self.daemons["slurmctld"].poll() is None:
            for job in self.jobs():
                subprocess.run(["scancel", "--signal=KILL", "--full", job["JobId"]], capture_output=True, timeout=20)
                subprocess.run(["scancel", job["JobId"]], capture_output=True, timeout=20)
            end = time.monotonic() + 10
            while self.jobs() and time.monotonic() < end:
                time.sleep(0.2)
        for name in ("node1", "node2", "slurmctld", "munged"):
            self.end(name, 10)
        for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
            path = CONFIG / name
            if path.exists() and path.read_text().startswith(MARK):
                path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._alone is not None:
            os.close(self._alone)
            self._alone = None

    # ---- questions ---------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """Node -> state."""
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"], capture_output=True, text=True, timeout=30
        )
        return {line.split()[0]: line.split()[1].upper() for line in done.stdout.splitlines() if len(line.split()) == 2}

    def jobs(self, every: bool = False) -> list[dict[str, str]]:
        """Jobs as `scontrol show job` tells them (JobId, JobState, Comment, TresPerJob, MinMemoryNode, ...).

        Args:
            every: finished ones too (as long as SLURM remembers them, an hour).
        """
        done = subprocess.run(["scontrol", "show", "job", "--oneliner"], capture_output=True, text=True, timeout=30)
        found = []
        for line in done.stdout.splitlines():
            facts = dict(field.split("=", 1) for field in line.split() if "=" in field)
            if "JobId" in facts and (every or facts["JobState"] in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")):
                found.append(facts)
        return found


def _die_with_parent() -> None:
    """In a daemon before it starts: have the kernel end it when the process that started it dies, killed or not."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with Slurm() as cluster:
            print(f"SLURM is up: {cluster.states()}; logs in {cluster.folder}. Ctrl-C stops it.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("stopped")
    except NoCluster as reason:
        sys.exit(f"no cluster: {reason}")
