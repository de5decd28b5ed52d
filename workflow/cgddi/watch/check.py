"""Check the software, the config and its sheets, and look into every photo, mask, given archive and adapter; report every problem
at once.

    cgddi check                                    as `snakemake` would run: with config/config.yaml
    cgddi check --configfile my.yaml
    cgddi check --images images.csv --diseases builtin:ddi

Exit status 0: nothing stands against a run (warnings may be printed); 2: problems.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tqdm import tqdm

import cgddi
from cgddi.core.archive import Archive
from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.ingest.mask_check import check_photo, id_map
from cgddi.plan.config import DEFAULT_FILE, Config, config_option, load_config
from cgddi.plan.sheets import Photo, Sheets, load_sheets

POLICIES = ("error", "unlabelled", "split")

IdMap = Mapping[str, int] | None
"""Value in a mask file -> class id; None: the files hold class ids."""


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


def check_same_file(sheets: Sheets) -> list[Problem]:
    """Photo or mask files that stand in more than one row: one picture under two ids leaks from training to test."""
    problems = []
    for column in ("file", "mask"):
        rows: dict[str, list[Photo]] = defaultdict(list)
        for photo in sheets.photos:
            if path := getattr(photo, column):
                rows[os.path.realpath(path)].append(photo)
        for photos in rows.values():
            if len(photos) > 1:
                message = f"this file stands in row {photos[0].row} too"
                place = {"row": photos[1].row, "column": column, "value": getattr(photos[1], column)}
                problems.append(Problem(sheets.source, message, "Keep one row per picture.", **place))
    return problems


def check_contents(
    sheets: Sheets,
    ids: IdMap = None,
    threads: int = 1,
    cohort_ids: Mapping[str, IdMap] | None = None,
) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of all photos and masks, in the order of the sheet.

    Args:
        sheets: the sheets.
        ids: value in a mask file -> class id (see `mask_check.id_map`).
        threads: threads that read photos.
        cohort_ids: the same for cohorts whose masks differ.
    """
    special = cohort_ids or {}

    def one(photo: Photo) -> tuple[list[Problem], list[Problem]]:
        return check_photo(photo, sheets.source, special.get(photo.cohort, ids))

    with ThreadPoolExecutor(max(1, threads)) as pool:
        found = list(tqdm(pool.map(one, sheets.photos), total=len(sheets.photos), desc="check", unit="photo"))
    return [p for problems, _ in found for p in problems], [w for _, warnings in found for w in warnings]


def check(
    images: str | Path,
    diseases: str | Path,
    ids: IdMap = None,
    mixed: str = "error",
    threads: int = 1,
    cohort_ids: Mapping[str, IdMap] | None = None,
) -> tuple[Sheets | None, list[Problem], list[Problem]]:
    """Check everything.

    Args:
        images: the image sheet.
        diseases: the disease sheet or a built-in one.
        ids, threads, cohort_ids: see `check_contents`.
        mixed: policy for concepts with both malignancies: "error" makes them problems, any other one warnings.

    Returns:
        The sheets (None when they cannot be read), problems and warnings.
    """
    try:
        sheets = load_sheets(images, diseases)
    except InvalidInput as error:
        return None, list(error.problems), []
    problems, warnings = check_contents(sheets, ids, threads, cohort_ids)
    problems += check_same_file(sheets)
    (problems if mixed == "error" else warnings).extend(check_mixed(sheets))
    return sheets, sorted(problems, key=lambda p: p.row or 0), warnings


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


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"is no JSON: {error}") from error


def software() -> str:
    """Versions that a bug report needs, and whether torch sees a GPU, in one line."""
    names = ("snakemake", "torch", "diffusers")
    found = [f"cgddi {cgddi.__version__}"]
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    if "no torch" in found:
        return f"Python {platform.python_version()}, {', '.join(found)}"
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"Python {platform.python_version()}, {', '.join(found)}; torch sees {device}"


def main(argv: list[str]) -> int:
    """Run `cgddi check`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="cgddi check", description=__doc__, formatter_class=raw)
    config_option(parser)
    parser.set_defaults(configfile=None)
    parser.add_argument("--images", help="image sheet, instead of the config's")
    parser.add_argument(
        "--diseases", help="disease sheet, or builtin:ddi, builtin:fitzpatrick17k; instead of the config's"
    )
    parser.add_argument(
        "--mask-ids",
        type=_json,
        metavar="JSON",
        help='value in a mask file -> class, e.g. \'{"0": "skin", "255": "lesion"}\' (default: files hold ids 0 to 4)',
    )
    parser.add_argument("--mixed-malignancy", choices=POLICIES, help="concepts with malignant and benign photos")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads that read photos")
    args = parser.parse_args(argv)
    images, diseases, mixed = args.images, args.diseases, args.mixed_malignancy
    ids, cohort_ids, config = id_map(args.mask_ids), {}, None
    print(software())
    if not args.configfile and bool(images) != bool(diseases):
        raise UserError("give --images and --diseases together, or --configfile")
    if args.configfile or not images:
        config = load_config(*(args.configfile or [DEFAULT_FILE]))
        images, diseases = images or config.images, diseases or config.diseases
        mixed = mixed or config.mixed_malignancy
        if args.mask_ids is None:
            ids = config.masks.id_map
            cohort_ids = {name: config.masks_of(name).id_map for name in config.cohorts}
    sheets, problems, warnings = check(images, diseases, ids, mixed or "error", args.threads, cohort_ids)
    if config is not None:
        found, more = check_given(config)
        problems, warnings = [*problems, *found], [*warnings, *more]
    for warning in warnings:
        print(f"warning: {warning}")
    if problems:
        print(InvalidInput(problems, shown=1000), file=sys.stderr)
        return 2
    masks = sum(photo.mask is not None for photo in sheets.photos)
    print(f"{images}: {len(sheets.photos)} photos, {len(sheets.concepts)} concepts, {masks} masks, no problem")
    return 0
