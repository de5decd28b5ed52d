"""Start one job as several processes of this node, one per GPU. Light."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cgddi


def is_main() -> bool:
    """Whether this process is the first of those started together, or the only one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def relaunched(command: str, argv: Sequence[str] | None, num_processes: int) -> int | None:
    """Run a command again as `num_processes` processes that accelerate joins, and return its exit status.

    SIGTERM ends them all, and the status is then the usual 143.

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
    child = subprocess.Popen([sys.executable, "-m", *start, *given], env=env)
    asked: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        asked.append(number)
        child.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        status = child.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    return 128 + signal.SIGTERM if asked else status
