"""Check all that a run stands on, before it starts, and report every problem at once.

The software and this machine's GPU and disks; the config and its sheets; every photo and mask, each read once (what was found is
remembered by content, and `snakemake` refuses what was refused here); models, each file opened; given archives and adapters; the
plan itself; and with a SLURM profile, whether the cluster can give what the jobs will ask for.

    cgddi check                                    as `snakemake` would run: with config/config.yaml
    cgddi check --configfile my.yaml --profile slurm
    cgddi check --images images.csv --diseases builtin:ddi      the sheets, photos and masks only

On a cluster, run it on the login node, and once on a GPU node (`srun --gpus=1 cgddi check`), which alone knows its driver and card.
Exit status 0: nothing stands against a run (warnings may be printed); 2: problems.
"""

import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cgddi.core.archive import Archive
from cgddi.core.arguments import command_parser, json_value
from cgddi.core.errors import InvalidInput, Problem, UserError, grouped
from cgddi.ingest.mask_check import check_photo, id_map
from cgddi.ingest.mask_values import check_values
from cgddi.ingest.names import UNKNOWN
from cgddi.job.trackers import wandb_missing
from cgddi.plan.checked import PLAIN, Checked, Reading, told
from cgddi.plan.config import DEFAULT_FILE, Config, config_option, load_config
from cgddi.plan.described import contents_of, results_of
from cgddi.plan.jobs import Plan
from cgddi.plan.models import absent, is_hub, named_models, used_models
from cgddi.plan.sharing import umask_warnings, unwritable
from cgddi.plan.sheets import Photo, Sheets, check_same_file, load_sheets
from cgddi.stages.classify.settings import training_of
from cgddi.stages.masks.settings import MasksSettings
from cgddi.watch import machine, site
from cgddi.watch.dag import ask_snakemake, read_jobs

POLICIES = ("error", "unlabelled", "split")


def check_mixed(sheets: Sheets) -> list[Problem]:
    """Concepts with malignant and benign photos: what is a synthetic image of one to be labelled?"""
    problems = []
    for slug in sheets.mixed_concepts():
        photos = [p for p in sheets.photos if p.concept == slug]
        counts = [sum(p.malignant is label for p in photos) for label in (True, False)]
        names = ", ".join(sorted({p.disease for p in photos}))
        message = f"concept {slug} joins {counts[0]} malignant and {counts[1]} benign photos ({names})"
        remedy = "Set mixed_malignancy to split or unlabelled, or give the names a concept each in the disease sheet."
        problems.append(Problem(sheets.source, message, remedy, row=photos[0].row, column="disease"))
    return problems


def check_contents(
    sheets: Sheets,
    reading: Reading = PLAIN,
    threads: int = 1,
    cohorts: Mapping[str, Reading] | None = None,
    checked: Checked | None = None,
) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of all photos and masks, in the order of the sheet.

    Args:
        cohorts: the same for cohorts whose masks differ.
        checked: what was found before and is found now, by content; None remembers nothing.
    """
    readings = {photo.cohort: reading for photo in sheets.photos} | dict(cohorts or {})

    def one(photo: Photo) -> list[tuple[str, Problem]]:
        own = readings[photo.cohort]
        there = checked is not None and all(os.path.isfile(path) for path in (photo.file, photo.mask) if path)
        if there and (known := checked.get(photo, own)) is not None:
            return [(finding[0], told(photo, finding, sheets.source)) for finding in known]
        found = dict(zip(("problem", "warning"), check_photo(photo, sheets.source, own), strict=True))
        pairs = [(kind, problem) for kind, problems in found.items() for problem in problems]
        if there:
            checked.put(photo, own, [(kind, p.column, p.message, p.remedy) for kind, p in pairs])
        return pairs

    with ThreadPoolExecutor(max(1, threads)) as pool:
        found = list(tqdm(pool.map(one, sheets.photos), total=len(sheets.photos), desc="check", unit="photo"))
    if checked is not None:
        checked.save()
    values = check_values(sheets.photos, readings, sheets.source, True)
    problems, warnings = (
        [p for pairs in found for kind, p in pairs if kind == wanted] for wanted in ("problem", "warning")
    )
    if wrong := {photo.cohort for problem in values for photo in sheets.photos if photo.row == problem.row}:
        # The cohort's problem says it once, with the id map; each mask's own would only repeat it.
        rows = {photo.row for photo in sheets.photos if photo.cohort in wrong}
        said = ("holds values that are no class", "is a colour picture", "has no skin pixel", "has no lesion pixel")
        problems, warnings = (
            [p for p in part if not (p.row in rows and p.column == "mask" and p.message.startswith(said))]
            for part in (problems, warnings)
        )
    return values + problems, warnings


def check(
    images: str | Path,
    diseases: str | Path,
    reading: Reading = PLAIN,
    mixed: str = "error",
    threads: int = 1,
    cohorts: Mapping[str, Reading] | None = None,
    checked: Checked | None = None,
) -> tuple[Sheets | None, list[Problem], list[Problem]]:
    """Check the sheets, photos and masks.

    Args:
        diseases: the disease sheet or a built-in one.
        mixed: policy for concepts with both malignancies: "error" makes them problems, any other one warnings.

    Returns:
        The sheets (None when they cannot be read), problems and warnings.
    """
    try:
        sheets = load_sheets(images, diseases)
    except InvalidInput as error:
        return None, list(error.problems), []
    problems, warnings = check_contents(sheets, reading, threads, cohorts, checked)
    problems += check_same_file(sheets)
    (problems if mixed == "error" else warnings).extend(check_mixed(sheets))
    return sheets, sorted(problems, key=lambda p: p.row or 0), warnings


def reading_of(masks: MasksSettings) -> Reading:
    """How photos and masks are read by these settings."""
    return Reading(masks.id_map, masks.size, masks.crop)


def check_given(config: Config) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of given images and adapters: each is opened, and adapters are held against the base model's shapes."""
    problems, warnings = [], []
    for name, images in config.synthetic.items():
        try:
            archive = Archive(images.archive)
            for row in [*archive.rows[:1], *archive.rows[-1:]]:
                archive.read(row)
            if not archive.rows:
                raise UserError(f"{images.archive}: holds no image. Ingest it again.")
        except (UserError, ValueError, KeyError) as error:
            problems.append(config.problem(f"synthetic.{name}", str(error), "`cgddi ingest synthetic` writes it."))
    if not config.adapters:
        return problems, warnings
    from cgddi.diffusion.given import Shapes, look_into

    shapes = Shapes.of(config.models.base)
    if shapes is None:
        text = "the base model is not on this disk, so adapters are not held against it"
        warnings.append(config.problem("models.base", text, "Run `cgddi fetch` first."))
    absent = []
    for slug, adapter in config.adapters.items():
        try:
            found = look_into(adapter, shapes)
        except UserError as error:
            problems.append(config.problem(f"adapters.{slug}", str(error), "Name another, or its base model."))
        else:
            absent += [] if found else [slug]
    if absent:
        names = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        warnings.append(config.problem("adapters", f"not on this disk yet: {names}", "Run `cgddi fetch`."))
    return problems, warnings


def check_backbones(config: Config) -> list[Problem]:
    """Classifiers' networks that timm does not know: their jobs would say so after all images are made."""
    from cgddi.core.backbones import known

    problems = []
    for method in config.runs.methods:
        own = method in config.classify.methods and config.classify.methods[method].backbone
        key = f"classify.methods.{method}.backbone" if own else "classify.training.backbone"
        try:
            known(training_of(config.classify, method).backbone)
        except UserError as error:
            problems.append(_parted(config, key, error))
    return list(dict.fromkeys(problems))


def check_plan(config: Config) -> list[Problem]:
    """What planning itself refuses: names in the config, the review file, splits, local models that are not there or not whole."""
    try:
        plan = Plan(config)
    except InvalidInput as error:
        return list(error.problems)
    except UserError as error:
        return [config.problem("", str(error), "")]
    problems = []
    for part, used in used_models(config).items():
        model = getattr(config.models, part)
        if used and not is_hub(model.source):
            try:
                plan.model(model)
            except UserError as error:
                problems.append(_parted(config, f"models.{part}", error))
    try:
        _ = plan.digest  # reads each file that a key names
    except UserError as error:
        problems.append(_parted(config, "", error))
    return problems


def _parted(config: Config, key: str, error: UserError) -> Problem:
    message, _, remedy = str(error).rpartition(". ")
    return config.problem(key, message, remedy)


def check_start(
    config: Config, configfiles: list[str], profile: str | None
) -> tuple[list[str], list[Problem], list[Problem]]:
    """What is said, problems and warnings of the run as Snakemake plans it: room on the disks, and what the cluster gives."""

    def look(dag: Any, plan: Plan) -> tuple[list[Any], Any]:
        return read_jobs(dag, plan), site.asked(dag.jobs, dag.workflow.globals["RETRIES"]) if profile else None

    try:
        plan, (jobs, wanted) = ask_snakemake(configfiles, look=look, profile=profile)
    except UserError as error:
        return [], [Problem("the plan", str(error).strip(), "")], []
    lines, problems, warnings = machine.disk_problems(plan, jobs)
    if any(job.stage in ("classify", "fairness") for job in jobs):
        problems += plan.untestable
    if profile:
        known = site.partitions()
        problems += site.problems(wanted, known)
        lines += site.notes(wanted, known)
    warnings += machine.home_warnings(any(True for _ in named_models(config)), bool(profile))
    return lines, problems, warnings


def main(argv: list[str]) -> int:
    """Run `cgddi check`."""
    parser = command_parser("check", __doc__)
    config_option(parser)
    parser.set_defaults(configfile=None)
    parser.add_argument(
        "--profile", help="as for snakemake: a SLURM profile, whose jobs are held against what the cluster gives"
    )
    parser.add_argument("--images", help="image sheet, instead of the config's")
    parser.add_argument(
        "--diseases", help="disease sheet, or builtin:ddi, builtin:fitzpatrick17k; instead of the config's"
    )
    parser.add_argument(
        "--mask-ids",
        type=json_value,
        metavar="JSON",
        help='value in a mask file -> class, e.g. \'{"0": "skin", "255": "lesion"}\' (default: files hold ids 0 to 4)',
    )
    parser.add_argument("--mixed-malignancy", choices=POLICIES, help="concepts with malignant and benign photos")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads that read photos")
    args = parser.parse_args(argv)
    images, diseases, mixed = args.images, args.diseases, args.mixed_malignancy
    reading, cohorts, config, checked = Reading(id_map(args.mask_ids)), {}, None, None
    print(machine.software())
    if not args.configfile and bool(images) != bool(diseases):
        raise UserError("give --images and --diseases together, or --configfile")
    configfiles = args.configfile or [DEFAULT_FILE]
    if args.configfile or not images:
        config = load_config(*configfiles)
        images, diseases = images or config.images, diseases or config.diseases
        mixed = mixed or config.mixed_malignancy
        checked = Checked(contents_of(results_of(config), True))
        if args.mask_ids is None:
            reading = reading_of(config.masks)
            cohorts = {name: reading_of(config.masks_of(name)) for name in config.cohorts}
    own = config is not None and (images, diseases) == (config.images, config.diseases)
    sheets, problems, warnings = None, config.absent_sheets() if own else [], []
    if not problems:
        sheets, problems, warnings = check(images, diseases, reading, mixed or "error", args.threads, cohorts, checked)
    lines: list[str] = []
    if config is not None:
        checked.contents.save()
        remedy = wandb_missing(config.wandb)
        extras = (
            [Problem("this environment", "the config names wandb, which is not installed", remedy)] if remedy else []
        )
        for found, more in (machine.versions(), (extras, []), (machine.gpu_problems(config), []), check_given(config)):
            problems, warnings = [*problems, *found], [*warnings, *more]
        said = {str(problem) for problem in problems} | {(p.row, p.column) for p in problems if p.row}
        more = [
            *absent(config),
            *check_backbones(config),
            *check_plan(config),
            *unwritable(results_of(config), config.cache),
        ]
        warnings += umask_warnings(results_of(config))
        problems += [p for p in more if str(p) not in said and (p.row, p.column) not in said]
        if not problems:
            lines, problems, more = check_start(config, configfiles, args.profile)
            warnings += more
    for warning in grouped(warnings):
        print(f"warning: {warning}")
    for line in lines:
        print(line)
    if problems:
        print(InvalidInput(problems, shown=1000), file=sys.stderr)
        return 2
    masks = sum(photo.mask is not None for photo in sheets.photos)
    toneless = sum(photo.skin_tone == UNKNOWN for photo in sheets.photos)
    counts = [f"{len(sheets.photos)} photos", f"{len(sheets.concepts)} concepts", f"{masks} masks"]
    counts += [f"{toneless} of unknown skin tone (donors and canvases only)"] if toneless else []
    print(f"{images}: {', '.join(counts)}, no problem")
    return 0
