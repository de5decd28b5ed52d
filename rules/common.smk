# What the rules share.
#
# Contract: nothing here makes a file. Rules take their files from the plan. Outputs go by name; inputs are the job's spec (what the
# job is made from, as a file that changes its name when that changes) and the results of other jobs that it reads, which the
# command finds in the spec. No param holds anything that a result depends on.

# `cgddi`, as each shell command calls it: the workflow's own code, run by the interpreter that runs Snakemake, or by an
# environment's own under `--sdm`. Matplotlib's list of fonts goes to the cache too, since a run writes nothing at the user's home.
CGDDI = " ".join(
    [
        f"PYTHONPATH={shlex.quote(os.path.dirname(os.path.dirname(cgddi.__file__)))}",
        f"MPLCONFIGDIR={shlex.quote(PLAN.config.cache)}/matplotlib",
        # Where all models are fetched, no job asks the hub, which a node may not reach.
        *([] if UNLOCKED else ["HF_HUB_OFFLINE=1"]),
        *([f"CGDDI_WANDB={PLAN.config.wandb}"] if PLAN.config.wandb else []),
        "python" if workflow.deployment_settings.deployment_method else shlex.quote(sys.executable),
        "-m cgddi.cli",
    ]
)


# What a shell command is told beside its files. These params ask for `output`, so that Snakemake takes them for derived from it and
# never compares them: another clone, interpreter, cache or results folder makes nothing run again.


def command(wildcards, output):
    """`cgddi` with all that it needs to be found."""
    return CGDDI


def cache(wildcards, output):
    """Folder of cached latents and text embeddings."""
    return PLAN.config.cache


def logs(wildcards, output):
    """Folder of all logs."""
    return f"{R}/logs"


# What `snakemake --report` holds: rule -> output -> its caption, and what it is called there.
SHOWN = {
    "report": {"page": ("page", "The report")},
    "fairness": {
        "metrics": ("metrics", "All figures"),
        "by_tone": ("by_tone", "By skin tone"),
        "by_rarity": ("by_rarity", "By rarity"),
        "by_disease": ("by_disease", "By disease"),
        "paired": ("paired", "Regimes compared"),
        "plot_of_roc": ("roc", "ROC by skin tone"),
        "plot_of_metrics": ("intervals", "Figures with intervals"),
        "plot_of_calibration": ("calibration", "Calibration"),
    },
    "ladder": {"table": ("ladder", "Ladder, figures"), "plot_of_ladder": ("ladder", "Ladder, curves")},
    "published": {
        "page": ("published", "Published against ours"),
        "table": ("published", "Published against ours, table"),
    },
}


def shown(name):
    """A rule's outputs, marked for `snakemake --report`."""
    found = PATHS.outputs(name)
    for output, (caption, what) in SHOWN[name].items():
        told = {"category": name.capitalize(), "labels": {"what": what}}
        found[output] = for_report(found[output], caption=f"captions/{caption}.rst", **told)
    return found


def state(name):
    """Folder of a rule's checkpoints."""
    return lambda wildcards, output: PATHS.state(name).format_map(dict(wildcards.items()))


# GPU jobs that may share a device, for the leases of local runs (`cgddi --gpus N`); see profiles/local-gpu.
if "runs_per_gpu" in workflow.global_resources:
    os.environ.setdefault("CGDDI_RUNS_PER_GPU", str(workflow.global_resources["runs_per_gpu"].value))

# The job with the longest way to the end first, so that no GPU idles at the end while one concept's chain is still to be walked.
URGENCY = {
    "fedd_features": 60,
    "fedd_segmenter": 55,
    **dict.fromkeys(("masks", "fedd_masks", "sam3_masks"), 50),
    "canvases": 45,
    "skin": 42,
    "healthy": 40,
    "embedding": 30,
    "lora": 20,
    "semantic": 10,
}
COSTLY = ("healthy", "lesion_mapped", "embedding", "lora", "semantic", "fedd_features", "fedd_segmenter")
BEGUN, TOLD = [], []


def tell_unknown(workflow):
    """Say, once, how many results Snakemake does not know the making of."""
    if workflow is not None and not TOLD:
        TOLD.append(True)
        for line in unknown(workflow):
            print(line, file=sys.stderr)


if workflow.is_main_process:
    # Before anything runs (see `urgency`), or where nothing is to be done, in the end.
    atexit.register(lambda its=weakref.ref(workflow): tell_unknown(its()))


def stop(error):
    """End Snakemake with a message for the user. It shows the traceback of any Exception that a function of a rule raises."""
    logger.error(str(error))
    raise SystemExit(1)


def inputs(name):
    """All files that a rule's job reads, its spec first."""

    def files(wildcards):
        try:
            return PLAN.inputs(name, **dict(wildcards.items()))
        except UserError as error:
            stop(error)

    return files


def unlimit_starts(settings):
    """Take away Snakemake's default limit of 100 job starts a second.

    As long as there is a limit, 9.27 asks after every job for one more look at all ready jobs each second, for the rest of the run:
    after 200 jobs it looks 200 times a second and takes a core of the login node. A limit that a user sets stays.
    """
    limit = settings and settings.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        settings.max_jobs_per_timespan = None


def urgency(name):
    """Priority of a rule's jobs.

    Snakemake asks for it once for each job that will run, when it knows them all and before the first starts, in a dry-run too.
    So this is where a run begins: what needs a test set is refused without one, and costly work to be done again is announced.
    """

    def priority(wildcards):
        if workflow.is_main_process and not BEGUN:
            BEGUN.append(True)
            unlimit_starts(workflow.scheduling_settings)
            # `snakemake --summary` and `cgddi status` plan without an executor.
            real = workflow.executor_plugin is not None and not workflow.dryrun
            running = {job.rule.name for job in workflow.dag.needrun_jobs()} if real and not workflow.touch else ()
            problems = absent(PLAN.config, running)
            if problems := [*problems, *(unwritable(R, PLAN.config.cache) if real else [])]:
                stop(InvalidInput(problems))
            PLAN.begin(real)
            if real:
                slurm.install(R, PLAN.config.cache, held=PLAN.config.allocations)
                prune(PLAN.config.cache, PLAN.config.cache_gb)
            again = Counter(
                job.rule.name
                for job in workflow.dag.needrun_jobs()
                if job.rule.name in COSTLY and all(map(os.path.exists, job.output))
            )
            for line in rework(PLAN, again, hours_again(workflow, PLAN) if again else 0):
                logger.warning(line)
            tell_unknown(workflow)
        if name in ("classify", "fairness") and (problems := PLAN.untestable):
            stop(InvalidInput(problems))
        return URGENCY.get(name, 0)

    return priority


def gb(size, step=None):
    """Memory in MB that grows with each attempt, up to what the site gives; half a GB of it is for the Snakemake that runs the job on
    its node."""
    most = PLAN.config.max_mem or sys.maxsize
    return lambda wildcards, attempt: min(most, int(512 + 1024 * (size + (attempt - 1) * (step or size))))


def minutes(count):
    """Run time limit in minutes that doubles with each attempt, up to what the site gives: a training goes on at the next one."""
    most = PLAN.config.max_runtime or sys.maxsize
    return lambda wildcards, attempt: min(most, count * 2 ** (attempt - 1))


def cohorts_by(source):
    """Wildcard constraint: the cohorts whose masks come from a source."""
    return safe_pattern(name for name in PLAN.by_cohort if PLAN.config.masks_of(name).source == source)
