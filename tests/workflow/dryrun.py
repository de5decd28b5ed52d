"""What a dry-run would run: job counts by rule, and the jobs' messages."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from tests.workflow.paper_scale import ROOT, snakemake


def in_process(folder: Path, *arguments: str) -> str:
    """What Snakemake prints, run in this process: one of its own is seconds of imports."""
    from snakemake import cli

    text = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            cli.main(["--snakefile", str(ROOT / "Snakefile"), *arguments])
        except SystemExit as end:
            assert end.code == 0, text.getvalue()
    return text.getvalue()


def dry_run(folder: Path, *arguments: str) -> str:
    """What `snakemake -n` prints. Another Snakefile than this project's has code of its own, and so a process."""
    words = ["-n", "--cores", "1", *arguments]
    own = {"-s", "--snakefile"} & {*arguments}
    return snakemake(folder, *words).stdout if own else in_process(folder, *words)


def counts(folder: Path, *arguments: str) -> dict[str, int]:
    """Rule -> number of jobs a dry-run would run, `all` left out."""
    table = re.search(r"^Job stats:\n.*?\n-.*?\n(.*?)^total ", dry_run(folder, *arguments), re.M | re.S)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    return {rule: int(number) for rule, number in rows if rule != "all"}


def messages(folder: Path, *arguments: str) -> set[str]:
    """Messages of the jobs a dry-run would run, e.g. "masks of ddi, batch nevus.000"."""
    return set(re.findall(r"^Job \d+: (.*)$", dry_run(folder, *arguments), re.M))
