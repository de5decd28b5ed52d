"""Published and local metadata tables as rows of the image sheet: DDI, Fitzpatrick17k and a folder of one's own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cgddi.core.errors import Problem, UserError
from cgddi.ingest.diseases import Concept
from cgddi.ingest.table import Table, check_columns, read_table
from cgddi.plan.sheets import COLUMNS, MALIGNANT_NAMES, MEASURED, TONE_NAMES, check_images

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
MASK_SUFFIXES = (".npy", ".png")


@dataclass
class Incoming:
    """Rows on their way into an image sheet.

    Args:
        table: rows in the sheet's columns, under the line numbers of the metadata file.
        names: sheet column -> column of the metadata file, for messages.
        notes: what was left out, with counts.
    """

    table: Table
    names: Mapping[str, str]
    notes: list[str] = field(default_factory=list)

    def problems(self, known: Mapping[str, Concept], diseases: str) -> list[Problem]:
        """Every problem of the rows, named by the metadata file's own rows and columns."""
        _, found = check_images(self.table, dict(known), diseases)
        return [replace(p, column=self.names.get(p.column, p.column) if p.column else None) for p in found]


def list_folder(folder: str | Path, what: str) -> set[str]:
    """Names of the files in a folder.

    Raises:
        UserError: there is no such folder.
    """
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise UserError(
            f"{folder}: the folder of {what} cannot be read ({error.strerror}). Correct its path."
        ) from error


def shown_path(path: str | Path) -> str:
    """A path as the sheet holds it: relative to the working directory when below it, absolute otherwise."""
    full, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(full, here) if full.startswith(os.path.join(here, "")) else full


def find_mask(photo: str, names: Collection[str]) -> str | None:
    """The mask of a photo among file names: `000001.npy` or `000001.png`, also `000001.png.npy`, for `000001.png`."""
    stem = Path(photo).stem
    candidates = [base + suffix for base in (stem, photo) for suffix in MASK_SUFFIXES]
    return next((name for name in candidates if name in names), None)


def tone_name(cell: str) -> str:
    """light, medium or dark; an unknown cell is returned as it is, so that the check reports it."""
    return TONE_NAMES.get(cell.casefold(), cell)


def malignant_name(cell: str) -> str:
    """True, False or empty for unknown; any other cell is returned as it is, so that the check reports it."""
    label = MALIGNANT_NAMES.get(cell.casefold(), cell)
    return "" if label is None else str(label)


class _Masks:
    """The files of a mask folder and those that no photo asked for."""

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = folder
        names = list_folder(folder, "masks") if folder else set()
        self.names = {name for name in names if name.endswith(MASK_SUFFIXES)}
        self.used: set[str] = set()

    def of(self, photo: str) -> str:
        name = find_mask(photo, self.names)
        if name is None or self.folder is None:
            return ""
        self.used.add(name)
        return shown_path(os.path.join(self.folder, name))

    def notes(self) -> list[str]:
        left = sorted(self.names - self.used)
        return [f"{len(left)} mask files belong to no photo of the table, e.g. {left[0]}"] if left else []


def read_ddi(metadata: str | Path, images: str | Path, masks: str | Path | None, cohort: str) -> Incoming:
    """Rows of `ddi_metadata.csv` (Daneshjou et al. 2022), in both published forms.

    The label stands in `malignant` (True or False) or in `malignancy(malig=1)` (0 or 1). The image id is the file's
    stem. Masks are the `.npy` files of sDDI (FEDD), named after the photo.

    Raises:
        UserError: a folder cannot be read.
    """
    source = read_table(metadata)
    label = "malignant" if "malignant" in source.columns else "malignancy(malig=1)"
    header = check_columns(source, ("DDI_file", "skin_tone", label, "disease"), strict=False)
    table = Table(source.source, list(COLUMNS), problems=source.problems + header)
    incoming = Incoming(table, {"image_id": "DDI_file", "file": "DDI_file", "malignant": label})
    if header or not source.columns:
        return incoming
    present, mask_files = list_folder(images, "photos"), _Masks(masks)
    for line, cells in source.rows:
        name = cells["DDI_file"]
        row = {
            "image_id": Path(name).stem,
            "file": shown_path(os.path.join(images, name)),
            "cohort": cohort,
            "disease": cells["disease"],
            "skin_tone": tone_name(cells["skin_tone"]),
            "malignant": malignant_name(cells[label]),
            "mask": mask_files.of(name),
            "group": "",
        }
        table.rows.append((line, row))
        if name and name not in present:
            _no_photo(table, line, "DDI_file", name, images)
    incoming.notes += mask_files.notes()
    return incoming


def _no_photo(table: Table, line: int, column: str, name: str, images: str | Path) -> None:
    remedy = "Download it again, or remove the row from a copy of the table."
    message = f"there is no such photo in {images}"
    table.problems.append(Problem(table.source, message, remedy, row=line, column=column, value=name))


F17K_COLUMNS = ("md5hash", "fitzpatrick_scale", "label", "three_partition_label")
F17K_MALIGNANT = {"malignant": "True", "benign": "False", "non-neoplastic": "False"}
"""three_partition_label -> malignant: a non-neoplastic condition is not malignant."""


def read_fitzpatrick17k(
    metadata: str | Path,
    images: str | Path,
    masks: str | Path | None,
    cohort: str,
    labels: Collection[str] = (),
    qc: Collection[str] = (),
) -> Incoming:
    """Rows of `fitzpatrick17k.csv` (Groh et al. 2021) whose photo is there and whose skin type is known.

    Rows of type -1 and rows without a photo (many links of the csv are dead) are left out and counted.

    Args:
        metadata: the csv.
        images: folder of `<md5hash>.jpg` or `.png`.
        masks: folder of `<md5hash>.npy` or `.png`, or None.
        cohort: name of the cohort.
        labels: keep these conditions only; empty: all.
        qc: keep rows with these values of column `qc` only (e.g. "1 Diagnostic"); empty: all.

    Raises:
        UserError: a folder cannot be read, or a label stands in no row.
    """
    source = read_table(metadata)
    header = check_columns(source, F17K_COLUMNS + (("qc",) if qc else ()), strict=False)
    table = Table(source.source, list(COLUMNS), problems=source.problems + header)
    names = {"image_id": "md5hash", "file": "md5hash", "disease": "label"}
    incoming = Incoming(table, names | {"skin_tone": "fitzpatrick_scale", "malignant": "three_partition_label"})
    if header or not source.columns:
        return incoming
    if absent := sorted(set(labels) - {cells["label"] for _, cells in source.rows}):
        raise UserError(f"{metadata}: no row has the label {', '.join(map(repr, absent))}. Correct --labels.")
    present, mask_files, dropped = list_folder(images, "photos"), _Masks(masks), Counter()
    for line, cells in source.rows:
        photo = next((n for s in PHOTO_SUFFIXES if (n := cells["md5hash"] + s) in present), None)
        if (labels and cells["label"] not in labels) or (qc and cells["qc"] not in qc):
            dropped["not chosen by --labels or --qc"] += 1
        elif cells["fitzpatrick_scale"] == "-1":
            dropped["of unknown skin type (-1)"] += 1
        elif photo is None:
            dropped[f"without a photo in {images}"] += 1
        else:
            row = {
                "image_id": cells["md5hash"],
                "file": shown_path(os.path.join(images, photo)),
                "cohort": cohort,
                "disease": cells["label"],
                "skin_tone": tone_name(cells["fitzpatrick_scale"]),
                "malignant": F17K_MALIGNANT.get(cells["three_partition_label"], cells["three_partition_label"] or "?"),
                "mask": mask_files.of(photo),
                "group": "",
            }
            table.rows.append((line, row))
    incoming.notes += [f"{count} rows {why} left out" for why, count in dropped.items()] + mask_files.notes()
    return incoming


def read_folder(
    metadata: str | Path, images: str | Path, masks: str | Path | None, cohort: str, columns: Mapping[str, str]
) -> Incoming:
    """Rows of a table of one's own.

    Args:
        metadata: a delimited table with at least a file, a disease and a skin tone per row.
        images: folder that the table's file names are relative to.
        masks: folder of masks named after the photos, or None; a `mask` column of the table is relative to it, or else
            to `images`.
        cohort: name of the cohort.
        columns: sheet column -> column of the table, where they differ. Without an id column the id is the file's stem;
            without a malignancy column the malignancy is unknown.

    Raises:
        UserError: a folder cannot be read, or a mapping names a column that neither side has.
    """
    source = read_table(metadata)
    for column, name in columns.items():
        if column not in (*COLUMNS, *MEASURED) or (source.columns and name not in source.columns):
            of_sheet, of_table = ", ".join((*COLUMNS, *MEASURED)), ", ".join(source.columns)
            raise UserError(f"--column {column}={name}: the sheet has {of_sheet}; the table has {of_table}.")
    names = {column: columns.get(column, column) for column in (*COLUMNS, *MEASURED)}
    header = check_columns(source, [names[column] for column in ("file", "disease", "skin_tone")], strict=False)
    table = Table(source.source, list(COLUMNS), problems=source.problems + header)
    incoming = Incoming(table, names)
    if header or not source.columns:
        return incoming
    list_folder(images, "photos")
    mask_files = _Masks(masks)
    for line, cells in source.rows:
        found = {column: cells.get(name, "") for column, name in names.items()}
        name = found["file"]
        mask = (
            shown_path(os.path.join(masks or images, found["mask"]))
            if found["mask"]
            else mask_files.of(Path(name).name)
        )
        row = {
            **found,
            "image_id": found["image_id"] if names["image_id"] in source.columns else Path(name).stem,
            "file": shown_path(os.path.join(images, name)) if name else "",
            "cohort": cohort,
            "skin_tone": tone_name(found["skin_tone"]),
            "malignant": malignant_name(found["malignant"]),
            "mask": mask,
        }
        table.rows.append((line, row))
        if name and not os.path.isfile(row["file"]):
            _no_photo(table, line, names["file"], name, images)
    incoming.notes += mask_files.notes() if masks and names["mask"] not in source.columns else []
    return incoming
