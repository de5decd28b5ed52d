"""Whether a SLURM cluster can give what the jobs will ask for, at every attempt: asked of SLURM itself before anything is queued.

A job that asks for more than its partition has waits for ever, or is refused, without a word from Snakemake.
"""

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cgddi.core.errors import Problem, UserError

FORGETS = 60
"""Seconds of MinJobAge below which SLURM may forget a job's end before anybody has asked for it."""


@dataclass(frozen=True)
class Asked:
    """What the jobs of one rule ask for at one attempt: minutes, MB, GPUs (0: none) of a model (None: any), a partition (None: the
    default one)."""

    rule: str
    attempt: int
    minutes: int | None
    memory: int | None
    gpus: int = 0
    model: str | None = None
    partition: str | None = None


def asked(jobs: Iterable[Any], retries: int) -> set[Asked]:
    """What Snakemake's jobs ask the cluster for, at the first and each further attempt; jobs that run beside Snakemake are none."""
    found = set()
    for job in jobs:
        # `job.is_local` asks whether Snakemake has an executor for other machines: planning alone has none.
        if job.rule.name in job.dag.workflow._localrules or not job.output:
            continue
        for attempt in range(1, retries + 2):
            job.attempt = attempt
            resources = job.resources
            gres = re.match(r"gpu(?::([A-Za-z]\w*))?(?::(\d+))?", str(resources.get("gres") or ""))
            gpus, model = int(resources.get("gpu") or 0), resources.get("gpu_model")
            if gres and not gpus:
                gpus, model = int(gres[2] or 1), gres[1]
            one = Asked(
                job.rule.name,
                attempt,
                _number(resources.get("runtime")),
                _number(resources.get("mem_mb")),
                gpus,
                model,
                resources.get("slurm_partition"),
            )
            found.add(one)
        job.attempt = 1
    return found


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]} did not answer ({error}). Try again when the cluster does.") from error
    if done.returncode:
        raise UserError(f"{command[0]} failed: {done.stderr.strip()} Try again when the cluster answers.")
    return done.stdout


def minutes(text: str) -> int | None:
    """Minutes of SLURM's DAYS-HOURS:MINUTES:SECONDS; None for UNLIMITED."""
    if not (match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)):
        return None
    days, hours, mins, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + mins


@dataclass(frozen=True)
class Partition:
    """A partition's limits: minutes and MB a node (None: no limit), the models of its GPUs, what becomes of preempted jobs."""

    name: str
    default: bool
    minutes: int | None
    memory: int | None
    gpus: frozenset[str]
    preempt: str


def partitions() -> dict[str, Partition]:
    """Partitions that this user sees."""
    config = settings()
    memory: dict[str, int] = defaultdict(int)
    models: dict[str, set[str]] = defaultdict(set)
    for line in _ask("sinfo", "--all", "--exact", "--noheader", "--format=%R|%m|%G").splitlines():
        name, size, gres = line.split("|", 2)
        memory[name] = max(memory[name], int(re.sub(r"\D", "", size) or 0))
        models[name] |= {model or "gpu" for model in re.findall(r"gpu(?::([A-Za-z]\w*))?:?\d*", gres)}
    found = {}
    for line in _ask("scontrol", "show", "partition", "--oneliner").splitlines():
        facts = dict(field.split("=", 1) for field in line.split() if "=" in field)
        name, most = facts["PartitionName"], facts.get("MaxMemPerNode", "UNLIMITED")
        limit = min([size for size in (memory[name], int(most) if most.isdigit() else 0) if size], default=None)
        preempt = facts.get("PreemptMode", config.get("PreemptMode", "OFF"))
        if config.get("PreemptType", "").endswith("none"):
            preempt = "OFF"
        default = facts.get("Default") == "YES"
        found[name] = Partition(
            name, default, minutes(facts.get("MaxTime", "")), limit, frozenset(models[name]), preempt
        )
    return found


def settings() -> dict[str, str]:
    """`scontrol show config`: key -> value."""
    lines = (line.partition("=") for line in _ask("scontrol", "show", "config").splitlines())
    return {key.strip(): value.strip() for key, _, value in lines if value}


def problems(wanted: Iterable[Asked], known: Mapping[str, Partition]) -> list[Problem]:
    """What the cluster will never give, a line for each kind and partition."""
    groups: dict[tuple[str, str], list[Asked]] = defaultdict(list)
    default = next((partition.name for partition in known.values() if partition.default), None)
    for one in wanted:
        name = str(one.partition or default or "")
        # several may be named: the job starts in the first that can take it
        places = [known[part] for part in name.split(",") if part in known]
        if not name:
            groups["unnamed", ""].append(one)
        elif not places:
            groups["unknown", name].append(one)
        else:
            if one.minutes and all(place.minutes and one.minutes > place.minutes for place in places):
                groups["time", name].append(one)
            if one.memory and all(place.memory and one.memory > place.memory for place in places):
                groups["memory", name].append(one)
            if one.gpus and not any(place.gpus and (one.model in (None, *place.gpus)) for place in places):
                groups["gpu", name].append(one)
    return [_problem(kind, name, jobs, known) for (kind, name), jobs in sorted(groups.items())]


def _problem(kind: str, name: str, jobs: list[Asked], known: Mapping[str, Partition]) -> Problem:
    rules = ", ".join(sorted({job.rule for job in jobs}))
    first = min(job.attempt for job in jobs)
    when = f" from attempt {first} on" if first > 1 else ""
    source, named = "the cluster", f"partition {name}"
    limits = [known[part] for part in name.split(",") if part in known]
    if kind == "unnamed":
        return Problem(source, f"it has no default partition, and {rules} name none", "Set `slurm_partition`.")
    if kind == "unknown":
        names = ", ".join(sorted(known))
        return Problem(source, f"there is no {named} ({rules})", f"Set `slurm_partition` to one of {names}.")
    if kind == "time":
        most, asked_for = max(place.minutes or 0 for place in limits), max(job.minutes or 0 for job in jobs)
        text = f"{named} gives at most {most} minutes, {rules} ask for up to {asked_for}{when}: such jobs never start"
        return Problem(
            source, text, f"Set `max_runtime={most}` under `config:` of the profile: trainings go on next time."
        )
    if kind == "memory":
        most, asked_for = max(place.memory or 0 for place in limits), max(job.memory or 0 for job in jobs)
        text = f"{named} gives at most {most} MB a node, {rules} ask for up to {asked_for}{when}: such jobs never start"
        return Problem(source, text, f"Set `max_mem={most}` under `config:` of the profile, or name another partition.")
    models = ", ".join(sorted({model for place in limits for model in place.gpus})) or "none"
    wanted = ", ".join(sorted({job.model or "any" for job in jobs}))
    text = f"{rules} ask for a GPU (model: {wanted}), {named} has {models}"
    return Problem(source, text, "Set `slurm_partition` and `gpu_model` of the GPU jobs under `set-resources`.")


def notes(wanted: Iterable[Asked], known: Mapping[str, Partition]) -> list[str]:
    """What a person should know of how this cluster treats jobs."""
    default = next((partition.name for partition in known.values() if partition.default), "")
    used = {part for one in wanted for part in str(one.partition or default).split(",")}
    lines = []
    for name in sorted(used & known.keys()):
        mode = known[name].preempt
        if mode != "OFF":
            then = "SLURM queues preempted jobs again" if "REQUEUE" in mode else "the run queues preempted jobs again"
            lines.append(f"partition {name}: PreemptMode={mode}; {then}, and they go on from their checkpoints")
    age = settings().get("MinJobAge", "")
    if (match := re.match(r"\d+", age)) and int(match[0]) < FORGETS:
        lines.append(f"MinJobAge={match[0]} s: of a job that SLURM has forgotten, its results tell how it ended")
    return lines
