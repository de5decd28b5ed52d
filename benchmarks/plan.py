"""Planning at the paper's scale: dry-run, no-op and add-a-disease, beside an empty workflow in the same run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.workflow.paper_scale import ROOT, add_disease, finish, paper_scale

REPEATS = 3


def _seconds(command: list[str], folder: Path) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return round(statistics.median(times), 2)


def run() -> list[dict]:
    """Three rows: plan, no-op, add a disease; `ratio` is the empty workflow's time over ours (at most 1)."""
    snakemake = [sys.executable, "-m", "snakemake", "-n", "-q"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty.smk").write_text("rule all:\n")
        empty = _seconds([*snakemake, "-s", "empty.smk"], folder)
        config = paper_scale(folder)
        ours = [*snakemake, "-s", str(ROOT / "Snakefile"), "--configfile", str(config)]
        times = {"plan": _seconds(ours, folder)}
        finish(folder, config)
        times["no-op"] = _seconds(ours, folder)
        add_disease(folder)
        times["add a disease"] = _seconds(ours, folder)
    return [
        {
            "name": f"plan: {case}",
            "unit": "s",
            "ours": seconds,
            "reference": empty,
            "ratio": round(empty / seconds, 3),
            "goal": "<= 5 s each on an idle machine; reference is an empty workflow",
        }
        for case, seconds in times.items()
    ]
