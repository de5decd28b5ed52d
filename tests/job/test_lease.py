"""Leases on fake devices: one job per device under random kills, all or none, no-ops."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cgddi import cli
from cgddi.core.errors import UserError
from cgddi.job import lease

WORKFLOW = Path(lease.__file__).parents[2]

HOLDER = """
import os, sys, time
from pathlib import Path
from cgddi.job.lease import acquire
folder, seconds, count = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"
acquire(count)
mine = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
for device in mine:
    witness = folder / f"device{device}"
    other = witness.read_text() if witness.exists() else ""
    # A killed holder is marked before it is killed: its lock goes a moment before its process does.
    if other and alive(other) and not (folder / f"killed{other}").exists():
        (folder / f"violation{os.getpid()}").write_text(f"{device} was held by {other}")
    temporary = folder / f"{os.getpid()}.tmp"
    temporary.write_text(str(os.getpid()))
    os.replace(temporary, witness)
(folder / f"ran{os.getpid()}").write_text(",".join(mine))
time.sleep(seconds)
for device in mine:
    witness = folder / f"device{device}"
    if witness.exists() and witness.read_text() == str(os.getpid()):
        witness.unlink()
"""


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with two fake devices."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("CGDDI_LEASE_DIR", str(tmp_path / "leases"))
    monkeypatch.setenv("PYTHONPATH", str(WORKFLOW))
    return tmp_path


def holder(folder, seconds, count=1):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(seconds), str(count)], stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_no_two_live_jobs_share_a_device_under_random_kills(node, seed):
    """Thirty jobs, some wanting both devices, a third killed at random: never two on one device, and none waits for ever."""
    draw = random.Random(seed)
    waiting = [(draw.uniform(0.02, 0.15), draw.choice([1, 1, 1, 2])) for _ in range(30)]
    running, killed, finished = {}, 0, 0
    end = time.monotonic() + 300
    while waiting or running:
        assert time.monotonic() < end, "jobs wait for devices that nobody holds"
        while waiting and len(running) < 6:
            doom = draw.uniform(0, 0.2) if draw.random() < 1 / 3 else float("inf")
            running[holder(node, *waiting.pop())] = time.monotonic() + doom
        time.sleep(0.02)
        for job, doom in list(running.items()):
            if job.poll() is None and time.monotonic() > doom:
                (node / f"killed{job.pid}").touch()
                job.send_signal(signal.SIGKILL)
                killed, running[job] = killed + 1, float("inf")
            if job.poll() is not None:
                job.communicate()
                del running[job]
                finished += job.returncode == 0
    assert not [path.read_text() for path in node.glob("violation*")]
    assert killed >= 3 and finished >= 15


def test_a_shared_device_takes_as_many_runs_as_allowed_and_spreads_them(node, monkeypatch):
    monkeypatch.setenv("CGDDI_RUNS_PER_GPU", "2")
    devices = lease.pool()
    held = [lease._try(devices, 1, 2) for _ in range(5)]
    assert [list(h) for h in held[:4]] == [["0"], ["1"], ["0"], ["1"]]
    assert held[4] is None
    os.close(held[1]["1"])
    assert list(lease._try(devices, 1, 2)) == ["1"]


def test_several_devices_are_taken_all_or_none(node):
    devices = lease.pool()
    one = lease._try(devices, 1, 1)
    assert lease._try(devices, 2, 1) is None
    other = lease._try(devices, 1, 1)  # the failed attempt kept nothing
    assert {**one, **other}.keys() == {"0", "1"}
    for held in (one, other):
        os.close(*held.values())
    assert len(lease._try(devices, 2, 1)) == 2


def test_two_slots_of_one_device_are_not_two_devices(node):
    devices = lease.pool()
    full = [lease._try(devices[:1], 1, 2) for _ in range(2)]
    assert lease._try(devices, 2, 2) is None
    assert all(lease._try(devices[1:], 1, 2) for _ in range(2)), "the failed attempt kept nothing"
    os.close(full[0]["0"])
    assert list(lease._try(devices, 1, 2)) == ["0"]


def test_command_holds_the_lease_until_it_dies(node):
    """`cgddi lease -- COMMAND` becomes the command; a second one waits with a message and goes on when the first is killed."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "7"
    command = [sys.executable, "-m", "cgddi.cli", "lease", "--", "sh", "-c"]
    first = subprocess.Popen([*command, "echo $CUDA_VISIBLE_DEVICES; exec sleep 60"], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "7\n"
    second = subprocess.Popen(
        [*command, "echo $CUDA_VISIBLE_DEVICES"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "waiting for a GPU: all of 7 are taken" in second.stderr.readline()
    first.kill()
    assert second.communicate(timeout=60)[0] == "7\n"
    first.communicate()


def test_a_slurm_jobs_own_gpus_are_left_as_slurm_gave_them(node, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    for count in (0, 2, 9):
        assert lease.acquire(count) == {}
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert not (node / "leases").exists()


def test_an_allocation_of_several_gpus_is_shared_out_among_its_jobs(node, monkeypatch):
    """Indices mean another device in each allocation, so its number is part of the lock's name."""
    held = []
    for allocation, device in (("1", "0"), ("1", "1"), ("2", "0")):
        monkeypatch.setenv("SLURM_JOB_ID", allocation)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        held.append(lease.acquire(1))
        assert list(held[-1]) == [device] and os.environ["CUDA_VISIBLE_DEVICES"] == device


def test_nothing_happens_without_a_gpu(node, monkeypatch):
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert lease.acquire(1) == {}
        assert os.environ["CUDA_VISIBLE_DEVICES"] == none
    assert not (node / "leases").exists()


def test_a_cpu_job_sees_no_device(node):
    assert lease.acquire(0) == {} and os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_mistakes_are_explained(node, monkeypatch):
    with pytest.raises(UserError, match="3 GPUs are wanted, but this job may use 2"):
        lease.acquire(3)
    monkeypatch.setenv("CGDDI_RUNS_PER_GPU", "many")
    with pytest.raises(UserError, match="CGDDI_RUNS_PER_GPU"):
        lease.acquire(1)
    monkeypatch.setenv("CGDDI_RUNS_PER_GPU", "1")
    (node / "file").touch()
    monkeypatch.setenv("CGDDI_LEASE_DIR", str(node / "file" / "below"))
    with pytest.raises(UserError, match="CGDDI_LEASE_DIR"):
        lease.acquire(1)
    with pytest.raises(UserError, match="Nothing to run"):
        lease.main(["--"])


def test_the_pool_is_what_nvidia_smi_lists(tmp_path, monkeypatch):
    """Without CUDA_VISIBLE_DEVICES: UUIDs, MIG slices in place of their device; indices and UUIDs lock the same file."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text(
        "#!/bin/sh\ncat <<'END'\nGPU 0: NVIDIA A100 (UUID: GPU-aa)\n"
        "GPU 1: NVIDIA A100 (UUID: GPU-bb)\n  MIG 3g.20gb     Device  0: (UUID: MIG-b0)\n"
        "  MIG 3g.20gb     Device  1: (UUID: MIG-b1)\nEND\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [name for name, _ in lease.pool()] == ["GPU-aa", "MIG-b0", "MIG-b1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,MIG-b1,-1,GPU-aa")
    assert lease.pool() == [("0", "GPU-aa"), ("MIG-b1", "MIG-b1")]


def test_any_command_can_take_gpus_first(node, capsys):
    """`cgddi --gpus N COMMAND`, as the rules call it: the device is pinned in the command's own process."""
    code = "import sys; from cgddi import cli; cli.main(sys.argv[1:]); import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    done = subprocess.run([sys.executable, "-c", code, "--gpus", "1", "--help"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0" and "torch" not in done.stderr
    done = subprocess.run([sys.executable, "-c", code, "--gpus", "0", "--help"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == ""
    for wrong in (["--gpus"], ["--gpus", "-1"], ["--gpus", "two", "lora"], ["--gpus", "5", "lora"]):
        assert cli.main(wrong) == 2
        assert "GPU" in capsys.readouterr().err


SNAKEFILE = """
import sys

LEASE = f"{sys.executable} -m cgddi.cli lease -- sh -c"

rule all:
    input: expand("done/{n}", n=range(8))

rule train:
    output: "done/{n}"
    resources: gpu=1
    shell: "{LEASE} 'date +%s.%N; echo $CUDA_VISIBLE_DEVICES; sleep 0.3; date +%s.%N' >{output}"
"""


def test_snakemake_runs_each_gpu_job_on_a_device_of_its_own(node):
    """profiles/local-gpu with two devices: both are used, and no two jobs overlap on one."""
    (node / "Snakefile").write_text(SNAKEFILE)
    profile = str(WORKFLOW.parent / "profiles" / "local-gpu")
    command = [sys.executable, "-m", "snakemake", "--profile", profile, "--resources", "gpu=3", "--cores", "3"]
    done = subprocess.run(command, cwd=node, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held = {}
    for path in (node / "done").iterdir():
        begin, device, end = path.read_text().split()
        held.setdefault(device, []).append((float(begin), float(end)))
    assert held.keys() == {"0", "1"}
    for times in map(sorted, held.values()):
        assert all(end <= begin for (_, end), (begin, _) in zip(times, times[1:], strict=False))
