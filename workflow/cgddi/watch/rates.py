"""Rates: what one step, image or job of a GPU stage takes, recorded by finished jobs or, before any has finished, published. Light.

Every GPU job appends a line to its `*.metrics.jsonl` in the log folder: stage, steps or images, seconds, device, peak memory and
utilisation of the device. A stage's rate is the median of seconds per step, image or job on one model of device.
"""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cgddi.plan.jobs import GPU_STAGES, Job, all_jobs
from cgddi.plan.plan import Plan

BY_JOB = ("fedd_segmenter", "fedd_baseline", "audit", "classify")
"""Stages whose jobs are alike enough to count them whole."""

UNET_CALL = 116 / 73
"""Seconds of one UNet call of sampling: the paper's stated 116 s per image, by 73 calls (100 PNDM steps at strength 0.725)."""


@dataclass(frozen=True)
class Used:
    """What one finished job used: its stage, device, seconds, and amounts by unit ("jobs" is 1)."""

    stage: str
    device: str
    seconds: float
    amounts: dict[str, float]


def recorded(folders: Iterable[str | Path]) -> list[Used]:
    """Read every `*.metrics.jsonl` under some folders; lines that are no summary of a finished GPU job are passed over."""
    found = []
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.metrics.jsonl")):
            for line in path.read_text(errors="replace").splitlines():
                try:
                    facts = json.loads(line)
                    stage, device, seconds = facts["stage"], str(facts["device"]), float(facts["seconds"])
                except (json.JSONDecodeError, KeyError, TypeError, ValueError):
                    continue
                if stage not in GPU_STAGES or facts.get("kind") not in (None, "quality"):
                    continue
                amounts = {unit: float(facts[unit]) for unit in ("steps", "images") if facts.get(unit)}
                if seconds > 0 and (amounts or stage in BY_JOB):
                    found.append(Used(stage, device, seconds, {**amounts, "jobs": 1}))
    return found


def main_device(used: Iterable[Used]) -> str | None:
    """The model of device on which the jobs worked longest."""
    by_device: dict[str, float] = defaultdict(float)
    for job in used:
        by_device[job.device] += job.seconds
    return max(by_device, key=lambda name: by_device[name], default=None)


def rates(used: Iterable[Used]) -> dict[tuple[str, str], list[float]]:
    """(stage, unit) -> seconds per unit of each job."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for job in used:
        for unit, amount in job.amounts.items():
            found[job.stage, unit].append(job.seconds / amount)
    return found


def default_rate(plan: Plan, stage: str) -> float:
    """Seconds per unit of a stage that no job has recorded yet.

    Embedding and LoRA: the paper's 40 and 33 minutes a run on an NVIDIA L4, at its 500 and 750 steps. Sampling and inpainting: its
    116 s an image, by the calls of the UNet that this configuration makes. The rest is a guess: half an hour a classifier or
    segmenter, a quarter of an hour an audit, a second for the mask or the features of an image.
    """
    config = plan.config
    return {
        "embedding": 40 * 60 / 500,
        "lora": 33 * 60 / 750,
        "semantic": UNET_CALL * config.semantic.steps * config.semantic.strength,
        "healthy": 2.0 if config.healthy.method == "biharmonic" else UNET_CALL * config.healthy.steps,
        "classify": 1800.0,
        "audit": 900.0,
        "masks": 1.0,
        "fedd_features": 1.0,
    }.get(stage, 1800.0)


@dataclass(frozen=True)
class Line:
    """Cost of one stage: jobs and GPU-hours of the whole plan and of what is left.

    Args:
        measured: finished jobs behind the rate; 0 where the rate is the default one.
    """

    stage: str
    jobs: int
    left: int
    unit: str
    rate: float
    measured: int
    hours: float
    hours_left: float


def predict(plan: Plan, jobs: Iterable[Job], used: Iterable[Used], undone: set[str]) -> list[Line]:
    """Cost by stage.

    Args:
        plan: the plan, for the default rates.
        jobs: its jobs.
        used: what finished jobs used, on one model of device.
        undone: results (first outputs) of jobs that are not done.
    """
    known = rates(used)
    by_stage: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        if job.on_gpu:
            by_stage[job.stage].append(job)
    lines = []
    for stage in GPU_STAGES:
        if not (of_stage := by_stage.get(stage)):
            continue
        unit = of_stage[0].unit
        seen = known.get((stage, unit), [])
        rate = median(seen) if seen else default_rate(plan, stage)
        left = [job for job in of_stage if job.outputs[0] in undone]
        hours, hours_left = (rate * sum(job.amount for job in some) / 3600 for some in (of_stage, left))
        lines.append(Line(stage, len(of_stage), len(left), unit, rate, len(seen), hours, hours_left))
    return lines


def prediction_file(results: str | Path) -> Path:
    """Where the predictions of a results folder lie, JSON lines: when, device, stages."""
    return Path(results) / "logs" / "plan.jsonl"


def save_prediction(plan: Plan, lines: Iterable[Line] | None = None, device: str | None = None) -> None:
    """Append what the whole plan is predicted to take, for the report to compare with what it took.

    Args:
        plan: the plan.
        lines: the prediction; made here, from this folder's own rates, when not given (as a run does when it starts).
        device: the model of device behind the rates.
    """
    launched = lines is None
    if launched:
        used = recorded([plan.config.results])
        device = main_device(used)
        lines = predict(plan, all_jobs(plan), [job for job in used if job.device == device], set())
    path = prediction_file(plan.config.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    keys = ("stage", "jobs", "unit", "rate", "measured", "hours")
    stages = [{key: getattr(line, key) for key in keys} | {"left": None if launched else line.left} for line in lines]
    with open(path, "a", encoding="ascii") as log:
        log.write(json.dumps({"when": when, "device": device, "stages": stages}) + "\n")
