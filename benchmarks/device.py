"""What one device does with this code: `python -m benchmarks device --budget SECONDS --out FOLDER [--parts PART ...]`.

Each part is a process with a limit of its own, so that a crash or a hang costs that part alone; results are lines in
FOLDER/results.jsonl as they come, beside the parts' output (log.txt), errors.txt and tables of kernels. Nothing is downloaded:
base models have the true architecture and random weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

LIMITS = {
    "machine": 60,
    "tests": 120,
    "lora": 150,
    "token": 120,
    "sampling": 150,
    "whole": 200,
    "classify": 90,
    "profile": 110,
    "scripts": 120,
}
"""Parts in their order, and the most seconds of each; a budget beyond their sum stretches them all (a CPU, a shared machine)."""


def run(budget: float = 600, out: str | Path = "device-check", parts: Sequence[str] = tuple(LIMITS)) -> Iterator[dict]:
    """Run parts until the budget is spent.

    Args:
        budget: seconds in all.
        out: folder of the results.
        parts: which of `LIMITS`.
    """
    root, out, end = Path(__file__).parents[1], Path(out), time.monotonic() + budget
    out.mkdir(parents=True, exist_ok=True)
    paths = [str(root / "workflow"), str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    for name in parts:
        left, began = end - time.monotonic(), time.monotonic()
        limit = LIMITS[name] * max(1, budget / sum(LIMITS.values()))
        if left < 10:
            yield _row({"name": f"{name} left out", "why": "the budget is spent"})
            continue
        read = _lines(out)
        with open(out / "log.txt", "a") as log:
            log.write(f"==== {name}\n")
            log.flush()
            argv = [sys.executable, "-m", "benchmarks._device", name, str(out)]
            try:
                rc = subprocess.run(
                    argv, cwd=root, env=env, stdout=log, stderr=log, timeout=min(left, limit)
                ).returncode
            except subprocess.TimeoutExpired:
                rc = "stopped at its limit"
        for line in _lines(out)[len(read) :]:
            yield _row(json.loads(line))
        yield _row({"name": f"part {name}", "rc": rc, "seconds": round(time.monotonic() - began, 1)})


def _lines(out: Path) -> list[str]:
    path = out / "results.jsonl"
    return path.read_text().splitlines() if path.is_file() else []


def _row(facts: dict) -> dict:
    """As the other benchmarks' rows, which have these four."""
    return {"unit": "", "ours": "", "reference": "", "ratio": "", **facts}
