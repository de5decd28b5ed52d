"""Train, validation and test assignments, one cohort at a time, so that a new cohort moves no image of an old one.

`cgddi split` writes one cohort's assignment in one split, as the spec holds it: csv with image_id and role.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import model_validator

from cgddi.core.errors import InvalidInput, Problem, refuse
from cgddi.core.seeds import seed_for
from cgddi.core.settings import Settings, setting
from cgddi.ingest.names import UNKNOWN
from cgddi.ingest.table import check_columns, read_table
from cgddi.plan.sheets import Photo

ROLES = ("train", "validation", "test")


class SplitSettings(Settings):
    """How one named split assigns photos."""

    method: Literal["published", "stratified", "holdout", "cohorts", "out_of_tone", "file"] = setting(
        "stratified",
        "published: scikit-learn's train_test_split over photos in the order of their numbers (FairDisCo, PatchAlign); "
        "stratified: by tone and malignancy, groups together, every concept keeps a training image; holdout: cohorts with "
        "role `evaluation` are the test; cohorts: test_cohorts are the test; out_of_tone: photos of test_tones are the test; file: "
        "as `file` says",
    )
    file: str | None = setting(
        None,
        "method file: csv with image_id and role (train, validation, test; empty: takes no part), a row for each "
        "photo, for instance a copy of a run's `splits/<split>/<cohort>.csv`: so a corrected label moves no photo",
    )
    seed: int = setting(12140420, "seed of the assignment (published single split: 12140420)")
    test: float = setting(0.2, "share of a cohort's photos in the test (published: 0.2)", gt=0, lt=1)
    validation: float = setting(0.1, "share of the remaining photos for model selection", ge=0, lt=1)
    test_cohorts: tuple[str, ...] = setting(
        (),
        "method cohorts: these are the test; all others train. published, stratified: only these cohorts' test photos "
        "are tested",
    )
    train_cohorts: tuple[str, ...] = setting(
        (), "published, stratified: only these cohorts' training photos are learnt from; empty: all"
    )
    test_tones: tuple[str, ...] = setting((), "method out_of_tone: these tones are the test; the others train")

    @model_validator(mode="after")
    def _a_file_for_its_method(self) -> SplitSettings:
        if (self.method == "file") != (self.file is not None):
            raise ValueError("`method: file` and `file: <csv with image_id and role>` go together")
        return self


def read_roles(path: str) -> dict[str, str]:
    """Roles of a split's file by image id.

    Raises:
        InvalidInput: it cannot be read, or rows of it say something else than a role.
    """
    table = read_table(path)
    problems = [*table.problems, *check_columns(table, ("image_id", "role"), strict=False)]
    if not problems:
        remedy = f"Write {', '.join(ROLES)}, or nothing for a photo that takes no part."
        problems = [
            Problem(path, "no role of a split", remedy, row=line, column="role", value=row["role"])
            for line, row in table.rows
            if row["role"] not in (*ROLES, "")
        ]
    refuse(problems)
    return {row["image_id"]: row["role"] for _, row in table.rows}


def _number(image_id: str) -> list[tuple[int, str]]:
    """Sort key of ids by the numbers in them, as DDI's rows stand."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.findall(r"[0-9]+|[^0-9]+", image_id)]


def published_test(n: int, seed: int, fraction: float) -> set[int]:
    """Row numbers that `sklearn.model_selection.train_test_split(rows, test_size=fraction, random_state=seed)` puts in the test."""
    order = np.random.RandomState(seed).permutation(n)
    return set(order[: math.ceil(fraction * n)].tolist())


def draw_stratified(photos: Sequence[Photo], fraction: float, seed: int, name: str) -> set[str]:
    """Draw about `fraction` of the photos, stratified by tone and malignancy.

    Groups (patients, near-duplicates) go together, and no concept loses its last photo: a concept with one photo is never
    drawn. Photos are ranked by a hash of their name, so growing a cohort moves few of the old ones.

    Returns:
        The image ids drawn.
    """
    units: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        units[photo.group or photo.image_id].append(photo)
    strata: dict[tuple, list[list[Photo]]] = defaultdict(list)
    for key in sorted(units, key=lambda unit: seed_for(seed, name, unit)):
        first = units[key][0]
        strata[first.skin_tone, str(first.malignant)].append(units[key])
    left = Counter(photo.concept for photo in photos)
    drawn: set[str] = set()
    for stratum in sorted(strata):
        wanted = round(fraction * sum(map(len, strata[stratum])))
        for unit in strata[stratum]:
            costs = Counter(photo.concept for photo in unit)
            if wanted < len(unit) or any(left[concept] - cost < 1 for concept, cost in costs.items()):
                continue
            left.subtract(costs)
            wanted -= len(unit)
            drawn.update(photo.image_id for photo in unit)
    return drawn


def assign(
    photos: Sequence[Photo], cohort_role: str, settings: SplitSettings, taken: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Roles of one cohort's photos.

    Args:
        cohort_role: "development" or "evaluation" (config key `cohorts.<name>.role`).
        taken: group -> role in earlier cohorts; a stratified split lets a photo of such a group (the same patient, the same
            picture) follow it.

    Returns:
        image_id -> train, validation or test; photos that take no part in this split are left out. A photo of unknown skin tone
        is never held out, since figures are by tone: where it would be, or another photo of its group is, it takes no part.
    """
    known = [photo for photo in photos if photo.skin_tone != UNKNOWN]
    if len(known) == len(photos):
        return _assigned(photos, cohort_role, settings, taken)
    if settings.method == "file":
        roles = _assigned(photos, cohort_role, settings, taken)
    else:
        roles = _assigned(known, cohort_role, settings, taken) if known else {}
        learnt = cohort_role != "evaluation"
        if settings.method == "cohorts":
            learnt = photos[0].cohort not in settings.test_cohorts
        roles |= {p.image_id: "train" for p in photos if p.skin_tone == UNKNOWN and learnt}
    held = {p.group for p in photos if p.group and roles.get(p.image_id) in ("validation", "test")}
    held |= {group for group, role in (taken or {}).items() if role != "train"}
    unfit = {p.image_id for p in photos if p.skin_tone == UNKNOWN and p.group in held}
    unfit |= {p.image_id for p in photos if p.skin_tone == UNKNOWN and roles.get(p.image_id) != "train"}
    return {image: role for image, role in roles.items() if image not in unfit}


def _assigned(
    photos: Sequence[Photo], cohort_role: str, settings: SplitSettings, taken: Mapping[str, str] | None
) -> dict[str, str]:
    """As `assign`, whatever is known of the photos' skin tones."""
    cohort = photos[0].cohort if photos else ""
    ids = [photo.image_id for photo in photos]
    if settings.method == "file":
        roles = read_roles(settings.file)
        if missing := [image for image in ids if image not in roles]:
            named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            text = f"no row for {len(missing)} photo(s) of cohort {cohort}: {named}"
            raise InvalidInput(
                [Problem(settings.file, text, "Add them, with an empty role where they are to take no part.")]
            )
        return {image: roles[image] for image in ids if roles[image]}
    if settings.method == "cohorts":
        test = set(ids) if cohort in settings.test_cohorts else set()
    elif settings.method == "holdout":
        test = set(ids) if cohort_role == "evaluation" else set()
    elif cohort_role == "evaluation":
        return {}
    elif settings.method == "out_of_tone":
        test = {photo.image_id for photo in photos if photo.skin_tone in settings.test_tones}
    elif settings.method == "published":
        ids.sort(key=_number)
        test = {ids[i] for i in published_test(len(ids), settings.seed, settings.test)}
    else:
        taken = taken or {}
        follows = {p.image_id: taken[p.group] for p in photos if p.group in taken}
        free = [photo for photo in photos if photo.image_id not in follows]
        test = draw_stratified(free, settings.test, settings.seed, "test")
        return {**_with_validation(free, test, settings), **follows}
    return _with_validation(photos, test, settings)


def _with_validation(photos: Sequence[Photo], test: set[str], settings: SplitSettings) -> dict[str, str]:
    """Roles of photos whose test images are given: a validation set is drawn from the others."""
    rest = [photo for photo in photos if photo.image_id not in test]
    share = settings.validation
    validation = draw_stratified(rest, share, settings.seed, "validation") if share else set()
    roles = {photo.image_id: "validation" if photo.image_id in validation else "train" for photo in rest}
    return {photo.image_id: roles.get(photo.image_id, "test") for photo in photos}


def taking_part(cohort: str, roles: Mapping[str, str], settings: SplitSettings) -> dict[str, str]:
    """Roles of one cohort's photos without those that the split leaves to other cohorts: who is trained on, and who is tested.

    Photos left out are in neither; so a classifier trained on one data set is tested on the same photos of another as one
    trained there.
    """
    if settings.method not in ("published", "stratified"):
        return dict(roles)
    learns = not settings.train_cohorts or cohort in settings.train_cohorts
    tested = not settings.test_cohorts or cohort in settings.test_cohorts
    return {image: role for image, role in roles.items() if (tested if role == "test" else learns)}


def gaps(
    photos: Iterable[Photo],
    roles: dict[str, str],
    settings: SplitSettings,
    class_of: Callable[[Photo], str] | None = None,
) -> list[str]:
    """What a split's test lacks: classes and, unless the split is by tone, tones without any test photo.

    Args:
        roles: image id -> role.
        class_of: the class that classifiers predict for a photo; None: malignancy.
    """
    test = [photo for photo in photos if roles.get(photo.image_id) == "test"]
    if not test:
        return ["no test photo at all"]
    if class_of is None:
        tested, learnt = {photo.malignant for photo in test}, (True, False)
        found = [f"no {'malignant' if name else 'benign'} test photo" for name in learnt if name not in tested]
    else:
        tested, learnt = {class_of(p) for p in test}, {class_of(p) for p in photos if roles.get(p.image_id) == "train"}
        found = [f"no test photo of {name}" for name in sorted(learnt - tested)]
        found += [f"test photos of {name}, but no training photo" for name in sorted(tested - learnt)]
    if settings.method != "out_of_tone":
        present = {photo.skin_tone for photo in test}
        known = {photo.skin_tone for photo in photos} - {UNKNOWN}
        found += [f"no test photo of {tone} skin" for tone in sorted(known - present)]
    return found


def main(argv: Sequence[str]) -> int:
    """Run `cgddi split`."""
    from cgddi.core.archive import csv_text, record_for, write_atomic, write_record
    from cgddi.job.command import stage_parser

    parser = stage_parser("split", __doc__)
    parser.add_argument("--output", required=True, help="the table to write (.csv; its record is .json beside it)")
    options = parser.parse_args(argv)
    rows = [{"image_id": image_id, "role": role} for image_id, role in options.spec["rows"]]
    write_atomic(options.output, csv_text(["image_id", "role"], rows))
    record = record_for(options.spec, photos=len(rows))
    write_record(options.output.removesuffix("csv") + "json", record, [options.output])
    return 0
