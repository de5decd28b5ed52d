"""cgDDI: grow a small skin-tone-labelled dermatology set, and measure whether that made classifiers fairer."""

import atexit
import gc
import os
import shlex
import sys
import weakref
from collections import Counter
from typing import get_args

from snakemake.exceptions import WorkflowError
from snakemake.io import report as for_report
from snakemake.utils import min_version

min_version("9.0")

# A plan is half a million objects that all live to the end: Python's collector would walk them again and again, a tenth of the time.
gc.freeze()
gc.set_threshold(200_000, 50, 100)

# The code is this clone's, also where another workflow uses this one as a module.
SOURCE = workflow.current_basedir
WORKFLOW = f"{SOURCE.get_path_or_uri(secret_free=True)}/workflow"
if os.path.isdir(f"{WORKFLOW}/cgddi"):
    sys.path.insert(0, WORKFLOW)
try:
    import cgddi
except ModuleNotFoundError:
    PACKAGE = f"git+https://{SOURCE.host}/{SOURCE.repo}@{SOURCE.ref}" if hasattr(SOURCE, "repo") else "cgddi"
    raise WorkflowError(
        f"Only single files of this workflow were fetched, without its package. Install that first: pip install '{PACKAGE}'"
    ) from None
from cgddi.core.errors import InvalidInput, UserError
from cgddi.fedd.settings import Variant
from cgddi.job import slurm
from cgddi.job.store import prune
from cgddi.fedd.plan import STUDY
from cgddi.plan.config import snakemake_config
from cgddi.plan.models import absent, unlocked
from cgddi.plan.jobs import Plan
from cgddi.plan.paths import safe_pattern
from cgddi.plan.sharing import unwritable, without_notes
from cgddi.plan.specs import STAGES, rework
from cgddi.stages.classify.settings import LADDER
from cgddi.watch.cost import hours_again, predict_at_start, seconds_by_rule
from cgddi.watch.verify import unknown

try:
    if workflow.is_main_process and (problems := without_notes()):
        raise InvalidInput(problems)
    PLAN = Plan(snakemake_config(workflow, config), main=workflow.is_main_process)
    if not workflow.is_main_process:
        PLAN.specs.check(PLAN.digest)
except UserError as error:
    raise WorkflowError(str(error)) from None
PATHS = PLAN.paths
R = PATHS.root
UNLOCKED = unlocked(PLAN.config)
if workflow.is_main_process:
    for line in (*PLAN.notes(), *UNLOCKED):
        logger.warning(line)


if PLAN.config.container:

    container: PLAN.config.container


wildcard_constraints:
    cohort=safe_pattern(PLAN.by_cohort),
    canvas_cohort=safe_pattern(PLAN.canvas_cohorts),
    batch=r"[a-z0-9-]+(\.unmasked)?\.\d{3}",
    features_batch=rf"[a-z0-9-]+(\.unmasked)?\.\d{{3}}|{STUDY}",
    timestep=r"\d{4}",
    variant=safe_pattern(get_args(Variant)),
    subset=safe_pattern(PLAN.fedd.subsets),
    network=r"[a-z0-9_.-]+",
    concept=r"[a-z0-9-]+",
    split=safe_pattern(PLAN.config.splits),
    scope=safe_pattern(PLAN.scopes),
    regime=safe_pattern(dict.fromkeys((*PLAN.config.trained_regimes, *LADDER))),
    method=safe_pattern(PLAN.config.runs.methods),
    run_seed=r"\d+",
    kind="quality|tone|memorisation",
    pictures="healthy|masks",


for name in ("common", *STAGES):

    include: f"rules/{name}.smk"


onstart:
    # What the plan is predicted to take, for the report to compare with what it took.
    try:
        predict_at_start(workflow, PLAN)
    except OSError as error:
        logger.warning(f"The predicted cost could not be kept: {error}")
    for handler in workflow.logger_manager.get_log_handlers():
        if hasattr(handler, "expect"):  # the line of progress
            handler.expect(seconds_by_rule(workflow))


rule all:
    input:
        rules.report.output.page,
        rules.fedd.input if PLAN.config.fedd.study else [],
        PLAN.every_archive(PLAN.sources),


rule generate:
    """Only the images: masks, healthy skin, transplanted lesions, adapters and their samples."""
    input:
        rules.review.output.page,
        PLAN.every_archive(("lesion_mapped", "semantic")),
