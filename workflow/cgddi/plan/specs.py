"""What a job is made from, as a file: `<results>/.plan/<rule>/<job>.<hash>.json` is an input of the job, so that a job runs again
when that changes and for no other reason. Light: read at every parse.

Beside the specs stand `.plan/places.json` (where photos and models lie, and keys that change no result: no input of any job),
`.plan/digests.json` (what files hold, remembered) and `.plan/plan.json` (the plan of the run under way).
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cgddi.core.archive import write_atomic
from cgddi.core.errors import InvalidInput, UserError
from cgddi.core.source import PACKAGE
from cgddi.plan.content import Contents, spec_hash
from cgddi.plan.sharing import nearest, problem

if TYPE_CHECKING:
    from cgddi.plan.jobs import Plan

STAGES = ("fedd", *sorted(path.parent.name for path in (PACKAGE / "stages").glob("*/settings.py")))
"""Stages: each a folder, a rule file, a config section and a command of one name."""


def stage_package(stage: str) -> str:
    """Dotted name of the package that holds a stage."""
    return "cgddi.fedd" if stage == "fedd" else f"cgddi.stages.{stage}"


@cache
def revision(stage: str, job: str | None = None) -> int:
    """REVISION of a stage's settings module; of one of its jobs, where each has its own."""
    value = importlib.import_module(f"{stage_package(stage)}.settings").REVISION
    return value[job] if isinstance(value, dict) else value


Files = dict[str, "str | list[str]"]
"""Name of an input -> the file, or the files."""


class Job(NamedTuple):
    """One job.

    Args:
        spec: what it is made from, JSON values.
        inputs: files it reads that other jobs make, by name.
        options: the same as its command takes them (`--name FILE...`), where that differs from `inputs`.
    """

    spec: dict[str, Any]
    inputs: Files = {}
    options: Files | None = None


class SpecFiles:
    """The spec files of a results folder.

    Args:
        contents: what files hold; its places are written beside the specs.
        main: whether this process steers the run: it alone writes here.
    """

    def __init__(self, results: str, contents: Contents, main: bool = False):
        self.folder, self.contents, self.main = Path(results) / ".plan", contents, main
        self.neutral: dict[str, Any] = {}
        """Hash of a spec's settings -> keys beside them that change no result."""
        self.current: dict[str, dict[str, str]] = {}
        """Rule -> names of the spec files asked for in this process -> the record beside the result."""
        self._there: dict[str, set[str]] = {}
        if main:
            atexit.register(contents.save)

    def path(self, rule: str, job: str, spec: dict[str, Any], record: str) -> str:
        """The spec's file, written if it is not there.

        It is touched where the record beside the result names another spec: a result may have been made from a later one in a run
        of which Snakemake knows nothing.

        Args:
            job: the job's name among those of the rule.

        Raises:
            UserError: it has to be written, and this user may not.
        """
        digest = spec_hash(spec)
        name = f"{job}.{digest}.json"
        path = self.folder / rule / name
        self.current.setdefault(rule, {})[name] = record
        if not self.main:
            return str(path)
        if rule not in self._there:
            self._there[rule] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        try:
            if name not in self._there[rule]:
                self._write(path, spec)
                self._there[rule].add(name)
            elif self.contents.record(record) not in (None, digest):
                os.utime(path)
        except PermissionError:
            raise InvalidInput([problem(nearest(path))]) from None
        return str(path)

    @staticmethod
    def _write(path: Path, spec: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n", encoding="ascii")
        temporary.replace(path)

    def begin(self, plan: str, real: bool) -> None:
        """Write where everything lies, and in a real run what its plan is, for the jobs on other nodes; prune old specs then.

        Args:
            plan: digest of the plan.
        """
        self.contents.save()
        if real:
            self._prune()
            path = self.folder / "places.json"
            try:
                before = json.loads(path.read_text(encoding="ascii"))
            except (OSError, ValueError):
                before = {"places": {}, "neutral": {}}
            places = before["places"] | self.contents.places
            beside = {"places": places, "neutral": before["neutral"] | self.neutral}
            write_atomic(path, json.dumps(beside, indent=0, sort_keys=True), alone=False)
            write_atomic(self.folder / "plan.json", json.dumps({"plan": plan}) + "\n", alone=False)

    def check(self, plan: str) -> None:
        """Refuse to go on in a job whose plan is not that of the run it belongs to.

        Raises:
            UserError: they differ.
        """
        try:
            started = json.loads((self.folder / "plan.json").read_text(encoding="ascii"))["plan"]
        except (OSError, ValueError, KeyError):
            return
        if started != plan:
            raise UserError(
                "The config, a sheet or the code was changed since this run was started: its jobs would be made from two plans. "
                "Stop the run (Ctrl-C), finish the changes and start it again; what is finished stays."
            )

    def _prune(self) -> None:
        """Remove the specs that jobs of this run had before, but for those that results are made from: should the change be
        undone, these are as old as then. At the start, since a workflow that uses this one as a module ends in its own way."""
        for rule, names in self.current.items():
            jobs = {name.rsplit(".", 2)[0]: record for name, record in names.items()}
            for path in (self.folder / rule).glob("*.json"):
                job, digest, _ = path.name.rsplit(".", 2)
                if path.name not in names and job in jobs and self.contents.record(jobs[job]) != digest:
                    path.unlink(missing_ok=True)


def rework(plan: Plan, again: Mapping[str, int], hours: float = 0) -> list[str]:
    """Lines to say before finished work of a costly kind is done again.

    Args:
        again: rule -> finished jobs that will run again.
        hours: GPU hours that they are predicted to take.
    """
    if not again:
        return []
    jobs = ", ".join(f"{count} {rule}" for rule, count in again.items())
    lines = [
        f"{sum(again.values())} finished jobs will run again ({jobs}), at most {hours:.1f} GPU hours; what a GPU made from the "
        "same content is taken from the cache. `cgddi why` tells what changed. Results are replaced one by one; undo the change "
        "to keep them."
    ]
    for cohort in plan.canvas_cohorts:
        came, went = _growth(plan, cohort)
        if came:
            lines.append(
                f"Cohort {cohort} has grown by {came} masked photo(s), and all that uses its canvases depends on them. To keep "
                "what is finished, give new photos a cohort of their own (`cgddi ingest --append` does)."
            )
        if went:
            lines.append(
                f"Cohort {cohort} has lost {went} masked photo(s), and all that uses its canvases depends on them. To take a "
                "disease out of the results without that, keep its rows and name it in `drop_concepts`."
            )
    return lines


def _growth(plan: Plan, cohort: str) -> tuple[int, int]:
    """Masked photos that a cohort has gained and lost since its canvases were pooled."""
    try:
        pooled = json.loads(Path(plan.paths.record("canvases", cohort=cohort)).read_text())["spec"]["inputs"]
        before = {
            image
            for manifest in pooled["healthy"]
            for image in json.loads((Path(plan.paths.root) / manifest).with_suffix(".json").read_text())["spec"][
                "images"
            ]
        }
    except (OSError, ValueError, KeyError):
        return 0, 0
    now = {image for images in plan.healthy_batches[cohort].values() for image in images}
    return len(now - before), len(before - now)
