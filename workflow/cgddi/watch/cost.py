"""Predict the GPU-hours of a plan, before it is launched, from the rates that finished jobs recorded.

Run one disease first (config key `only_concepts`), then ask for the whole, with --rates naming that run's results. A stage of
which no job has finished is counted at a default rate, marked with `*`: the paper's figures on an NVIDIA L4, or a guess. The
prediction is also kept in the results' log folder, where the report compares it with what the run took.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cgddi.core.errors import UserError
from cgddi.plan.config import config_option, load_config
from cgddi.plan.plan import Plan
from cgddi.watch.rates import Line, main_device, predict, recorded, save_prediction
from cgddi.watch.status import survey


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
    devices = {job.device for job in used}
    if args.device and args.device not in devices:
        known = ", ".join(sorted(devices)) or "none"
        raise UserError(f"--device {args.device}: no job ran on it. Recorded devices: {known}.")
    device = args.device or main_device(used)
    found = survey(plan, Path.cwd())
    undone = {job.outputs[0] for job, state, _ in found if state != "done"}
    lines = predict(plan, [job for job, _, _ in found], [job for job in used if job.device == device], undone)
    save_prediction(plan, lines, device)
    if args.json:
        for line in lines:
            print(json.dumps({**line.__dict__, "device": device}))
    else:
        print(f"GPU-hours of {plan.config.results}, at rates recorded on {device or 'no device yet'}\n")
        print("\n".join(table(lines, args.gpus)))
    return 0


def table(lines: list[Line], gpus: int) -> list[str]:
    """The prediction as lines of text: stages, the sum, and what it rests on."""
    found = [f"{'stage':14} {'jobs':>6} {'left':>6}  {'rate':22} {'GPU-hours':>10} {'left':>10}"]
    for line in lines:
        rate = f"{line.rate:.3g} s/{line.unit[:-1]} " + (f"({line.measured})" if line.measured else "*")
        found.append(
            f"{line.stage:14} {line.jobs:6} {line.left:6}  {rate:22} {line.hours:10.2f} {line.hours_left:10.2f}"
        )
    total, left = sum(line.hours for line in lines), sum(line.hours_left for line in lines)
    found.append(f"{'together':14} {'':6} {'':6}  {'':22} {total:10.2f} {left:10.2f}")
    found.append(
        f"\nWhat is left takes at least {left / gpus:.2f} h on {gpus} GPU(s), waiting in the queue not counted."
    )
    guessed = [line.stage for line in lines if not line.measured]
    if guessed:
        found.append(
            f"\n* No job has finished yet: {', '.join(guessed)}. Counted at default rates, the paper's on an NVIDIA L4 or a guess, "
            "which can be several times off. Run one disease first (only_concepts)."
        )
    return found
