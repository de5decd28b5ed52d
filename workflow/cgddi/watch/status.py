"""Show per concept what is done, stale, running, failed or missing, and why: Snakemake's own plan, records, logs and SLURM's queue.

done      nothing to do
stale     there, but `snakemake` would make it again: its settings, rows, code or an input changed
running   at work now (queued: the cluster has not started it yet, with SLURM's reason)
failed    its last run ended with an error: the last line of its log
missing   not made yet, or half made when a run died (`cgddi repair`, then start again)
"""

import base64
import binascii
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from snakemake_logger_plugin_cgddi import own_message

from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.job import pool
from cgddi.job.slurm import refused_file
from cgddi.plan.config import config_option
from cgddi.watch.dag import Job, ask_snakemake
from cgddi.watch.repair import cluster_jobs, controllers
from cgddi.watch.why import causes

STATES = ("done", "stale", "running", "queued", "failed", "missing")
CHAIN = ("masks", "healthy", "lesion_mapped", "embedding", "lora", "semantic")
"""Stages that work on one concept, in the order of the work: the columns of the table."""
Found = list[tuple[Job, str, str]]
"""(job, state, why)"""


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


def last_words(job: Job, folder: Path) -> str | None:
    """Why a job's last run failed, as its log ends or SLURM says; None if that run did not fail, or there was none.

    Snakemake writes a job's benchmark file when the job has succeeded, which is after its log: a log without a benchmark, or with
    an older one, is that of a failure.
    """
    if job.log is None or job.benchmark is None or not (folder / job.log).exists():
        return None
    log, benchmark = folder / job.log, folder / job.benchmark
    if benchmark.exists() and benchmark.stat().st_mtime >= log.stat().st_mtime:
        return None
    for path in sorted(_slurm_logs(job, folder).glob("*.log"), key=lambda path: path.stat().st_mtime)[-1:]:
        # Out of memory or time: of that a job itself knows nothing.
        ended = [line for line in _lines(path) if "slurmstepd: error" in line]
        if ended and path.stat().st_mtime >= log.stat().st_mtime:
            return ended[-1]
    return (own_message(str(log)) or f"it ended without a word: {job.log} says nothing").partition("\n")[0]


def _slurm_logs(job: Job, folder: Path) -> Path:
    """Folder of what SLURM wrote of a job's runs."""
    return (
        folder / ".snakemake" / "slurm_logs" / f"rule_{job.rule}" / "_".join(job.wildcards.values()).replace("/", "_")
    )


def _lines(path: Path) -> list[str]:
    """Lines of a log; a progress bar draws one many times, each after a carriage return."""
    lines = path.read_text(errors="replace").replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


class Survey:
    """What is known of the jobs beside Snakemake's plan: markers of what runs, the cluster's queue, logs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.markers = unfinished(folder)
        begun = bool(self.markers) or any(folder.glob(".snakemake/slurm_*/*"))
        self.alive = begun and bool(controllers(folder))
        self.pool = pool.waiting(folder / ".snakemake" / "pool")
        self.cluster: Mapping[str, Mapping[str, str]] | None = {}
        """Cluster jobs by number, and by the executor's name of the job; None where the cluster does not answer."""
        if begun:
            try:
                found = cluster_jobs(folder)
                self.cluster = {job["what"]: job for job in found} | {job["id"]: job for job in found}
            except UserError:
                self.cluster = None

    @staticmethod
    def executors_name(job: Job) -> str:
        """What the executor calls a job: its comment in SLURM's queue."""
        words = [f"rule_{job.rule}", *(["wildcards", *job.wildcards.values()] if job.wildcards else [])]
        return "_".join(words).replace("/", "_")

    def refused(self, job: Job) -> str | None:
        """What SLURM answers to a job's submission, where it does not take it for now (see `job.slurm`)."""
        try:
            return refused_file(self.folder, self.executors_name(job)).read_text()
        except OSError:
            return None

    def queue(self, job: Job, marked: list[str]) -> tuple[str, str] | None:
        """State of a job as the cluster tells it; None where it is no cluster job, or is not in the queue.

        Args:
            marked: those of its files that Snakemake noted as begun, with the number of the cluster job. A job that runs notes
                them anew on its node, without; one that is killed there takes the note away.
        """
        number = self.markers[marked[0]] if marked else None
        name = self.executors_name(job)
        if self.alive and name in self.pool:
            return "queued", "waits for room in an allocation (`sbatch profiles/allocations/work.sh` asks for one)"
        if self.cluster is None:
            sent = number is not None or (marked and _slurm_logs(job, self.folder).is_dir())
            return ("running", "as far as known: the cluster does not answer") if sent else None
        if (found := self.cluster.get(number or name)) is None:
            return None
        if found["state"] == "PENDING":
            return "queued", f"SLURM says {found['reason']}: cluster job {found['id']}"
        return "running", f"cluster job {found['id']}"

    def state(self, job: Job) -> tuple[str, str]:
        """State of a job, and why."""
        marked = [path for path in job.outputs if path in self.markers]
        if self.alive and job.planned and (refused := self.refused(job)):
            return "queued", f"SLURM takes no more jobs for now, and is asked again: {refused}"
        if (marked or job.planned) and (told := self.queue(job, marked)):
            return told
        if marked and self.alive:
            return "running", "Snakemake is at it"
        if not job.planned:
            gone = f"{Path(job.missing[0]).name} was deleted; nothing left to do needs it" if job.missing else ""
            return ("missing", gone) if gone else ("done", "")
        waits = Counter(other.stage for other in job.needs if other.planned)
        text = "waits for " + ", ".join(f"{n} {stage}" for stage, n in sorted(waits.items())) if waits else ""
        if not job.missing and not marked:
            return "stale", "; ".join(causes(job)) or text
        if marked:
            return "missing", "its run was interrupted"
        if words := last_words(job, self.folder):
            return "failed", words
        if len(job.missing) < len(job.outputs):
            return "missing", f"{Path(job.missing[0]).name} was deleted"
        return "missing", text or "not made yet"


def survey(jobs: Iterable[Job], folder: Path) -> Found:
    """(job, state, why) of every job."""
    known = Survey(folder)
    return [(job, *known.state(job)) for job in jobs]


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


def table(found: Found) -> list[str]:
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


def reasons(found: Found, shown: int = 3) -> list[str]:
    """Why jobs are not done, equal reasons of a stage on one line."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for job, state, why in found:
        if state != "done":
            reason, cluster, number = why.partition("cluster job ")
            name = f"{job.name}: {number}" if number else job.name
            groups[state, job.stage, (reason + cluster).strip()].append(name)
    lines = []
    for state in STATES[1:]:
        for (group_state, stage, why), names in groups.items():
            if group_state == state:
                more = f", and {len(names) - shown} more" if len(names) > shown else ""
                lines.append(f"{state:8} {stage}: {why} [{'; '.join(names[:shown])}{more}]")
    return lines


def main(argv: list[str]) -> int:
    """Print the status of a configuration's results in the working directory."""
    parser = command_parser("status", __doc__)
    config_option(parser)
    parser.add_argument("--concept", action="append", default=[], metavar="SLUG", help="only this concept (repeatable)")
    parser.add_argument("--json", action="store_true", help="one JSON line per job: stage, name, concept, state, why")
    args = parser.parse_args(argv)
    plan, jobs = ask_snakemake(args.configfile)
    unknown = [slug for slug in args.concept if slug not in plan.concepts]
    if unknown:
        raise UserError(f"--concept {unknown[0]}: not in the disease sheet. Known: {', '.join(sorted(plan.concepts))}")
    found = survey(jobs, Path.cwd())
    if args.concept:
        found = [item for item in found if item[0].concept in args.concept]
    if args.json:
        for job, state, why in found:
            facts = {"rule": job.rule, "stage": job.stage, "name": job.name, "concept": job.concept}
            print(json.dumps({**facts, "state": state, "why": why}))
        return 0
    counts = Counter(state for _, state, _ in found)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    left = sum(job.planned for job, _, _ in found)
    print(f"{plan.config.results}: {states} of {len(found)} jobs; snakemake would run {left}\n")
    print("\n".join(table(found)))
    why = reasons(found)
    if why:
        print("\n" + "\n".join(why))
    return 0
