"""What a dry-run would run: job counts by rule, and the exact jobs with their reasons."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.workflow.paper_scale import snakemake

JOB = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", re.M)


def jobs(folder: Path, *arguments: str) -> dict[str, set[str]]:
    """Rule -> wildcards ("cohort=ddi, batch=nevus.000"; "" without any) of the jobs a dry-run would run."""
    text = snakemake(folder, "-n", "--cores", "1", *arguments).stdout
    found: dict[str, set[str]] = {}
    for rule, body in JOB.findall(text):
        wildcards = re.search(r"wildcards: (.*)", body)
        found.setdefault(rule, set()).add(wildcards[1] if wildcards else "")
    return found


def counts(folder: Path, *arguments: str) -> Counter:
    """Rule -> number of jobs a dry-run would run, `all` left out."""
    return Counter({rule: len(which) for rule, which in jobs(folder, *arguments).items() if rule != "all"})
