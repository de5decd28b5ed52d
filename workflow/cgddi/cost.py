"""Predict the GPU-hours of a plan, before it is launched, from the rates that finished jobs recorded.

Every GPU job appends a line to its `*.metrics.jsonl` in the log folder: stage, steps or images, seconds, device. The rate of a
stage is the median of seconds per step, image or job on one model of device. Run one disease first (config key
`only_concepts`), then ask for the whole.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cgddi.config import config_option, load_config
from cgddi.errors import UserError
from cgddi.jobs import GPU_STAGES, all_jobs
from cgddi.plan import Plan
from cgddi.status import survey

BY_JOB = ("fedd_segmenter", "fedd_baseline", "audit", "classify")
"""Stages whose jobs are alike enough to count them whole."""


@dataclass(frozen=True)
class Used:
    """What one finished job used: its stage, device, seconds, and amounts by unit ("jobs" is 1)."""

    stage: str
    device: str
    seconds: float
    amounts: dict[str, float]


def recorded(folders: Iterable[str | Path]) -> list[Used]:
    """Read every `*.metrics.jsonl` under some folders; lines that are no summary of a finished job are passed over."""
    found = []
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.metrics.jsonl")):
            for line in path.read_text(errors="replace").splitlines():
                try:
                    facts = json.loads(line)
                    stage, device, seconds = facts["stage"], str(facts["device"]), float(facts["seconds"])
                except (json.JSONDecodeError, KeyError, TypeError, ValueError):
                    continue
                amounts = {unit: float(facts[unit]) for unit in ("steps", "images") if facts.get(unit)}
                if stage in GPU_STAGES and seconds > 0 and (amounts or stage in BY_JOB):
                    found.append(Used(stage, device, seconds, {**amounts, "jobs": 1}))
    return found


@dataclass(frozen=True)
class Line:
    """Cost of one stage: jobs and GPU-hours of the whole plan and of what is left; hours are None where no rate is known."""

    stage: str
    jobs: int
    left: int
    unit: str
    rate: float | None
    measured: int
    hours: float | None
    hours_left: float | None


def predict(plan: Plan, used: Iterable[Used], undone: set[str]) -> list[Line]:
    """Cost by stage.

    Args:
        plan: the plan.
        used: what finished jobs used, on one model of device.
        undone: results (first outputs) of jobs that are not done.
    """
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for job in used:
        for unit, amount in job.amounts.items():
            rates[job.stage, unit].append(job.seconds / amount)
    lines = []
    jobs = [job for job in all_jobs(plan) if job.on_gpu]
    for stage in GPU_STAGES:
        of_stage = [job for job in jobs if job.stage == stage]
        if not of_stage:
            continue
        unit = of_stage[0].unit
        seen = rates.get((stage, unit), [])
        rate = median(seen) if seen else None
        left = [job for job in of_stage if job.outputs[0] in undone]
        hours, hours_left = (
            None if rate is None else rate * sum(job.amount for job in some) / 3600 for some in (of_stage, left)
        )
        lines.append(Line(stage, len(of_stage), len(left), unit, rate, len(seen), hours, hours_left))
    return lines


def main(argv: list[str]) -> int:
    """Print the predicted cost of a configuration."""
    parser = argparse.ArgumentParser(
        prog="cgddi cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    config_option(parser)
    parser.add_argument(
        "--rates", action="append", default=[], metavar="DIR", help="results folder to take rates from too (repeatable)"
    )
    parser.add_argument("--device", help="model of device to predict for (default: the one that worked longest)")
    parser.add_argument(
        "--gpus", type=int, default=1, help="GPUs at once, for the time it takes (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line per stage")
    args = parser.parse_args(argv)
    if args.gpus < 1:
        raise UserError("--gpus must be at least 1.")
    plan = Plan(load_config(*args.configfile))
    used = recorded([plan.config.results, *args.rates])
    by_device: dict[str, float] = defaultdict(float)
    for job in used:
        by_device[job.device] += job.seconds
    device = args.device or max(by_device, key=lambda name: by_device[name], default=None)
    if args.device and args.device not in by_device:
        known = ", ".join(sorted(by_device)) or "none"
        raise UserError(f"--device {args.device}: no job ran on it. Recorded devices: {known}.")
    undone = {job.outputs[0] for job, state, _ in survey(plan, Path.cwd()) if state != "done"}
    lines = predict(plan, [job for job in used if job.device == device], undone)
    if args.json:
        for line in lines:
            print(json.dumps({**line.__dict__, "device": device}))
        return 0
    print(f"GPU-hours of {' '.join(args.configfile)}, at rates recorded on {device or 'no device yet'}\n")
    print(f"{'stage':14} {'jobs':>6} {'left':>6}  {'rate':22} {'GPU-hours':>10} {'left':>10}")
    for line in lines:
        rate = "not known yet" if line.rate is None else f"{line.rate:.3g} s/{line.unit[:-1]} ({line.measured})"
        hours = ["?" if h is None else f"{h:.2f}" for h in (line.hours, line.hours_left)]
        print(f"{line.stage:14} {line.jobs:6} {line.left:6}  {rate:22} {hours[0]:>10} {hours[1]:>10}")
    total, left = (sum(getattr(line, key) or 0 for line in lines) for key in ("hours", "hours_left"))
    print(f"{'together':14} {'':6} {'':6}  {'':22} {total:10.2f} {left:10.2f}")
    if any(line.rate is not None for line in lines):
        hours = left / args.gpus
        print(f"\nWhat is left takes at least {hours:.2f} h on {args.gpus} GPU(s), waiting in the queue not counted.")
    unknown = [line.stage for line in lines if line.rate is None]
    if unknown:
        print(
            f"\nNot counted, for want of a finished job: {', '.join(unknown)}. Run one disease first (only_concepts)."
        )
    return 0
