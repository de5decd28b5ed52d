"""The image sheet and the disease sheet: what stands in them, and every problem with them at once.

Light (standard library only): read at every parse of the Snakefile. Relative paths in the image sheet are relative to
the working directory, where snakemake runs; a file not found there is looked for beside the sheet.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from cgddi.core.errors import Problem, refuse
from cgddi.ingest.diseases import Concept, read_diseases
from cgddi.ingest.names import COHORT, IMAGE_ID, fault, malignant_of, path_fault, tone_of
from cgddi.ingest.table import Table, check_columns, read_table

REQUIRED = ("image_id", "file", "cohort", "disease", "skin_tone", "malignant")
OPTIONAL = ("mask", "group")
COLUMNS = (*REQUIRED, *OPTIONAL)
MEASURED = ("mm_per_px",)
"""Columns that few sheets have; `cgddi ingest` writes them where a photo has a value."""

TONES = ("light", "medium", "dark")
"""As `core.images.TONES`, which brings image libraries with it."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One row of the image sheet.

    Args:
        image_id: unique over all cohorts; letters, digits, `_` and `-`.
        file: path of the photo, as found (see the module's text on relative paths).
        cohort: photos that arrived together.
        disease: raw name.
        concept: slug of the concept the disease belongs to.
        skin_tone: light, medium, dark or unknown.
        malignant: None when unknown.
        mask: path of the five-class mask, or None.
        group: patient or set of near-duplicates, which a split keeps together; None when the photo stands alone.
        row: line in the sheet, the header being line 1.
        mm_per_px: millimetres of skin that a pixel of the photo's file shows, or None.
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
    mm_per_px: float | None = None


@dataclass
class Sheets:
    """Both sheets, checked.

    Args:
        photos: in file order.
        concepts: slug -> concept, in order of first appearance; only those that occur.
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
        self._names: dict[str, dict[str, bool]] = {}
        """Folder -> names in it -> whether that is a link."""
        self._real: dict[str, str] = {}

    def holds(self, path: str) -> bool:
        """Whether a file or folder of that path exists."""
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return os.path.exists(path)
        return name in self._listed(folder)

    def _listed(self, folder: str) -> dict[str, bool]:
        if folder not in self._names:
            try:
                with os.scandir(folder or ".") as entries:
                    self._names[folder] = {entry.name: entry.is_symlink() for entry in entries}
            except OSError:
                self._names[folder] = {}
        return self._names[folder]

    def real(self, path: str) -> str:
        """The path without links and detours: equal for two names of one file."""
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or self._listed(folder).get(name, True):
            return os.path.realpath(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return os.path.join(self._real[folder], name)


def load_sheets(images: str | Path, diseases: str | Path) -> Sheets:
    """Read and check both sheets.

    Args:
        diseases: the disease sheet, `builtin:ddi` or `builtin:fitzpatrick17k`.

    Raises:
        InvalidInput: every problem in both sheets. Whether files exist is for `check_files`, what is in them for
            `cgddi check`.
    """
    known, problems = read_diseases(diseases)
    sheets, found = check_images(read_table(images), known, os.fspath(diseases))
    refuse(problems + found)
    return sheets


def check_images(table: Table, known: dict[str, Concept], diseases: str) -> tuple[Sheets, list[Problem]]:
    """An image table as `Sheets`, and its problems.

    Args:
        known: raw disease name -> concept; empty when the disease sheet could not be read.
        diseases: the disease sheet's name, for messages.
    """
    problems = table.problems + check_columns(table, REQUIRED, (*OPTIONAL, *MEASURED))
    photos: list[Photo] = []
    if not set(REQUIRED) <= set(table.columns):
        return Sheets((), {}, table.source), problems
    if not table.rows and not problems:
        problems.append(Problem(table.source, "has no rows", "Write it with `cgddi ingest`."))
    first: dict[str, tuple[int, str, str]] = {}
    unknown: dict[str, list[int]] = defaultdict(list)
    place = _Places(os.path.dirname(table.source))
    for line, cells in table.rows:
        own = line, cells["image_id"], cells["cohort"]
        faults = [*_cell_faults(cells), *_repeated_id(cells, first.setdefault(cells["image_id"].casefold(), own), line)]
        for column, message, remedy in faults:
            value = cells[column] or None
            problems.append(Problem(table.source, message, remedy, row=line, column=column, value=value))
        if cells["disease"] not in known:
            unknown[cells["disease"]].append(line)
        elif not faults:
            photos.append(_photo(line, cells, known[cells["disease"]].slug, place))
    problems += _unknown_diseases(table.source, unknown, known, diseases)
    photos = _padded(photos)
    problems.sort(key=lambda problem: problem.row or 0)
    concepts = {known[photo.disease].slug: known[photo.disease] for photo in photos}
    return Sheets(tuple(photos), concepts, table.source), problems


def padded(image_id: str) -> str:
    """An id of digits with the zeros in front that a spreadsheet takes away: six digits, as in DDI."""
    return image_id.lstrip("0").zfill(6) if image_id.isascii() and image_id.isdigit() else image_id


def _padded(photos: list[Photo]) -> list[Photo]:
    """Photos with padded ids, where that leaves them unique: a sheet that a spreadsheet saved names the same photos."""
    count = Counter(padded(photo.image_id) for photo in photos)
    return [
        replace(photo, image_id=new) if (new := padded(photo.image_id)) != photo.image_id and count[new] == 1 else photo
        for photo in photos
    ]


class _Places:
    """A path as the sheet means it: below the working directory, or else beside the sheet."""

    def __init__(self, beside: str) -> None:
        self.beside, self.folders = beside, Folders()

    def __call__(self, path: str) -> str:
        fallback = os.path.join(self.beside, path)
        return fallback if self.beside and not self.folders.holds(path) and self.folders.holds(fallback) else path


def _photo(line: int, cells: dict[str, str], slug: str, place: _Places) -> Photo:
    mask = cells.get("mask")
    return Photo(
        image_id=cells["image_id"],
        file=place(cells["file"]),
        cohort=cells["cohort"],
        disease=cells["disease"],
        concept=slug,
        skin_tone=tone_of(cells["skin_tone"]),
        malignant=malignant_of(cells["malignant"]),
        mask=place(mask) if mask else None,
        group=cells.get("group") or None,
        row=line,
        mm_per_px=float(cells["mm_per_px"].replace(",", ".")) if cells.get("mm_per_px") else None,
    )


Fault = tuple[str, str, str]
"""Column, message, remedy."""


def _cell_faults(cells: dict[str, str]) -> Iterator[Fault]:
    for column in REQUIRED[:4]:
        if not cells[column]:
            yield column, "is empty", "Fill it in or remove the row."
    if cells["image_id"] and (wrong := fault(cells["image_id"], IMAGE_ID)):
        yield "image_id", f"the id {wrong}", "Rename it; the file itself may keep its name."
    if cells["cohort"] and (wrong := fault(cells["cohort"], COHORT)):
        yield "cohort", f"the cohort's name {wrong}", "Rename the cohort."
    for column in ("file", "mask", "group"):
        if wrong := path_fault(cells.get(column, "")):
            yield column, wrong, "Rename it."
        elif column != "group" and set("{}") & set(cells.get(column, "")):
            yield column, "holds a brace, which Snakemake would read as a wildcard", "Rename the file."
    if tone_of(cells["skin_tone"]) is None:
        remedy = "Write light, medium or dark; 12, 34 or 56; a Fitzpatrick type 1 to 6 or I to VI; or unknown."
        yield "skin_tone", "is no skin tone", remedy
    if isinstance(malignant_of(cells["malignant"]), str):
        yield "malignant", "is no malignancy", "Write True or False, or leave it empty when unknown."
    if cells.get("mm_per_px") and not _is_scale(cells["mm_per_px"]):
        remedy = (
            "Write the millimetres of skin that a pixel of the photo shows, e.g. 0.05, or leave it empty when unknown."
        )
        yield "mm_per_px", "is no scale", remedy


def _is_scale(text: str) -> bool:
    """Whether a cell gives millimetres per pixel: from a micrometre to a centimetre."""
    try:
        return 0.001 <= float(text.replace(",", ".")) <= 10
    except ValueError:
        return False


def _repeated_id(cells: dict[str, str], seen: tuple[int, str, str], line: int) -> Iterator[Fault]:
    row, image_id, cohort = seen
    if row != line and image_id:
        where = f"row {row}" + (f" (cohort {cohort})" if cohort != cells["cohort"] else "")
        case = "" if image_id == cells["image_id"] else f" as {image_id!r}, which some file systems do not tell apart"
        remedy = "Ids are unique over all cohorts: remove the row or add a prefix."
        yield "image_id", f"this id stands in {where} too{case}", remedy


def _unknown_diseases(
    source: str, unknown: dict[str, list[int]], known: dict[str, Concept], diseases: str
) -> Iterator[Problem]:
    for disease, lines in unknown.items() if known else ():
        if disease:
            near = get_close_matches(disease, known, n=1)
            remedy = (f"Did you mean {near[0]!r}? " if near else "") + "Correct the name or add it there."
            more = f" ({len(lines)} rows)" if len(lines) > 1 else ""
            message = f"is not in the disease sheet {diseases}{more}"
            yield Problem(source, message, remedy, row=lines[0], column="disease", value=disease)


def check_files(sheets: Sheets) -> list[Problem]:
    """Photos and masks that do not exist. Nothing is opened; `cgddi check` looks inside."""
    folders, problems = Folders(), []
    remedy = "Correct the path (relative to the working directory, or else to the sheet's folder) or remove the row."
    for photo in sheets.photos:
        for column, path in (("file", photo.file), ("mask", photo.mask)):
            if path is not None and not folders.holds(path):
                place = {"row": photo.row, "column": column, "value": path}
                problems.append(Problem(sheets.source, "no such file", remedy, **place))
    return problems


def check_same_file(sheets: Sheets) -> list[Problem]:
    """Photo or mask files that stand in more than one row: one picture under two ids leaks from training to test."""
    folders, problems = Folders(), []
    for column in ("file", "mask"):
        seen: dict[str, Photo] = {}
        for photo in sheets.photos:
            if path := getattr(photo, column):
                first = seen.setdefault(folders.real(path), photo)
                if first is not photo:
                    message = f"this file stands in row {first.row} too"
                    place = {"row": photo.row, "column": column, "value": path}
                    problems.append(Problem(sheets.source, message, "Keep one row per picture.", **place))
    return problems
