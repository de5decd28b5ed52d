# What the rules share.
#
# Contract: nothing here makes a file. A rule's `params.spec` is one canonical JSON string holding the rows and settings the
# job depends on, the hash of its stage's code and the pinned versions; Snakemake reruns a job when that string changes.

import os
import shlex

# Priorities: the job with the longest way to the end first (masks 50, canvases 45, healthy 40, embedding 30, lora 20,
# semantic 10), so that no GPU idles at the end while one concept's chain is still to be walked.

# GPU jobs that may share a device, for the leases of local runs (`cgddi --gpus N`); see profiles/local-gpu.
if "runs_per_gpu" in workflow.global_resources:
    os.environ.setdefault("CGDDI_RUNS_PER_GPU", str(workflow.global_resources["runs_per_gpu"].value))

# Every shell command can call `cgddi`: the workflow's own code, run by the interpreter that runs Snakemake, or by an
# environment's own under `--sdm`. Neither the interpreter's path nor the cache's makes a job run again.
PYTHON = "python" if workflow.deployment_settings.deployment_method else shlex.quote(sys.executable)
# Braces are doubled, since Snakemake formats the prefix as part of each command.
shell.prefix(
    shell_prefix(PYTHON, f"{workflow.basedir}/workflow", PLAN.config.cache).replace("{", "{{").replace("}", "}}")
)


def gb(size, step=None):
    """Memory in MB that grows with each attempt; half a GB of it is for the Snakemake that runs the job on its node."""
    return lambda wildcards, attempt: int(512 + 1024 * (size + (attempt - 1) * (step or size)))


def minutes(count):
    """Run time limit in minutes that doubles with each attempt."""
    return lambda wildcards, attempt: count * 2 ** (attempt - 1)


def archive(*names):
    """An archive as an input: its manifest, which holds the hash of every image.

    Small, so that Snakemake compares it by content: the archives themselves are too large for that, and would count as
    changed whenever a copy or a restored backup gave them new times.
    """
    return f"{R}/{'/'.join(names)}.jsonl"


def photo_archives(photos):
    """Masks archives that hold the given photos."""
    return sorted({archive("masks", p.cohort, PLAN.batch_of[p.image_id]) for p in photos})


def all_photo_archives(cohorts):
    """Masks archives of whole cohorts."""
    return [archive("masks", cohort, batch) for cohort in cohorts for batch in PLAN.batches[cohort]]


def all_healthy_archives(cohorts):
    """Healthy archives of whole cohorts."""
    return [archive("healthy", cohort, batch) for cohort in cohorts for batch in PLAN.healthy_batches.get(cohort, ())]


def split_of(scope, cohort):
    """The split file that keeps a scope's generators away from test images; none for scope `all`."""
    return [] if scope == "all" else [f"{R}/splits/{scope}/{cohort}.csv"]


def option(name, files):
    """`--name FILE` when there is a file, nothing otherwise."""
    return f"{name} {shlex.quote(str(files[0]))}" if files else ""


def options(name, files):
    """`--name FILE FILE...` when there are files, nothing otherwise."""
    return " ".join([name, *(shlex.quote(str(file)) for file in files)]) if files else ""


def every_archive():
    """Every tar, so that a deleted one is made again."""
    manifests = [
        *all_photo_archives(PLAN.by_cohort),
        *all_healthy_archives(PLAN.canvas_cohorts),
        *[archive("canvases", cohort) for cohort in PLAN.canvas_cohorts],
        *[archive("lesion_mapped", cohort, donor.image_id) for cohort, donor in PLAN.pairs],
        *[archive("semantic", *names) for names in PLAN.samples],
    ]
    return [str(Path(manifest).with_suffix(".tar")) for manifest in manifests]


def initial_weights(split, regime, method, run_seed):
    """Weights a regime starts from: none, or those of another regime with the same split, method and seed."""
    start = PLAN.config.regime(regime).init
    return [f"{R}/classify/{split}/{start}/{method}/{run_seed}/weights.safetensors"] if start else []


def cohorts_by(source):
    """Wildcard constraint: the cohorts whose masks come from a source."""
    return safe_pattern(name for name in PLAN.by_cohort if PLAN.masks_settings(name).source == source)


def batch_photos(wildcards):
    """Photo files of a masks job."""
    return [photo.file for photo in PLAN.batches[wildcards.cohort][wildcards.batch]]


def batch_masks(wildcards):
    """Mask files of the sheet that a masks job reads."""
    return PLAN.mask_files(wildcards.cohort, wildcards.batch)


def segmenter_files(chosen):
    """The files of a trained segmenter."""
    return [f"{PLAN.fedd.segmenter(chosen)}/{name}" for name in ("weights.safetensors", "record.json")]


def chosen_segmenter(wildcards):
    """The segmenter a job trains."""
    return Segmenter(wildcards.variant, wildcards.subset, int(wildcards.run_seed))


def chosen_baseline(wildcards):
    """The baseline a job trains."""
    return Baseline(wildcards.task, wildcards.network, wildcards.subset, int(wildcards.run_seed))


def study_photos(subset, masks=True):
    """Photo files of a subset, validation and test; with their mask files unless `masks` is false."""
    photos = [*PLAN.fedd.study.train[subset], *PLAN.fedd.study.validation, *PLAN.fedd.study.test]
    return [photo.file for photo in photos] + ([photo.mask for photo in photos] if masks else [])
