"""Find processes by their parents and sockets, for a node that has to die with all its jobs."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def _children() -> dict[int, list[int]]:
    tree: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            tree.setdefault(parent, []).append(int(entry.name))
    return tree


def descendants(pid: int) -> list[int]:
    """Pids of all processes below one."""
    tree, waiting, found = _children(), [pid], []
    while waiting:
        for child in tree.get(waiting.pop(), ()):
            found.append(child)
            waiting.append(child)
    return found


def step_daemons(spool: Path) -> list[int]:
    """Pids of the slurmstepd processes that serve a node: those that hold a socket in its spool directory open."""
    found = []
    sockets = {str(path) for path in spool.glob("node*_*")}
    inodes = {
        line.split()[6]
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]
        if len(line.split()) > 7 and line.split()[7] in sockets
    }
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            links = {os.readlink(link) for link in (entry / "fd").iterdir()}
        except OSError:
            continue
        if any(f"socket:[{inode}]" in links for inode in inodes):
            found.append(int(entry.name))
    return found


def kill(pid: int) -> None:
    """SIGKILL, if the process is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
