"""The jobs that a target needs, found as Snakemake finds them: from its inputs, by the names of the files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from cgddi.plan.paths import RESULTS
from safetensors.numpy import save

PATTERNS = [
    (rule, re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+?)", re.escape(result.base)) + re.escape(ending)))
    for rule, result in RESULTS.items()
    for ending in result.files.values()
]


def job_of(path: str) -> tuple[str, dict[str, str]]:
    """Rule and wildcards of the job that makes a file; what is about one published table's runs lies below tables/."""
    path = re.sub(r"^tables/[a-z0-9]+/", "", path)
    found = [(rule, match.groupdict()) for rule, pattern in PATTERNS if (match := pattern.fullmatch(path))]
    return next((job for job in found if job[0] == "leakage"), None) or found[0]


def jobs(plan, *targets: str) -> dict[tuple, object]:
    """(rule, values of its wildcards) -> job, of all that the targets (rules without wildcards) need."""
    root, found = f"{plan.config.results}/", {}
    waiting = [(rule, {}) for rule in targets or ("report",)]
    if not targets:
        waiting += [job_of(path.removeprefix(root)) for path in plan.every_archive(plan.sources)]
        waiting += [("fedd_tables", {})] if plan.config.fedd.study else []
    while waiting:
        rule, wildcards = waiting.pop()
        key = rule, *(wildcards[name] for name in RESULTS[rule].wildcards)
        if key not in found:
            found[key] = job = plan.job(rule, **wildcards)
            for files in job.inputs.values():
                for path in [files] if isinstance(files, str) else files:
                    waiting.append(job_of(path.removeprefix(root)))
    return found


def counts(plan, *targets: str) -> dict[str, int]:
    """Rule -> number of jobs."""
    rules = [key[0] for key in jobs(plan, *targets)]
    return {rule: rules.count(rule) for rule in rules}


def weights(value: int) -> bytes:
    """A whole safetensors file, of the same size for every value."""
    return save({"weight": np.full(3, value, np.uint8)})


def write_model(folder: Path) -> None:
    """The least that counts as a whole model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights(1))
