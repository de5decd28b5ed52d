"""Show per concept what is done, running, stale or missing, and why. Reads records and file times only; runs nothing.

done      its files are there, made from what the plan says now
stale     its files are there, but would be made again: settings, rows, code or an input changed
running   a Snakemake or the cluster is at it now (queued: the cluster has not started it yet)
missing   not made yet, or half made when a run died (`make recover`, then start again)
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cgddi.core.archive import file_sha256
from cgddi.core.errors import UserError
from cgddi.plan.config import config_option, load_config
from cgddi.plan.jobs import CHAIN, Job, all_jobs
from cgddi.plan.plan import Plan
from cgddi.watch.recover import cluster_jobs, controllers

PHOTOS = ("images", "rows", "train", "validation", "test")
"""Keys of a spec that list photos."""
STATES = ("done", "stale", "running", "queued", "missing")


def explain(made: Mapping[str, Any], planned: Mapping[str, Any], place: str = "") -> list[str]:
    """What differs between the spec a result was made from and the planned one, in words."""
    found = []
    for key in sorted({*made, *planned}):
        old, new, name = made.get(key), planned.get(key), f"{place}{key}"
        if old == new:
            continue
        if key == "source":
            found.append("the stage's code changed")
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            found += explain(old, new, "" if key == "settings" else f"{name}.")
        elif key in PHOTOS and isinstance(old, list) and isinstance(new, list):
            found.append(_photos_changed(old, new))
        else:
            found.append(f"{name}: {_short(old)} -> {_short(new)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _photos_changed(old: list[Any], new: list[Any]) -> str:
    def by_id(rows: list[Any]) -> dict[str, Any]:
        return {row["image_id"] if isinstance(row, dict) else row: row for row in rows}

    before, after = by_id(old), by_id(new)
    facts = {
        "added": len(after.keys() - before.keys()),
        "removed": len(before.keys() - after.keys()),
        "changed": sum(before[k] != after[k] for k in before.keys() & after.keys()),
    }
    return "photos " + (", ".join(f"{n} {what}" for what, n in facts.items() if n) or "in another order")


def unfinished(folder: Path) -> dict[str, str | None]:
    """Files whose job started and did not end yet, or died -> number of the cluster job. From Snakemake's own markers."""
    root, found = folder / ".snakemake" / "incomplete", {}
    for path in root.rglob("*") if root.is_dir() else ():
        if not path.is_file():
            continue
        code = "".join(part.removeprefix("@") for part in path.relative_to(root).parts)
        try:
            name = base64.urlsafe_b64decode(code).decode()
            job = json.loads(path.read_text() or "{}").get("external_jobid")
        except (binascii.Error, UnicodeDecodeError, json.JSONDecodeError, OSError):
            continue  # a marker that Snakemake is writing or removing right now
        found[name] = job
    return found


def _own_state(
    job: Job, markers: Mapping[str, str | None], alive: bool, cluster: Mapping[str, str] | None
) -> tuple[str, str]:
    """State of one job by itself, and why."""
    marked = [path for path in job.outputs if path in markers]
    if marked:
        number = markers[marked[0]]
        if number is not None and cluster is None:
            return "running", "as far as known: the cluster does not answer"
        if number is not None and number in cluster:
            state = "queued" if cluster[number] == "PENDING" else "running"
            return state, f"cluster job {number}"
        if alive:
            return "running", "Snakemake is at it"
        return "missing", "its run was interrupted"
    absent = [path for path in job.outputs if not Path(path).exists()]
    if len(absent) == len(job.outputs):
        return "missing", "not made yet"
    if absent:
        return "missing", f"{Path(absent[0]).name} was deleted"
    if job.record is None:
        return "done", ""
    try:
        record = json.loads(Path(job.record).read_text())
        made = record["spec"]
    except (json.JSONDecodeError, KeyError, TypeError, OSError):
        return "stale", f"{job.record} is not a record"
    why = explain(made, json.loads(job.spec))
    if why:
        return "stale", "; ".join(why)
    return _inputs_state(record.get("inputs", {}), os.stat(job.record).st_mtime)


def _inputs_state(inputs: Mapping[str, str], made: float) -> tuple[str, str]:
    """Whether an input that is newer than the result also has other bytes."""
    for path, digest in inputs.items():
        try:
            newer = os.stat(path).st_mtime > made
        except FileNotFoundError:
            continue
        if newer and file_sha256(path) != digest:
            return "stale", f"{path} changed"
    return "done", ""


def survey(plan: Plan, folder: Path) -> list[tuple[Job, str, str]]:
    """(job, state, why) of every job, upstream first. A result whose input is stale or missing is stale itself."""
    markers = unfinished(folder)
    cluster: dict[str, str] | None = {}
    if any(markers.values()):
        try:
            cluster = {job["id"]: job["state"] for job in cluster_jobs(folder)}
        except UserError:
            cluster = None
    alive = bool(markers) and bool(controllers(folder))
    found: list[tuple[Job, str, str]] = []
    not_done: dict[str, Job] = {}
    for job in all_jobs(plan):
        state, why = _own_state(job, markers, alive, cluster)
        waits = [not_done[path] for path in job.needs if path in not_done]
        if waits and state in ("done", "missing"):
            stages = Counter(other.stage for other in waits)
            text = "waits for " + ", ".join(f"{n} {stage}" for stage, n in stages.items())
            if state == "done":
                state, why = "stale", text
            elif why == "not made yet":
                why = text
        if state != "done":
            not_done[job.outputs[0]] = job
        found.append((job, state, why))
    return found


def _cell(states: Iterable[str]) -> str:
    """A table cell: `done`, or how many of how many are in which state."""
    counts = Counter(states)
    total = sum(counts.values())
    if total == 0:
        return "-"
    if len(counts) == 1:
        state = next(iter(counts))
        return state if total == 1 else f"{total} {state}"
    return " ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def table(found: list[tuple[Job, str, str]]) -> list[str]:
    """The table of concepts, and the line of pooled jobs."""
    by_concept: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    pooled: dict[str, list[str]] = defaultdict(list)
    for job, state, _ in found:
        if job.concept is None:
            pooled[job.stage].append(state)
        else:
            by_concept[job.concept][job.stage].append(state)
    rows = [["concept", *CHAIN]]
    rows += [[concept, *(_cell(stages[stage]) for stage in CHAIN)] for concept, stages in sorted(by_concept.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", "pooled: " + "; ".join(f"{stage} {_cell(states)}" for stage, states in pooled.items())]
    return lines


def reasons(found: list[tuple[Job, str, str]], shown: int = 3) -> list[str]:
    """Why jobs are not done, equal reasons of a stage on one line."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for job, state, why in found:
        if state != "done":
            key = "cluster job" if state in ("running", "queued") and why.startswith("cluster job") else why
            groups[state, job.stage, key].append(job.name if key == why else f"{job.name}: {why.split()[-1]}")
    lines = []
    for state in STATES[1:]:
        for (group_state, stage, why), names in groups.items():
            if group_state == state:
                more = f", and {len(names) - shown} more" if len(names) > shown else ""
                lines.append(f"{state:8} {stage}: {why} [{'; '.join(names[:shown])}{more}]")
    return lines


def main(argv: list[str]) -> int:
    """Print the status of a configuration's results in the working directory."""
    parser = argparse.ArgumentParser(
        prog="cgddi status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    config_option(parser)
    parser.add_argument("--concept", action="append", default=[], metavar="SLUG", help="only this concept (repeatable)")
    parser.add_argument("--json", action="store_true", help="one JSON line per job: stage, name, concept, state, why")
    args = parser.parse_args(argv)
    plan = Plan(load_config(*args.configfile))
    unknown = [slug for slug in args.concept if slug not in plan.concepts]
    if unknown:
        raise UserError(f"--concept {unknown[0]}: not in the disease sheet. Known: {', '.join(sorted(plan.concepts))}")
    found = survey(plan, Path.cwd())
    if args.concept:
        found = [item for item in found if item[0].concept in args.concept]
    if args.json:
        for job, state, why in found:
            print(
                json.dumps({"stage": job.stage, "name": job.name, "concept": job.concept, "state": state, "why": why})
            )
        return 0
    counts = Counter(state for _, state, _ in found)
    print(f"{plan.config.results}: {', '.join(f'{counts[s]} {s}' for s in STATES if counts[s])} of {len(found)} jobs\n")
    print("\n".join(table(found)))
    why = reasons(found)
    if why:
        print("\n" + "\n".join(why))
    return 0
