"""How many jobs the plans of the toy world and of the paper hold: `make dry-run` prints them and compares them with what is noted.

    python -m tests.workflow.job_counts             # print, and fail where a number is another one
    python -m tests.workflow.job_counts --write     # note the numbers

Needs no more than requirements-plan.txt.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import yaml
from cgddi.watch.dag import ask_snakemake

from tests.workflow.paper_scale import ROOT, paper_scale

NOTED = Path(__file__).with_name("job_counts.json")


def noted() -> dict[str, dict[str, int]]:
    """Plan -> rule -> number of jobs, as noted."""
    return json.loads(NOTED.read_text())


def planned(folder: Path) -> dict[str, dict[str, int]]:
    """The same, as Snakemake plans it: the toy world of `make demo`, the shipped config and the paper's on a DDI-shaped sheet.

    Args:
        folder: an empty folder for the DDI-shaped data set; the toy world lies in the project's data/toy.
    """
    config = paper_scale(folder)
    values = yaml.safe_load((ROOT / "config/paper/base.yaml").read_text()) | {"images": "images.csv"}
    (folder / "paper.yaml").write_text(yaml.safe_dump(values))
    return {
        "toy": _counts(ROOT, "config/toy/config.yaml"),
        "ddi": _counts(folder, str(config)),
        "paper": _counts(folder, "paper.yaml"),
    }


def _counts(folder: Path, config: str) -> dict[str, int]:
    """Rule -> number of jobs, done or not; in this process and without a dry-run's line of each, which saves seconds."""
    with contextlib.chdir(folder):
        return dict(Counter(job.rule for job in ask_snakemake([config])[1]))


def table(plans: dict[str, dict[str, int]]) -> str:
    """The counts as text, a column for each plan."""
    rules = list(dict.fromkeys(rule for plan in plans.values() for rule in plan))
    rows = [(rule, *(plan.get(rule, 0) for plan in plans.values())) for rule in rules]
    rows.append(("total", *(sum(plan.values()) for plan in plans.values())))
    return "\n".join(f"{name:<16}" + "".join(f"{each:>8}" for each in more) for name, *more in [("", *plans), *rows])


def main() -> int:
    """Print the counts; note them with `--write`."""
    with tempfile.TemporaryDirectory() as folder:
        plans = planned(Path(folder))
    print(table(plans))
    if "--write" in sys.argv:
        NOTED.write_text(json.dumps(plans, indent=1, sort_keys=True) + "\n")
        return 0
    before = noted()
    changes = [
        f"{name}: {rule} {before.get(name, {}).get(rule, 0)} -> {plan.get(rule, 0)}"
        for name, plan in plans.items()
        for rule in sorted({*plan, *before.get(name, {})})
        if plan.get(rule, 0) != before.get(name, {}).get(rule, 0)
    ]
    if changes:
        print(
            "\nOther jobs than noted (meant? then `python -m tests.workflow.job_counts --write`):", *changes, sep="\n  "
        )
    return int(bool(changes))


if __name__ == "__main__":
    sys.exit(main())
