"""Snakemake's own answer: the jobs of a configuration, which of them it would run now, and why.

`status`, `cost` and `why` stand on this and on nothing else, so they and `snakemake -n` agree by construction: the same Snakefile,
config files, default profile and triggers, in this process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgddi.core.errors import UserError
from cgddi.plan.config import load_config

if TYPE_CHECKING:
    from cgddi.plan.jobs import Plan

SNAKEFILE = Path(__file__).parents[3] / "Snakefile"


@dataclass(eq=False)
class Job:
    """One job that makes files.

    Args:
        stage: the stage that does it, as in its spec and its metrics (`audit` for rule leakage, `masks` for the three of masks).
        name: its message, e.g. "adapter of nevus (main)".
        wildcards: what its rule's wildcards stand for.
        spec: what it is planned to be made from.
        made_from: the JSON that holds the spec it was made from: the record beside the result, else the spec file that Snakemake
            remembers; None where there is none.
        log: the file that holds what it said; None without.
        benchmark: the file that Snakemake writes when it has succeeded; None without.
        concept: slug of the concept it works for; None for a pooled job.
        gpu: whether it takes a GPU.
        planned: whether `snakemake` would run it now.
        missing: its files that are not there.
        changed: inputs with other content than when it was made.
        renewed: whether an input's job runs before it.
        provenance: what else Snakemake saw change ("set of input files", "params", "code").
        known: whether Snakemake remembers how its files were made.
        needs: jobs that make its inputs.
    """

    rule: str
    stage: str
    name: str
    wildcards: dict[str, str]
    outputs: tuple[str, ...]
    spec: dict[str, Any]
    made_from: str | None
    log: str | None
    benchmark: str | None
    concept: str | None
    gpu: bool
    planned: bool
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    renewed: bool = False
    provenance: tuple[str, ...] = ()
    known: bool = True
    needs: list[Job] = field(default_factory=list, repr=False)


def ask_snakemake(
    configfiles: Sequence[str],
    look: Callable[[Any, Plan], Any] | None = None,
    profile: str | None = None,
) -> tuple[Plan, Any]:
    """The plan of a configuration in the working directory and all its jobs, upstream before downstream.

    Args:
        look: what to do with Snakemake's DAG and the plan; by default `read_jobs`.
        profile: as for `snakemake --profile`: what it says of config keys and of the resources that jobs ask for.

    Raises:
        UserError: the configuration or its sheets have problems, or Snakemake cannot plan.
    """
    from snakemake import cli
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import WorkflowError
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

    atexit.register(gc.unfreeze)  # the Snakefile freezes: else extensions report what they hold as leaked
    load_config(*configfiles)  # a mistake in them is told with its file and place
    words = ["--snakefile", str(SNAKEFILE), "--configfile", *map(str, configfiles), "--cores", "1"]
    words += ["--profile", profile] if profile else []
    said = io.StringIO()
    try:
        # Quiet: it tells which profile it uses, and warns of what `status` shows anyway.
        with contextlib.redirect_stderr(said), SnakemakeApi(OutputSettings(dryrun=True)) as api:
            try:
                _, args = cli.parse_args(words)
            except SystemExit:
                raise UserError(said.getvalue().strip().rpartition("\n")[2]) from None
            workflow_api = api.workflow(
                ResourceSettings(
                    cores=1,
                    overwrite_resources=args.set_resources if profile else {},
                    default_resources=args.default_resources if profile else None,
                ),
                ConfigSettings(config=cli.parse_config(args.config) if profile else {}, configfiles=args.configfile),
                snakefile=SNAKEFILE,
            )
            workflow_api.dag(
                DAGSettings(
                    force_incomplete=args.rerun_incomplete,
                    rerun_triggers=args.rerun_triggers,
                    max_checksum_file_size=args.max_checksum_file_size,
                )
            )
            workflow = workflow_api._workflow
            workflow._prepare_dag(forceall=False, ignore_incomplete=False, lock_warn_only=True)
            workflow._build_dag()
            plan = workflow.globals["PLAN"]
            workflow.globals["TOLD"].append(True)  # `status` and `repair` say it themselves
            workflow.globals["RETRIES"] = args.retries or 0
            return plan, (look or read_jobs)(workflow.dag, plan)
    except WorkflowError as error:
        raise UserError(str(error)) from error
    except SystemExit:  # a rule refuses the plan (see rules/common.smk)
        raise UserError(said.getvalue().rpartition("Building DAG of jobs...\n")[2].strip()) from None


def read_jobs(dag: Any, plan: Plan) -> list[Job]:
    """The jobs of a Snakemake DAG that make files, upstream before downstream."""
    found: dict[Any, Job] = {}
    for level in dag.toposorted():
        for job in sorted((job for job in level if job.output), key=lambda job: (job.rule.name, job.output[0])):
            found[job] = _read(job, dag, plan)
    place = {job: number for number, job in enumerate(found)}
    for job, ours in found.items():
        ours.needs = [found[other] for other in sorted(place.keys() & dag.dependencies[job].keys(), key=place.get)]
    return list(found.values())


def _read(job: Any, dag: Any, plan: Plan) -> Job:
    spec, reason = json.loads(Path(job.input.spec).read_text()), dag.reason(job)
    outputs, wildcards = tuple(map(str, job.output)), dict(job.wildcards.items())
    updated = set(map(str, reason.updated_input - reason.updated_input_run))
    before = set(dag.workflow.persistence.input(job.output[0]) or updated)
    provenance = {
        "set of input files": reason.input_changed,
        "params": reason.params_changed,
        "code": reason.code_changed,
        "software": reason.software_stack_changed,
    }
    return Job(
        rule=job.rule.name,
        stage="_".join(spec[key] for key in ("stage", "job") if key in spec),
        name=job.message or job.rule.name,
        wildcards=wildcards,
        outputs=outputs,
        spec=spec,
        made_from=next((path for path in outputs if path.endswith(".json")), None)
        or next((path for path in sorted(before) if "/.plan/" in path), None),
        log=str(job.log[0]) if job.log else None,
        benchmark=str(job.benchmark) if job.benchmark else None,
        concept=_concept(wildcards, plan),
        gpu=bool(job.resources.get("gpu")),
        planned=dag.needrun(job),
        missing=tuple(path for path in outputs if not Path(path).exists()),
        changed=tuple(sorted(path for path in updated & before if "/.plan/" not in path)),
        renewed=bool(reason.updated_input_run),
        provenance=tuple(what for what, seen in provenance.items() if seen),
        known=dag.workflow.persistence.has_metadata(job),
    )


def _concept(wildcards: dict[str, str], plan: Plan) -> str | None:
    """The concept a job works for, by its wildcards."""
    concept = wildcards.get("concept") or wildcards.get("batch", "").split(".")[0]
    return concept if concept in plan.concepts else None
