"""Leases: each GPU job of a node runs on a device of its own, whoever started it.

Snakemake counts GPUs but pins no job to one. A lease is a lock (`flock`) on a node-local file, one per device and slot, held
by the job's own process: the kernel drops it on any death, kill -9 included, so no device is ever lost and none is shared
unless asked for. The pool is the inherited CUDA_VISIBLE_DEVICES, else what `nvidia-smi -L` lists.
A lease does nothing on a node without a GPU, and in a SLURM job that was given just the GPUs it asks for. In an allocation of
several GPUs (`salloc --gpus=4`) it shares these out among the jobs that run there.
"""

import argparse
import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cgddi.core.errors import UserError

FOLDER = "/tmp/cgddi-leases"
"""Node-local and shared by all users of the node; CGDDI_LEASE_DIR moves it."""

ASKED = "CGDDI_GPUS"
"""In the environment of a job: how many GPUs it asked for."""


def listed_devices() -> dict[str, str]:
    """Devices `nvidia-smi -L` lists: index or UUID -> UUID. A device cut into MIG slices is replaced by its slices."""
    if shutil.which("nvidia-smi") is None:
        return {}
    try:
        text = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found: dict[str, str] = {}
    parent: tuple[str, str] | None = None
    for line in text.splitlines():
        if whole := re.match(r"GPU (\d+):.*\(UUID: (GPU-[^)]+)\)", line):
            parent = (whole[1], whole[2])
            found[whole[1]] = found[whole[2]] = whole[2]
        elif part := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line):
            if parent:
                for name in parent:
                    found.pop(name, None)
            found[part[1]] = part[1]
    return found


def pool() -> list[tuple[str, str]]:
    """Devices this process may use: (name for CUDA_VISIBLE_DEVICES, name of its lock)."""
    inherited = os.environ.get("CUDA_VISIBLE_DEVICES")
    if inherited is None:
        return [(uuid, uuid) for uuid in dict.fromkeys(listed_devices().values())]
    names = [name.strip() for name in inherited.split(",")]
    valid = names[: next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))]
    known = listed_devices() if valid else {}
    return [(name, known.get(name, name)) for name in dict.fromkeys(valid)]


def runs_per_gpu() -> int:
    """How many jobs may share a device (CGDDI_RUNS_PER_GPU, default 1)."""
    text = os.environ.get("CGDDI_RUNS_PER_GPU", "1")
    if not text.isdigit() or not 1 <= int(text) <= 64:
        raise UserError(f"CGDDI_RUNS_PER_GPU is {text!r}: give the number of jobs that may share a GPU, 1 to 64.")
    return int(text)


def _open(name: str) -> int:
    """A descriptor of a lock file that any user of the node may lock; reading is enough to lock."""
    folder = Path(os.environ.get("CGDDI_LEASE_DIR", FOLDER))
    path = folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock"
    try:
        try:
            folder.mkdir(parents=True)
            folder.chmod(0o1777)
        except FileExistsError:
            pass
        try:
            # Not O_CREAT on a file that is there: the kernel forbids that for another user's file in a sticky folder.
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            try:
                handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
            except FileExistsError:
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            os.fchmod(handle, stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)
            return handle
    except OSError as error:
        raise UserError(
            f"{path}: cannot be used for GPU leases ({error.strerror}). Set CGDDI_LEASE_DIR to a folder on this node's own "
            "disk that all its users can write."
        ) from error


def _try(devices: Sequence[tuple[str, str]], count: int, runs: int) -> dict[str, int] | None:
    """Lock `count` devices at once, or none. Devices with the fewest runs are taken first.

    Returns:
        Name of each device -> the descriptor that holds it.
    """
    turn = _open("turn")
    try:
        # One at a time, so that two jobs that want several devices never hold half of them each.
        fcntl.flock(turn, fcntl.LOCK_EX)
        held: dict[str, int] = {}
        for slot in range(runs):
            for name, lock in devices:
                if name in held or len(held) == count:
                    continue
                handle = _open(f"{lock}.{slot}")
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held[name] = handle
                except BlockingIOError:
                    os.close(handle)
        if len(held) == count:
            return held
        for handle in held.values():
            os.close(handle)
        return None
    finally:
        os.close(turn)


def acquire(count: int = 1) -> dict[str, int]:
    """Wait for devices, and show only them to CUDA. Call before torch is imported.

    Args:
        count: devices wanted, all or none; 0 hides every device, since a CPU job must not take memory on one.

    Returns:
        Name of each device -> the descriptor that holds its lock until it is closed or the process dies. Empty where there
        is nothing to choose (see the module's text).

    Raises:
        UserError: more devices are wanted than there are.
    """
    allocation = os.environ.get("SLURM_JOB_ID")
    os.environ[ASKED] = str(count)
    if count == 0:
        if allocation is None:  # a site's GPUs may be asked for by --gres, with `gpu: 0`
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return {}
    devices = pool()
    if not devices or (allocation and len(devices) <= count):
        return {}
    if allocation:
        devices = [(name, lock if "-" in lock else f"{lock}-in-{allocation}") for name, lock in devices]
    if len(devices) < count:
        raise UserError(f"{count} GPUs are wanted, but this job may use {len(devices)}. Lower `gpu` of its rule.")
    runs, waited = runs_per_gpu(), 0
    while (held := _try(devices, count, runs)) is None:
        if waited % 1200 == 0:
            names = ", ".join(name for name, _ in devices)
            print(f"waiting for a GPU: all of {names} are taken ({runs} run(s) each)", file=sys.stderr, flush=True)
        waited += 1
        time.sleep(0.5)
    names = [name for name, _ in devices if name in held]
    if all(name.isdigit() for name in names):
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    return held


def main(argv: list[str]) -> int:
    """Run a command under a lease: the lease passes to it, and ends when it and all its children have ended."""
    parser = argparse.ArgumentParser(
        prog="cgddi lease",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Environment: CGDDI_RUNS_PER_GPU jobs that may share a device (default 1), CGDDI_LEASE_DIR where the locks lie.",
    )
    parser.add_argument("--gpus", type=int, default=1, help="devices wanted, all or none (default 1; 0 hides all)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what to run")
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.gpus < 0:
        raise UserError("Nothing to run. Write: cgddi lease [--gpus N] -- COMMAND")
    for handle in acquire(args.gpus).values():
        os.set_inheritable(handle, True)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise UserError(f"cannot run {command[0]}: {error.strerror}") from error
