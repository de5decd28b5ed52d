"""Predict the GPU hours of what is left to do, from the rates that finished jobs recorded.

Run one disease first (config key `only_concepts`), then ask for the whole, with --rates naming that run's results. A stage of
which no job has finished is counted at a default rate, marked with `*`: the paper's figures on an NVIDIA L4, or a guess. What is
left is what `snakemake -n` would run. The prediction is also kept in the results' log folder, where the report compares it with
what the run took.
"""

from __future__ import annotations

import csv
import datetime
import glob
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.core.source import source_commit
from cgddi.job.runtime import read_usage
from cgddi.plan.config import config_option
from cgddi.plan.sheets import TONES
from cgddi.stages.classify.settings import regime_of, training_of
from cgddi.watch.dag import Job, ask_snakemake, read_jobs

if TYPE_CHECKING:
    from cgddi.plan.jobs import Plan

UNITS = {
    **dict.fromkeys(("embedding", "lora"), "steps"),
    **dict.fromkeys(("masks", "healthy", "semantic", "fedd_features", "classify"), "images"),
}
"""Stage -> what its work is counted in; jobs of other stages are alike enough to count them whole."""
UNET_CALL = 116 / 73
"""Seconds of one UNet call of sampling: the paper's stated 116 s per image, by 73 calls (100 PNDM steps at strength 0.725)."""


# ---- rates of finished jobs


@dataclass(frozen=True)
class Used:
    """What one finished job used: its stage, device, seconds, its work in the stage's unit, and a classifier's method."""

    stage: str
    device: str
    seconds: float
    amount: float
    method: str | None = None


def recorded(folders: Iterable[str | Path]) -> list[Used]:
    """What GPU jobs used, by the last lines of every `*.metrics.jsonl` under some folders.

    Passed over: lines that are no summary of a job, runs that failed, and work that took no GPU.
    """
    found = []
    for facts in (facts for folder in folders for facts in read_usage(folder)):
        stage, seconds = facts["stage"], float(facts["seconds"])
        amount = float(facts.get(UNITS[stage]) or 0) if stage in UNITS else 1.0
        if seconds > 0 and amount > 0 and not facts.get("failed") and facts.get("kind") in (None, "quality"):
            found.append(
                Used(stage, str(facts["device"]), seconds, amount, facts.get("method") if stage == "classify" else None)
            )
    return found


def main_device(used: Iterable[Used], jobs: Iterable[Job]) -> str | None:
    """The model of device on which jobs of those stages that take a GPU worked longest."""
    stages = {job.stage for job in jobs if job.gpu}
    by_device: dict[str, float] = defaultdict(float)
    for done in used:
        if done.stage in stages:
            by_device[done.device] += done.seconds
    return max(by_device, key=lambda name: by_device[name], default=None)


def default_rate(plan: Plan, stage: str, method: str | None = None) -> float:
    """Seconds per unit of a stage, and of a classifier's method, that no job has recorded yet.

    Embedding and LoRA: the paper's 40 and 33 minutes a run on an NVIDIA L4, at its 500 and 750 steps. Sampling and inpainting: its
    116 s an image, by the calls of the UNet that this configuration makes. The rest is a guess: 1,000 images a second trained on by
    a ResNet-18 and 150 by PatchAlign's ViT, half an hour a segmenter, a quarter of an hour an audit, a second for the mask or the
    features of an image.
    """
    config = plan.config
    return {
        "embedding": 40 * 60 / 500,
        "lora": 33 * 60 / 750,
        "semantic": UNET_CALL * config.semantic.steps * config.semantic.strength,
        "healthy": 2.0 if config.healthy.method == "heal" else UNET_CALL * config.healthy.steps,
        "classify": 1 / 150 if method == "patchalign" else 1 / 1000,
        "audit": 900.0,
        "masks": 1.0,
        "fedd_features": 1.0,
    }.get(stage, 1800.0)


# ---- the work of the plan


def amount(job: Job, plan: Plan) -> int:
    """Size of a job's work in its stage's unit, from its spec: steps, images, or 1 where jobs are counted whole."""
    spec, unit = job.spec, UNITS.get(job.stage)
    if unit == "steps":
        return int(spec["settings"]["steps"])
    if job.stage == "semantic":
        return samples(plan, job.wildcards["scope"], job.wildcards["canvas_cohort"])
    if job.stage == "classify":
        return trained_on(plan, spec)
    if unit == "images":
        return len(next(spec[key] for key in ("rows", "images") if key in spec))
    return 1


def samples(plan: Plan, scope: str, cohort: str) -> int:
    """Images that a semantic job draws if review keeps every canvas and none fails its check: both are known only later."""
    settings = plan.config.semantic
    roles = plan.roles.get(scope)
    tones = [p.skin_tone for p in plan.masked(cohort) if roles is None or roles.get(p.image_id) == "train"]
    canvases = min(len(tones), settings.max_canvases or len(tones))
    of_tone = [tones.count(tone) for tone in TONES] if settings.canvas_tones == "same" else [canvases] * 3
    wanted = [min(count, canvases) * settings.repeats for count in of_tone]
    return sum(min(count, settings.per_tone or count) for count in wanted)


def trained_on(plan: Plan, spec: dict[str, Any]) -> int:
    """Images that a classifier's training goes through, in all its epochs.

    Where an epoch is every image (`images_per_epoch: null`), they are as many as the plan can know: every canvas kept, every sample
    passed.
    """
    settings, regime, split = plan.config.classify, regime_of(spec), spec["split"]
    epochs = settings.finetune_epochs if regime.init else training_of(settings, spec["method"]).epochs
    if settings.images_per_epoch:
        return epochs * settings.images_per_epoch
    scope, roles = plan.scope_of(split), plan.roles[split]
    canvases = {c: sum(roles.get(p.image_id) == "train" for p in plan.masked(c)) for c in plan.canvas_cohorts}
    images = {
        "real": sum(role == "train" for role in roles.values()),
        "healthy": sum(canvases.values()),
        "lesion_mapped": sum(canvases[c] for c, donor in plan.pairs if roles.get(donor.image_id) == "train"),
        "semantic": sum(samples(plan, scope, cohort) for of, cohort, _ in plan.samples if of == scope),
    }
    return epochs * sum(images[source] for source in regime.sources)


@dataclass(frozen=True)
class Line:
    """Cost of one stage: jobs and GPU hours of the whole plan and of what is left.

    Args:
        measured: finished jobs behind the rate, which is a mean over the work where methods differ; 0 where any rate is a default.
    """

    stage: str
    jobs: int
    left: int
    unit: str
    rate: float
    measured: int
    hours: float
    hours_left: float


def predict(plan: Plan, jobs: Iterable[Job], used: Iterable[Used], device: str | None) -> list[Line]:
    """Cost by stage, in the order of the work.

    Args:
        jobs: its jobs, upstream first; those that take no GPU are passed over.
        device: the model of device whose rates count.
    """
    rates: dict[tuple[str, str | None], list[float]] = defaultdict(list)
    for done in used:
        if done.device == device:
            rates[done.stage, done.method].append(done.seconds / done.amount)
    by_stage: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        if job.gpu:
            by_stage[job.stage].append(job)
    lines = []
    for stage, of_stage in by_stage.items():
        method_of = {job: job.spec["method"] if stage == "classify" else None for job in of_stage}
        methods = set(method_of.values())
        measured = {method: len(rates[stage, method]) for method in methods}
        rate = {m: median(rates[stage, m]) if measured[m] else default_rate(plan, stage, m) for m in methods}
        work = {job: amount(job, plan) for job in of_stage}
        seconds = {job: rate[method_of[job]] * work[job] for job in of_stage}
        left = [job for job in of_stage if job.planned]
        hours, hours_left = (sum(seconds[job] for job in some) / 3600 for some in (of_stage, left))
        mean = sum(seconds.values()) / max(sum(work.values()), 1)
        known = sum(measured.values()) if all(measured.values()) else 0
        lines.append(Line(stage, len(of_stage), len(left), UNITS.get(stage, "jobs"), mean, known, hours, hours_left))
    return lines


# ---- what is kept for the report


def save_prediction(plan: Plan, lines: Iterable[Line], device: str | None, launched: bool = False) -> None:
    """Append a prediction to `logs/plan.jsonl` of the results, for the report to compare with what the run took.

    Args:
        device: the model of device behind the rates.
        launched: whether it was made when a run started, not when a person asked.
    """
    path = Path(plan.config.results) / "logs" / "plan.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    keys = ("stage", "jobs", "unit", "rate", "measured", "hours")
    stages = [{key: getattr(line, key) for key in keys} | {"left": None if launched else line.left} for line in lines]
    with open(path, "a", encoding="ascii") as log:
        log.write(json.dumps({"when": when, "commit": source_commit(), "device": device, "stages": stages}) + "\n")


def predict_at_start(workflow: Any, plan: Plan) -> None:
    """Keep what the whole plan is predicted to take, where a run's DAG ends in the report: for the Snakefile's `onstart`."""
    jobs, used = read_jobs(workflow.dag, plan), recorded([plan.config.results])
    if all(job.stage != "report" for job in jobs):
        return
    device = main_device(used, jobs)
    save_prediction(plan, predict(plan, jobs, used, device), device, launched=True)


def hours_again(workflow: Any, plan: Plan) -> float:
    """GPU hours that jobs are predicted to take which will run though their results are there."""
    jobs = [job for job in read_jobs(workflow.dag, plan) if job.planned and not job.missing]
    used = recorded([plan.config.results])
    return sum(line.hours for line in predict(plan, jobs, used, main_device(used, jobs)))


def seconds_by_rule(workflow: Any) -> dict[str, float]:
    """Rule -> seconds that its jobs took here before, the median of Snakemake's own measures; 0 for rules that only name targets.

    For the line of progress, which otherwise knows what a job takes when the first has finished.
    """
    found = {rule.name: 0.0 for rule in workflow.rules if not rule.output}
    for rule in workflow.rules:
        if rule.benchmark:
            pattern = re.sub(r"\{[^}]*\}", "*", str(rule.benchmark))
            took = [float(row["s"]) for path in glob.glob(pattern) for row in _benchmark(path)]
            found.update({rule.name: median(took)} if took else {})
    return found


def _benchmark(path: str) -> list[dict[str, str]]:
    """Rows of a benchmark file that hold seconds; none where it is cut off or no such file."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file, delimiter="\t") if re.fullmatch(r"[\d.]+", row.get("s") or "")]
    except (OSError, UnicodeDecodeError):
        return []


# ---- what a person is shown


def main(argv: list[str]) -> int:
    """Print the predicted cost of a configuration."""
    parser = command_parser("cost", __doc__)
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
    plan, jobs = ask_snakemake(args.configfile)
    used = recorded([plan.config.results, *args.rates])
    devices = {job.device for job in used}
    if args.device and args.device not in devices:
        known = ", ".join(sorted(devices)) or "none"
        raise UserError(f"--device {args.device}: no job ran on it. Recorded devices: {known}.")
    device = args.device or main_device(used, jobs)
    lines = predict(plan, jobs, used, device)
    save_prediction(plan, lines, device)
    if args.json:
        for line in lines:
            print(json.dumps({**line.__dict__, "device": device}))
    else:
        print(f"GPU hours of {plan.config.results}, at rates recorded on {device or 'no device yet'}\n")
        print("\n".join(table(lines, args.gpus)))
    return 0


def table(lines: list[Line], gpus: int) -> list[str]:
    """The prediction as lines of text: stages, the sum, and what it rests on."""
    found = [f"{'stage':14} {'jobs':>6} {'left':>6}  {'rate':22} {'GPU hours':>10} {'left':>10}"]
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
            f"\n* No job has finished yet: {', '.join(guessed)}. Counted at default rates, the paper's on an "
            "NVIDIA L4 or a guess (an H100 needs a twentieth to a fortieth for tokens, adapters and samples), which can be "
            "several times off. Run one disease first (only_concepts)."
        )
    return found
