"""Whether results are what the plan says, from the records beside them, and Snakemake's knowledge of those that are.

A result is right where its record holds the planned spec, where it and what its job read have the hashes in the record, and where
the same is true of all that it descends from. Times and `.snakemake` say nothing: both are lost when results are copied, moved,
unpacked, or made by a job that nobody watched.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from cgddi.core.archive import file_sha256, output_name

if TYPE_CHECKING:
    from cgddi.plan.jobs import Plan

LARGE = 64 << 20
"""Bytes above which a file is only read where every byte is asked for; else its size and its name in the record must do."""


class Hashes:
    """Hashes of files, each read once.

    Args:
        deep: whether large files are read too.
    """

    def __init__(self, deep: bool, bar: tqdm):
        self.deep, self.bar = deep, bar
        self.known: dict[str, str] = {}
        """Hash of each file that was read, or of a large one that its job's record names."""

    def agrees(self, path: str, size: int, digest: str) -> bool:
        """Whether a file has this size and hash."""
        if os.path.getsize(path) != size:
            return False
        if path not in self.known:
            self.known[path] = digest if size > LARGE and not self.deep else file_sha256(path)
            self.bar.update(size)
        return self.known[path] == digest

    def of(self, path: str) -> str:
        """Hash of a file."""
        if path not in self.known:
            self.known[path] = file_sha256(path)
        return self.known[path]


class Silent(Exception):
    """A record does not say enough to judge a result by."""


def fault(
    outputs: Sequence[str], inputs: Sequence[str], spec: Mapping[str, Any], root: str, hashes: Hashes
) -> str | None:
    """What is wrong with one job's result; None where its record vouches for it.

    Raises:
        Silent: nothing tells whether it is right.
    """
    path = next((path for path in outputs if path.endswith(".json")), None)
    if path is None:
        raise Silent("nothing beside it says what it was made from")
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        made, read, wrote = record["spec"], record["inputs"], record.get("outputs", {})
    except (OSError, ValueError, KeyError, TypeError):
        return "its record cannot be read"
    if made != spec:
        return "it was made from other settings, rows or content"
    for file in outputs:
        named = wrote.get(output_name(path, file))
        if file == path:
            continue
        if named is None:
            raise Silent("its record does not say what its files hold")
        if not hashes.agrees(file, named["bytes"], named["sha256"]):
            return f"{Path(file).name} is not what its record says"
    for file in inputs:
        name = file.removeprefix(f"{root}/")
        # A large file may be named by the record beside it, which its own job was checked against before.
        beside = (file, str(Path(file).with_suffix(".json")), str(Path(file).with_name("record.json")))
        for one in (path for path in beside if os.path.exists(path)):
            place = one.removeprefix(f"{root}/")
            if digests := {digest for key, digest in read.items() if key == place or key.endswith(f"/{place}")}:
                if hashes.of(one) not in digests:
                    return f"{name} is another than it was made from"
                break
        else:
            raise Silent(f"its record does not name {name}")
    return None


def unknown(workflow: Any) -> list[str]:
    """A line to say where Snakemake does not know how results were made that are there; none where it knows of all."""
    dag = getattr(workflow, "dag", None)
    if dag is None:
        return []
    jobs = [job for job in dag.jobs if job.output and all(os.path.exists(str(file)) for file in job.output)]
    count = sum(not workflow.persistence.has_metadata(job) for job in jobs)
    if not count:
        return []
    files = " ".join(os.path.relpath(file) for file in workflow.configfiles)
    command = f"cgddi repair --configfile {files}" if files else "cgddi repair"
    return [
        f"{count} result(s) were copied, moved, unpacked or made unwatched: Snakemake does not know how they were made, and may "
        f"make good ones again or keep stale ones. `{command}` checks them and lets it know."
    ]


@dataclass
class Verdict:
    """What was found: jobs whose results are right, those of them that Snakemake did not know, and why others are wrong."""

    right: int = 0
    returned: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    """Results that cannot be judged: nothing is done about them."""
    behind: int = 0
    """Results that descend from wrong or missing ones."""


def verify(dag: Any, plan: Plan, deep: bool = False) -> Verdict:
    """Check all results of a plan, and hand Snakemake its knowledge of those that are right; wrong ones are made again."""
    from snakemake.settings.types import ExecutionSettings

    dag.workflow.execution_settings = (
        ExecutionSettings()
    )  # whose `keep_metadata` Snakemake asks for when it notes a job
    found, right, persistence = Verdict(), set(), dag.workflow.persistence
    jobs = [job for level in dag.toposorted() for job in sorted(level, key=str) if job.output]
    there = {job: [str(file) for file in job.output] for job in jobs}
    there = {job: files for job, files in there.items() if all(map(os.path.exists, files))}
    sizes = [os.path.getsize(file) for files in there.values() for file in files if not file.endswith(".json")]
    with tqdm(total=sum(sizes), desc="check results", unit="B", unit_scale=True, mininterval=1) as bar:
        hashes = Hashes(deep, bar)
        for job, outputs in there.items():
            above = [other for other in dag.dependencies[job] if other.output]
            if not all(other in right for other in above):
                found.behind += 1
                continue
            inputs, place = [str(file) for file in job.input if str(file) != str(job.input.spec)], str(job.input.spec)
            try:
                why = fault(outputs, inputs, json.loads(Path(place).read_text()), plan.paths.root, hashes)
            except Silent as reason:
                found.silent[f"{job.rule.name}: {reason}"] += 1
                continue
            if why is None:
                right.add(job)
                found.returned += _hand_back(job, outputs, [*inputs, place], dag)
            else:
                found.wrong[f"{job.rule.name}: {why}"] += 1
                _make_again(job, persistence)
    found.right = len(right)
    return found


def _hand_back(job: Any, outputs: Sequence[str], inputs: Sequence[str], dag: Any) -> bool:
    """Let Snakemake take a result for finished: none of its files older than what it was made from, and a note of how it was made.

    Returns:
        Whether it did not do so before.
    """
    persistence = dag.workflow.persistence
    if not dag.needrun(job) and persistence.has_metadata(job):
        return False
    newest = max(os.stat(file).st_mtime_ns for file in inputs)
    for file in outputs:
        if os.stat(file).st_mtime_ns < newest:
            _date(file, newest)
    asyncio.run(persistence.finished(job))
    return True


def _make_again(job: Any, persistence: Any) -> None:
    """Let Snakemake make a result again: it forgets how that was made, and the spec is newer."""
    for file in job.output:
        persistence.cleanup_metadata(file)
    newest = max(os.stat(str(file)).st_mtime_ns for file in [*job.output, job.input.spec])
    _date(str(job.input.spec), newest + 10**9)


def _date(file: str, time: int) -> None:
    """Give a file a time in ns; the present one where it is another user's, who alone may choose."""
    try:
        os.utime(file, ns=(time, time))
    except PermissionError:
        os.utime(file)
