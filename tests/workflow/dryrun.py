"""What a dry-run would run: job counts by rule, and the jobs' messages."""

from __future__ import annotations

import re
from pathlib import Path

from tests.workflow.paper_scale import snakemake


def dry_run(folder: Path, *arguments: str) -> str:
    """What `snakemake -n` prints."""
    return snakemake(folder, "-n", "--cores", "1", *arguments).stdout


def counts(folder: Path, *arguments: str) -> dict[str, int]:
    """Rule -> number of jobs a dry-run would run, `all` left out."""
    table = re.search(r"^Job stats:\n.*?\n-.*?\n(.*?)^total ", dry_run(folder, *arguments), re.M | re.S)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    return {rule: int(number) for rule, number in rows if rule != "all"}


def messages(folder: Path, *arguments: str) -> set[str]:
    """Messages of the jobs a dry-run would run, e.g. "masks of ddi, batch nevus.000"."""
    return set(re.findall(r"^Job \d+: (.*)$", dry_run(folder, *arguments), re.M))
