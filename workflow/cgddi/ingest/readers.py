"""Published and local metadata tables as rows of the image sheet: DDI, Fitzpatrick17k and a folder of one's own."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from cgddi.core.errors import Problem, UserError
from cgddi.ingest.diseases import Concept
from cgddi.ingest.mask_files import MaskFolder
from cgddi.ingest.names import malignant_of, tone_of
from cgddi.ingest.table import Table, check_columns, read_table
from cgddi.ingest.table_map import TableMap, filled, joined, kept
from cgddi.plan.sheets import COLUMNS, MEASURED, check_images

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".heic", ".heif")
"""Of photos, the better ones first; HEIC is found so that it can be refused by name."""


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


class PhotoFolder:
    """The photos below a folder, by name with or without ending; capitals do not matter.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        list_folder(folder, "photos")
        self.folder = folder
        self.names: dict[str, list[str]] = defaultdict(list)
        for place, folders, names in os.walk(folder, followlinks=True):
            folders.sort()
            for name in sorted(names):
                stem, suffix = os.path.splitext(name.casefold())
                if suffix in PHOTO_SUFFIXES:
                    path = os.path.join(place, name)
                    for key in (name.casefold(), stem):
                        self.names[key].append(path)

    def all(self, name: str) -> list[str]:
        """Photos of a name, as tables write it: with or without folders before it and an ending; `*` stands for anything."""
        key = os.path.basename(name.replace("\\", "/")).casefold()
        if "*" in key:
            return [
                path
                for stem in sorted(self.names)
                if fnmatchcase(stem, key) and "." not in stem
                for path in self.names[stem]
            ]
        found = self.names.get(key) or self.names.get(os.path.splitext(key)[0], [])
        return sorted(found, key=lambda path: PHOTO_SUFFIXES.index(os.path.splitext(path)[1].casefold()))[:1]

    def first(self, names: Iterable[str]) -> list[str]:
        """Photos of the first of these names that is there."""
        return next((found for name in names if name and (found := self.all(name))), [])


def tone_name(cell: str) -> str:
    """light, medium, dark or unknown; a cell that is none is returned as it is, so that the check reports it."""
    return tone_of(cell) or cell


def malignant_name(cell: str) -> str:
    """True, False or empty for unknown; any other cell is returned as it is, so that the check reports it."""
    label = malignant_of(cell)
    return "" if label is None else str(label)


def read_ddi(metadata: str | Path, images: str | Path, masks: str | Path | None, cohort: str) -> Incoming:
    """Rows of `ddi_metadata.csv` (Daneshjou et al. 2022), in both published forms.

    The label stands in `malignant` (True or False) or in `malignancy(malig=1)` (0 or 1). The image id is the file's
    stem. Masks are the `.npy` files of sDDI (FEDD), named after the photo.

    Raises:
        UserError: a folder cannot be read.
    """
    source = read_table(metadata)
    label = "malignant" if "malignant" in source.columns else "malignancy(malig=1)"
    header = _published(source, "ddi_metadata.csv", ("DDI_file", "skin_tone", label, "disease"))
    table = Table(source.source, list(COLUMNS), problems=source.problems + header)
    incoming = Incoming(table, {"image_id": "DDI_file", "file": "DDI_file", "malignant": label})
    if header or not source.columns:
        return incoming
    present, mask_files = list_folder(images, "photos"), MaskFolder(masks)
    for line, cells in source.rows:
        name = cells["DDI_file"]
        place = os.path.join(images, name)
        told = {**cells, "image_id": Path(name).stem, "malignant": cells[label]}
        table.rows.append((line, _row(told, place, cohort, mask_of(mask_files, place, source.source, line))))
        if name and name not in present:
            _no_photo(table, line, "DDI_file", name, images)
    _finish_masks(incoming, mask_files)
    return incoming


def _row(told: Mapping[str, str], photo: str, cohort: str, mask: str) -> dict[str, str]:
    """A row of the image sheet, from what is told of a photo in the sheet's columns, and where photo and mask lie."""
    return {
        "image_id": told["image_id"],
        "file": shown_path(photo) if photo else "",
        "cohort": cohort,
        "disease": told["disease"],
        "skin_tone": tone_name(told.get("skin_tone", "")),
        "malignant": malignant_name(told.get("malignant", "")),
        "mask": mask,
        "group": told.get("group", ""),
    }


def mask_of(masks: MaskFolder, photo: str, source: str, line: int) -> str:
    """A photo's mask as the sheet holds it, or ""."""
    found = masks.of(photo, source, line)
    return shown_path(found) if found else ""


def _finish_masks(incoming: Incoming, masks: MaskFolder) -> None:
    """Note what was left over of the masks; refuse a folder of which none belongs to a photo.

    Raises:
        UserError: see `MaskFolder.check`.
    """
    incoming.table.problems += masks.problems
    if not incoming.table.problems:
        masks.check([row["file"] for _, row in incoming.table.rows])
    incoming.notes += masks.notes()


def _published(source: Table, name: str, columns: Iterable[str]) -> list[Problem]:
    """Columns that a published csv lacks: it is another file, or somebody renamed them."""
    remedy = f"Is it {name} as published? `cgddi ingest folder` reads tables of your own."
    return [replace(problem, remedy=remedy) for problem in check_columns(source, list(columns), strict=False)]


def _place_of(name: str, *folders: str | Path) -> str:
    """Where a file is that a table names: below the first of these folders that has it, by its path or by its bare name."""
    name = name.replace("\\", "/")
    places = [os.path.join(folder, each) for each in (name, os.path.basename(name)) for folder in folders]
    return next((place for place in places if os.path.isfile(place)), places[0])


DOWNLOAD = "Download it again, or remove the row from a copy of the table."


def _no_photo(table: Table, line: int, column: str, name: str, images: str | Path, remedy: str = DOWNLOAD) -> None:
    message = f"there is no such photo in {images}"
    table.problems.append(Problem(table.source, message, remedy, row=line, column=column, value=name))


F17K_COLUMNS = ("md5hash", "label", "three_partition_label")
F17K_TONES = ("fitzpatrick_scale", "fitzpatrick")
"""Column of the skin type: of the csv since 2022, and of those of 2021 and of Fitzpatrick17k-C."""
F17K_NAMES = ("new_img_name", "orig_img_name", "md5hash", "url_alphanum")
"""Columns that name the photo: Fitzpatrick17k-C's renamed files, the first release's, and those that the csv's links give."""
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
    """Rows of `fitzpatrick17k.csv` (Groh et al. 2021) whose photo is there, in each published form: column `fitzpatrick_scale`,
    `fitzpatrick` of 2021, and Fitzpatrick17k-C (Abhishek et al.).

    Rows without a photo (many links of the csv are dead) are left out and counted. A skin type of -1 is not known: such a photo may
    be a donor or a canvas.

    Args:
        images: folder of the photos, also in folders below; named by `md5hash` in capitals or not, by `url_alphanum`, or as
            Fitzpatrick17k-C renamed them.
        masks: folder of masks named after the photos or their `md5hash`, or None.
        labels: keep these conditions only; empty: all.
        qc: keep rows with these values of column `qc` only (e.g. "1 Diagnostic"); empty: all.

    Raises:
        UserError: a folder cannot be read, or a label stands in no row.
    """
    source = read_table(metadata)
    tone = next((column for column in F17K_TONES if column in source.columns), F17K_TONES[0])
    header = _published(source, "fitzpatrick17k.csv", (*F17K_COLUMNS, tone, *(("qc",) if qc else ())))
    table = Table(source.source, list(COLUMNS), problems=source.problems + header)
    names = {"image_id": "md5hash", "file": "md5hash", "disease": "label"}
    incoming = Incoming(table, names | {"skin_tone": tone, "malignant": "three_partition_label"})
    if header or not source.columns:
        return incoming
    if absent := sorted(set(labels) - {cells["label"] for _, cells in source.rows}):
        raise UserError(f"{metadata}: no row has the label {', '.join(map(repr, absent))}. Correct --labels.")
    present, mask_files, dropped = PhotoFolder(images), MaskFolder(masks), Counter()
    for line, cells in source.rows:
        if (labels and cells["label"] not in labels) or (qc and cells["qc"] not in qc):
            dropped["not chosen by --labels or --qc"] += 1
        elif not (photo := present.first(cells.get(column, "") for column in F17K_NAMES)):
            dropped[f"without a photo in {images}"] += 1
        else:
            names = (photo[0], cells["md5hash"])
            mask = next(filter(None, (mask_of(mask_files, name, source.source, line) for name in names)), "")
            told = {"image_id": cells["md5hash"].lower(), "disease": cells["label"], "skin_tone": cells[tone]}
            told["malignant"] = F17K_MALIGNANT.get(
                cells["three_partition_label"], cells["three_partition_label"] or "?"
            )
            table.rows.append((line, _row(told, photo[0], cohort, mask)))
    incoming.notes += [f"{count} rows {why} left out" for why, count in dropped.items()]
    _finish_masks(incoming, mask_files)
    return incoming


def read_mapped(
    metadata: str | Path, images: str | Path, masks: str | Path | None, cohort: str, chosen: TableMap, also: list[str]
) -> Incoming:
    """Rows of a public table by a column map (see `table_map`): a row a photo that is there.

    Raises:
        UserError: a folder cannot be read, or a second table is missing.
        InvalidInput: a table has problems.
    """
    source, lacking = joined(os.fspath(metadata), also, chosen)
    table, dropped = Table(source.source, list(COLUMNS)), Counter()
    incoming = Incoming(table, {})
    present, mask_files, taken = PhotoFolder(images), MaskFolder(masks), Counter()
    rows = list(kept(source, chosen))
    dropped["not kept by the map"] = len(source.rows) - len(rows)
    for line, cells in rows:
        told = chosen.cells(cells)
        named = [
            [filled(one, cells) for one in ((photo,) if isinstance(photo, str) else photo)] for photo in chosen.photos
        ]
        photos = [path for names in named if any(names) for path in present.first(names)]
        absent = sum(bool(any(names)) for names in named) if not photos else 0
        if not told.get("disease"):
            dropped["without a disease"] += 1
            continue
        dropped[f"without a photo in {images}"] += absent > 0
        for path in dict.fromkeys(photos):
            stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).stem)[:64]
            taken[stem] += 1
            named_mask = told.get("mask") and shown_path(os.path.join(masks or images, told["mask"]))
            mask = named_mask or mask_of(mask_files, path, source.source, line)
            table.rows.append((line, _row({**told, "image_id": told.get("image_id") or stem}, path, cohort, mask)))
    incoming.notes += [chosen.about, f"licence: {chosen.licence}"]
    incoming.notes += [f"{count} rows {why} left out" for why, count in dropped.items() if count]
    incoming.notes += [f"{lacking} rows are not in {', '.join(also)}"] if lacking else []
    _finish_masks(incoming, mask_files)
    return incoming


def read_folder(
    metadata: str | Path, images: str | Path, masks: str | Path | None, cohort: str, columns: Mapping[str, str]
) -> Incoming:
    """Rows of a table of one's own.

    Args:
        metadata: a delimited table with at least a file, a disease and a skin tone per row.
        images: folder of the photos. Paths of the table start there or where the table lies.
        masks: folder of masks named after the photos, or None; paths of a `mask` column start there, else as those of photos.
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
    have = ", ".join(source.columns[:20])
    header = [
        replace(problem, remedy=f"Say which of {have} it is: --column {column}=NAME.")
        for column in ("file", "disease", "skin_tone")
        for problem in check_columns(source, [names[column]], strict=False)
    ]
    table = Table(source.source, list(COLUMNS), problems=source.problems + header)
    incoming = Incoming(table, names)
    if header or not source.columns:
        return incoming
    list_folder(images, "photos")
    mask_files, beside = MaskFolder(masks if names["mask"] not in source.columns else None), os.path.dirname(metadata)
    for line, cells in source.rows:
        found = {column: cells.get(name, "") for column, name in names.items()}
        name = found["file"]
        place = shown_path(_place_of(name, images, beside)) if name else ""
        mask = (
            shown_path(_place_of(found["mask"], masks or images, beside))
            if found["mask"]
            else mask_of(mask_files, place, source.source, line)
        )
        if names["image_id"] not in source.columns:
            found["image_id"] = Path(place).stem
        table.rows.append((line, found | _row(found, place, cohort, mask)))
        if name and not os.path.isfile(place):
            _no_photo(
                table, line, names["file"], name, images, "Correct the name, or name the photos' folder in --images."
            )
    _finish_masks(incoming, mask_files)
    return incoming
