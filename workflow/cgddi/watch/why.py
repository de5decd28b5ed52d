"""Say why a result would be made again: the difference between what it was made from and what is planned now.

The old is the spec in the record beside the result, the new is the spec that `snakemake` would give its job. Runs nothing.

    cgddi why results/ddi/lora/main/nevus      a file, or a folder of results
    cgddi why lora                             all jobs of a rule or stage
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.plan.config import config_option
from cgddi.watch.dag import Job, ask_snakemake

ABSENT = object()


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """What differs between two specs, a line per key (`steps: 5 -> 6`); of lists of photos, which came, went or changed."""
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list):
        before, after = _by_id(old), _by_id(new)
        if before is not None and after is not None:
            return _rows(before, after, place)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in sorted({*old, *new}):
            deeper = key if place in ("", "settings") else f"{place}.{key}"
            lines += differences(old.get(key, ABSENT), new.get(key, ABSENT), deeper)
        return lines
    if all(isinstance(value, str) and value.startswith("sha256:") for value in (old, new)):
        return [f"{place}: other content"]
    if old is ABSENT:
        return [f"{place}: new, {_short(new)}"]
    return [f"{place}: {_short(old)} -> gone" if new is ABSENT else f"{place}: {_short(old)} -> {_short(new)}"]


def _by_id(rows: list[Any]) -> dict[str, Any] | None:
    """Rows of photos, or their ids, by id; None for another kind of list."""
    if all(isinstance(row, dict) and "image_id" in row for row in rows):
        return {row["image_id"]: row for row in rows}
    return {row: row for row in rows} if all(isinstance(row, str) for row in rows) else None


def _rows(before: Mapping[str, Any], after: Mapping[str, Any], place: str) -> list[str]:
    changed = [name for name in before if name in after and before[name] != after[name]]
    groups = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": changed if len(changed) > 3 else [],
    }
    lines = [f"{place}: {len(names)} {what} ({_some(names)})" for what, names in groups.items() if names]
    if len(changed) <= 3:
        for name in changed:
            lines += differences(before[name], after[name], f"{place}.{name}")
    return lines or [f"{place}: in another order"]


def _some(names: list[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def made_from(job: Job) -> dict[str, Any] | None:
    """The spec that a job's result was made from; None where nothing tells.

    Raises:
        ValueError: the record beside the result cannot be read.
    """
    if job.made_from is None or not Path(job.made_from).exists():
        return None
    try:
        found = json.loads(Path(job.made_from).read_text())
        return found if "/.plan/" in job.made_from else found["spec"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{job.made_from} is not a record") from error


def causes(job: Job) -> list[str]:
    """What of a job itself changed since its result was made, a line each; not that it waits for another's.

    Of a job that is not planned: what its record and its spec differ in, which Snakemake does not see.
    """
    try:
        made = made_from(job)
    except ValueError as error:
        return [str(error)]
    lines = [] if made is None else differences({**made, "inputs": {}}, {**job.spec, "inputs": {}})
    if made is not None and not lines:  # else the same said twice
        lines = differences(made, job.spec)
    told = [line for line in lines if not re.match(r"labels: \d+ (added|removed)", line)]
    lines = told if told or job.renewed else lines  # photos that came or went are told as such
    if job.planned:
        lines += [f"{path} changed" for path in job.changed]
        if not (lines or job.missing or job.renewed):
            lines += [f"its {what} changed" for what in job.provenance] or ["its run was interrupted"]
    return lines


def explain(job: Job) -> list[str]:
    """Everything `why` says of one job."""
    lines = causes(job)
    if job.planned:
        waits = [other.name for other in job.needs if other.planned]
        absent = [f"{path} is not there" for path in job.missing[:1]]
        return [*absent, *lines, *([f"made again before it: {_some(waits)}"] if waits else [])]
    if job.missing:
        return [f"{job.missing[0]} is not there, but nothing left to do needs it: name it as a target to have it made"]
    if lines:
        return [*lines, "but Snakemake does not see it and keeps the result; delete that to have it made again"]
    unknown = "; Snakemake lacks its provenance, so only its spec and newer inputs would make it run"
    return ["nothing to do" + ("" if job.known else unknown)]


def chosen(jobs: list[Job], target: str) -> list[Job]:
    """The jobs that a file, a folder, a rule or a stage means."""
    path = str(Path(target))
    return [
        job
        for job in jobs
        if target in (job.rule, job.stage) or any(file == path or file.startswith(f"{path}/") for file in job.outputs)
    ]


def main(argv: list[str]) -> int:
    """Print why the jobs of a target would run."""
    parser = command_parser("why", __doc__)
    parser.add_argument("target", metavar="TARGET", help="a file or a folder of results, a rule or a stage")
    config_option(parser)
    args = parser.parse_args(argv)
    found = chosen(ask_snakemake(args.configfile)[1], args.target)
    if not found:
        raise UserError(f"{args.target}: no job of this configuration makes it. `cgddi status` lists its stages.")
    groups: dict[tuple[str, ...], list[str]] = {}
    for job in found:
        groups.setdefault(tuple(explain(job)), []).append(job.name)
    for lines, names in groups.items():
        print(f"{'; '.join(names[:3])}{f', and {len(names) - 3} more' if len(names) > 3 else ''}")
        print("".join(f"  {line}\n" for line in lines), end="")
    return 0
