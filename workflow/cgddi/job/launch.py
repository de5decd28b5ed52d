"""Start one job as several processes of this node, one per GPU. Light."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cgddi


def relaunched(command: str, argv: Sequence[str] | None, num_processes: int) -> int | None:
    """Run a command again as `num_processes` processes that accelerate joins, and return its exit status.

    Returns:
        None where there is nothing to start: one process is wanted, or this is one of those started.
    """
    if num_processes == 1 or "LOCAL_RANK" in os.environ:
        return None
    paths = [str(Path(cgddi.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    start = [
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(num_processes),
        "-m",
        "cgddi.cli",
        command,
    ]
    given = sys.argv[2:] if argv is None else argv
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", *start, *given], env=env, check=False).returncode
