"""The image sheet and the disease sheet: what stands in them, and every problem with them at once.

Light (standard library only): read at every parse of the Snakefile. Relative paths in the image sheet are relative to the
working directory, where snakemake runs; a file not found there is looked for beside the sheet.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from cgddi.errors import InvalidInput, Problem
from cgddi.ingest.names import COHORT, IMAGE_ID, RESERVED_SLUGS, SLUG, TOKEN, fault, path_fault, slugify
from cgddi.ingest.table import Table, check_columns, read_table

REQUIRED = ("image_id", "file", "cohort", "disease", "skin_tone", "malignant")
OPTIONAL = ("mask", "group")
COLUMNS = (*REQUIRED, *OPTIONAL)
DISEASE_COLUMNS = ("raw", "concept", "slug", "token")
BUILTIN = ("builtin:ddi", "builtin:fitzpatrick17k")

TONE_NAMES = {
    **dict.fromkeys(("light", "12", "1", "2"), "light"),
    **dict.fromkeys(("medium", "34", "3", "4"), "medium"),
    **dict.fromkeys(("dark", "56", "5", "6"), "dark"),
}
"""Accepted tones: groups, DDI's 12, 34 and 56, and Fitzpatrick types 1 to 6."""

MALIGNANT_NAMES = {
    **dict.fromkeys(("true", "1", "yes"), True),
    **dict.fromkeys(("false", "0", "no"), False),
    "": None,
}
"""Accepted values of column `malignant`; empty means unknown."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One row of the image sheet.

    Args:
        image_id: unique over all cohorts; letters, digits, `_` and `-`.
        file: path of the photo, as found (see the module's text on relative paths).
        cohort: photos that arrived together.
        disease: raw name.
        concept: slug of the concept the disease belongs to.
        skin_tone: light, medium or dark.
        malignant: None when unknown.
        mask: path of the five-class mask, or None.
        group: patient or set of near-duplicates, which a split keeps together; None when the photo stands alone.
        row: line in the sheet, the header being line 1.
    """

    image_id: str
    file: str
    cohort: str
    disease: str
    concept: str
    skin_tone: str
    malignant: bool | None
    mask: str | None
    group: str | None
    row: int


@dataclass(frozen=True, slots=True)
class Concept:
    """What one or several raw names stand for: a slug safe in paths, a readable name and the token of its embedding."""

    slug: str
    name: str
    token: str


@dataclass
class Sheets:
    """Both sheets, checked.

    Args:
        photos: in file order.
        concepts: slug -> concept, in order of first appearance; only those that occur.
        source: path of the image sheet.
    """

    photos: tuple[Photo, ...]
    concepts: dict[str, Concept]
    source: str = "image sheet"

    def mixed_concepts(self) -> list[str]:
        """Slugs of concepts with malignant and benign photos, sorted."""
        labels: dict[str, set[bool | None]] = defaultdict(set)
        for photo in self.photos:
            labels[photo.concept].add(photo.malignant)
        return sorted(slug for slug, seen in labels.items() if {True, False} <= seen)


class Folders:
    """Which files exist, by listing each folder once: 16,000 photos cost one listing, also on a network file system."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def holds(self, path: str) -> bool:
        """Whether a file or folder of that path exists."""
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return os.path.exists(path)
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder or "."))
            except OSError:
                self._names[folder] = frozenset()
        return name in self._names[folder]


def load_sheets(images: str | Path, diseases: str | Path) -> Sheets:
    """Read and check both sheets.

    Args:
        images: the image sheet.
        diseases: the disease sheet, `builtin:ddi` or `builtin:fitzpatrick17k`.

    Raises:
        InvalidInput: every problem in both sheets. Whether files exist is `check_files`; what is in them, `cgddi validate`.
    """
    known, problems = read_diseases(diseases)
    sheets, found = check_images(read_table(images), known, os.fspath(diseases))
    if problems or found:
        raise InvalidInput(problems + found)
    return sheets


def read_diseases(diseases: str | Path) -> tuple[dict[str, Concept], list[Problem]]:
    """The disease sheet as {raw name: concept}, and what is wrong with it."""
    path = os.fspath(diseases)
    if path in BUILTIN:
        path = os.path.join(os.path.dirname(__file__), "ingest", f"{path.removeprefix('builtin:')}_diseases.csv")
    elif path.startswith("builtin:"):
        return {}, [
            Problem(path, "there is no such built-in disease sheet", f"Choose {' or '.join(BUILTIN)}, or a csv file.")
        ]
    return check_diseases(read_table(path))


def check_diseases(table: Table) -> tuple[dict[str, Concept], list[Problem]]:
    """A disease table as {raw name: concept}, and its problems: unsafe or shared slugs and tokens, doubled raw names."""
    problems = table.problems + check_columns(table, DISEASE_COLUMNS[:2], DISEASE_COLUMNS[2:])
    known: dict[str, Concept] = {}
    by_name: dict[str, Concept] = {}
    owners: dict[str, str] = {}
    if not {"raw", "concept"} <= set(table.columns):
        return known, problems

    def report(message: str, remedy: str, column: str, value: str) -> None:
        problems.append(Problem(table.source, message, remedy, row=line, column=column, value=value))

    for line, cells in table.rows:
        raw, name = cells["raw"], cells["concept"]
        for column in ("raw", "concept"):
            if not cells[column]:
                report("is empty", "Fill it in or remove the row.", column, "")
            elif not cells[column].isprintable():
                report("holds an unprintable character", "Write it in plain text.", column, cells[column])
        if raw in known:
            report("this raw name stands in an earlier row too", "Keep one row per raw name.", "raw", raw)
        slug = cells.get("slug") or slugify(name)
        concept = Concept(slug, name, cells.get("token") or f"<{slug}>")
        earlier = by_name.setdefault(name, concept)
        known.setdefault(raw, earlier)
        if earlier is not concept:
            if earlier != concept:
                message = f"concept {name!r} has slug {earlier.slug!r} and token {earlier.token!r} in an earlier row"
                report(
                    message,
                    "Give a concept the same slug and token in all its rows.",
                    "slug",
                    f"{slug} {concept.token}",
                )
            continue
        wrong = fault(slug, SLUG) or ("is reserved by the workflow" if slug in RESERVED_SLUGS else None)
        if wrong:
            report(f"the slug {wrong}", "Write another one in column slug.", "slug", slug)
        elif wrong := fault(concept.token, TOKEN):
            report(f"the token {wrong}", "Write another one in column token.", "token", concept.token)
        for column, value in (("slug", slug), ("token", concept.token)):
            if value and (other := owners.setdefault(f"{column} {value.casefold()}", name)) != name:
                remedy = f"Write another one in column {column}, or give both rows one concept."
                report(f"concepts {other!r} and {name!r} share the {column}", remedy, column, value)
    if not table.rows and not problems:
        problems.append(Problem(table.source, "has no rows", "Write one row per raw disease name."))
    return known, problems


def check_images(table: Table, known: dict[str, Concept], diseases: str) -> tuple[Sheets, list[Problem]]:
    """An image table as `Sheets`, and its problems.

    Args:
        table: the image sheet as read.
        known: raw disease name -> concept; empty when the disease sheet could not be read.
        diseases: the disease sheet's name, for messages.
    """
    problems = table.problems + check_columns(table, REQUIRED, OPTIONAL)
    photos: list[Photo] = []
    empty = Sheets((), {}, table.source)
    if not set(REQUIRED) <= set(table.columns):
        return empty, problems
    if not table.rows and not problems:
        problems.append(Problem(table.source, "has no rows", "Write it with `cgddi ingest`."))
    first: dict[str, tuple[int, str, str]] = {}
    unknown: dict[str, list[int]] = defaultdict(list)
    folders, beside = Folders(), os.path.dirname(table.source)

    def report(message: str, remedy: str, column: str, value: str | None = None) -> None:
        problems.append(Problem(table.source, message, remedy, row=line, column=column, value=value))

    def place(path: str) -> str:
        fallback = os.path.join(beside, path)
        return fallback if beside and not folders.holds(path) and folders.holds(fallback) else path

    for line, cells in table.rows:
        before = len(problems)
        for column in REQUIRED[:-1]:
            if not cells[column]:
                report("is empty", "Fill it in or remove the row.", column)
        image_id, cohort, disease = cells["image_id"], cells["cohort"], cells["disease"]
        if image_id and (wrong := fault(image_id, IMAGE_ID)):
            report(f"the id {wrong}", "Rename it; the file itself may keep its name.", "image_id", image_id)
        if image_id and (seen := first.setdefault(image_id.casefold(), (line, image_id, cohort)))[0] != line:
            where = f"row {seen[0]}" + (f" (cohort {seen[2]})" if seen[2] != cohort else "")
            case = "" if seen[1] == image_id else f" as {seen[1]!r}, which some file systems do not tell apart"
            report(
                f"this id stands in {where} too{case}",
                "Ids are unique over all cohorts: add a prefix.",
                "image_id",
                image_id,
            )
        if cohort and (wrong := fault(cohort, COHORT)):
            report(f"the cohort's name {wrong}", "Rename the cohort.", "cohort", cohort)
        for column in ("file", "mask"):
            if wrong := path_fault(cells.get(column, "")):
                report(f"the path {wrong}", "Rename the file.", column, cells[column])
        if group_wrong := path_fault(cells.get("group", "")):
            report(f"the group {group_wrong}", "Write another group name.", "group", cells["group"])
        tone = TONE_NAMES.get(cells["skin_tone"].casefold())
        if cells["skin_tone"] and tone is None:
            remedy = "Write light, medium or dark; 12, 34 or 56; or a Fitzpatrick type 1 to 6."
            report("is no skin tone", remedy, "skin_tone", cells["skin_tone"])
        label = cells["malignant"].casefold()
        if label not in MALIGNANT_NAMES:
            report(
                "is no malignancy",
                "Write True or False, or leave it empty when unknown.",
                "malignant",
                cells["malignant"],
            )
        if disease and known and disease not in known:
            unknown[disease].append(line)
        elif len(problems) == before and disease in known:
            mask = cells.get("mask")
            photo = Photo(
                image_id=image_id,
                file=place(cells["file"]),
                cohort=cohort,
                disease=disease,
                concept=known[disease].slug,
                skin_tone=tone or "",
                malignant=MALIGNANT_NAMES[label],
                mask=place(mask) if mask else None,
                group=cells.get("group") or None,
                row=line,
            )
            photos.append(photo)
    for disease, lines in unknown.items():
        near = get_close_matches(disease, known, n=1)
        remedy = f"Did you mean {near[0]!r}? " if near else ""
        more = f" ({len(lines)} rows)" if len(lines) > 1 else ""
        line = lines[0]
        report(
            f"is not in the disease sheet {diseases}{more}",
            f"{remedy}Mend the name or add it there.",
            "disease",
            disease,
        )
    problems.sort(key=lambda problem: problem.row or 0)
    concepts = {known[photo.disease].slug: known[photo.disease] for photo in photos}
    return Sheets(tuple(photos), concepts, table.source), problems


def check_files(sheets: Sheets) -> list[Problem]:
    """Photos and masks that do not exist. Nothing is opened; `cgddi validate` looks inside."""
    folders, problems = Folders(), []
    for photo in sheets.photos:
        for column, path in (("file", photo.file), ("mask", photo.mask)):
            if path is not None and not folders.holds(path):
                remedy = (
                    "Mend the path (relative to the working directory, or else to the sheet's folder) or remove it."
                )
                problems.append(
                    Problem(sheets.source, "no such file", remedy, row=photo.row, column=column, value=path)
                )
    return problems


def used_twice(sheets: Sheets) -> list[Problem]:
    """Photo or mask files that stand in more than one row: one picture under two ids leaks from training to test."""
    problems = []
    for column in ("file", "mask"):
        paths = [os.path.normpath(path) for photo in sheets.photos if (path := getattr(photo, column))]
        for path, times in Counter(paths).items():
            if times > 1:
                message, remedy = f"this file stands in {times} rows", "Keep one row per picture."
                problems.append(Problem(sheets.source, message, remedy, column=column, value=path))
    return problems
