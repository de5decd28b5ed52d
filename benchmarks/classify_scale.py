"""The classifier at the paper's size: an index of 266,136 synthetic images and 656 photos, from index to the end of a run.

Every command runs in a process of its own, whose peak memory the kernel reports. Two runs that differ only in the images drawn
give the rate (the difference in time), the start-up (what is left) and the growth of memory. Network and pictures are tiny, so
that data and not arithmetic is measured. The reference of the ratio is memory for all pictures decoded at 224 px.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._paper_size import IMAGES, write

FEW, MANY = 2_048, 32_768


def _measure(argv: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of one command."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root / "workflow"), os.environ.get("PYTHONPATH")]))
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "cgddi.cli", *argv], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"cgddi {argv[0]} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def run() -> dict:
    """One row: peak memory of a run against all pictures in memory, with times and memory of the steps before it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        arguments = write(root)
        index, leakage = str(root / "index.parquet"), str(root / "leakage.json")

        def spec(**keys) -> str:
            path = root / f"{keys['stage']}.spec.json"
            path.write_text(json.dumps({"split": "big", "seed": 1, **keys}))
            return str(path)

        indexing = _measure(["index", "--spec", spec(stage="index"), *arguments, "--output", index])
        audit = spec(stage="audit", settings={"near_duplicates": "off"})
        gate = _measure(["audit", "leakage", "--spec", audit, "--index", index, "--output", leakage, "--threads", "1"])

        def train(images: int) -> tuple[float, float]:
            net = {"backbone": "test_resnet", "weights": "random", "epochs": 1, "batch_size": 64}
            options = {"training": net, "image_size": 32, "precision": "fp32", "min_concept_images": 1}
            settings = {**options, "images_per_epoch": images, "selection": "last", "sampler": "tone_class_concept"}
            regime = {"stage": "classify", "regime": "synthetic", "method": "baseline", "run_seed": 0}
            job = spec(**regime, settings=settings)
            places = ["--index", index, "--leakage", leakage, "--output-dir", str(root / "run"), "--threads", "1"]
            return _measure(["classify", "--spec", job, *places])

        few, many = train(FEW), train(MANY)
        rate = (MANY - FEW) / max(1e-9, many[0] - few[0])
        everything = IMAGES * 3 * 224 * 224 / 2**20
        return {
            "name": "classify_scale",
            "unit": "MiB at most",
            "ours": round(many[1]),
            "reference": round(everything),
            "ratio": round(everything / many[1], 1),
            "images": IMAGES,
            "growth": f"{many[1] - few[1]:.0f} MiB from {FEW} to {MANY} images drawn",
            "start-up": f"{few[0] - FEW / rate:.0f} s",
            "rate": f"{rate:.0f} images/s with 32 px pictures and one thread",
            "index": f"{indexing[0]:.0f} s, {indexing[1]:.0f} MiB",
            "leakage gate, near-duplicates off": f"{gate[0]:.0f} s, {gate[1]:.0f} MiB",
        }
