"""Lists of what is known of a set already, as public sets publish them: photos that show the same picture, and wrong labels."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from cgddi.core.errors import InvalidInput, Problem, refuse
from cgddi.ingest.names import tone_of
from cgddi.ingest.table import read_table

Row = dict[str, str]
LABELS = ("disease", "skin_tone", "malignant")


class Names:
    """Rows by any of their names: image id with or without its prefix, file name, file name without its ending; capitals do not
    matter."""

    def __init__(self, rows: Iterable[Row], prefix: str = "") -> None:
        self.rows: dict[str, Row] = {}
        for row in rows:
            file = os.path.basename(row["file"])
            for name in (row["image_id"], row["image_id"].removeprefix(prefix), file, os.path.splitext(file)[0]):
                self.rows.setdefault(name.casefold(), row)

    def get(self, name: str) -> Row | None:
        """The row of a photo, whose name may stand with folders before it."""
        base = os.path.basename(name.replace("\\", "/")).casefold()
        return self.rows.get(base) or self.rows.get(os.path.splitext(base)[0])


def known_duplicates(path: str, names: Names) -> tuple[list[list[Row]], str]:
    """Sets of rows that a list says show the same picture.

    Args:
        path: a csv; either with a column `group` (or `cluster`) and one that names a photo, a row a photo; or with two columns that
            name photos, a row a pair.

    Returns:
        The sets, and a line that counts them.

    Raises:
        InvalidInput: it cannot be read, or no column of it names photos.
    """
    table = read_table(path)
    refuse(table.problems)
    counts = {c: sum(names.get(row[c]) is not None for _, row in table.rows) for c in table.columns}
    naming = [column for column in table.columns if counts[column]]
    group = next((c for c in table.columns if c.casefold() in ("group", "cluster", "component_id", "cluster_id")), None)
    sets: list[list[Row]] = []
    if group and any(column != group for column in naming):
        column = max((c for c in naming if c != group), key=counts.__getitem__)
        by_group: dict[str, list[Row]] = defaultdict(list)
        for _, row in table.rows:
            if row[group] and (found := names.get(row[column])) is not None:
                by_group[row[group]].append(found)
        sets = list(by_group.values())
    elif len(naming) > 1:
        first, second = sorted(sorted(naming, key=lambda c: -counts[c])[:2], key=table.columns.index)
        pairs = [(names.get(row[first]), names.get(row[second])) for _, row in table.rows]
        sets = [[one, other] for one, other in pairs if one is not None and other is not None]
    else:
        remedy = "Give two columns that name photos (a row a pair), or one and a column `group`."
        raise InvalidInput([Problem(path, "names no photos of the table in such columns", remedy, row=1)])
    sets = [found for rows in sets if len(found := list({id(row): row for row in rows}.values())) > 1]
    return sets, f"{path}: {len(sets)} sets of photos that show one picture"


def label_errors(
    path: str, rows: Sequence[tuple[int, Row]], prefix: str = ""
) -> tuple[list[tuple[int, Row]], list[str]]:
    """Rows with labels corrected, and without those whose label is only known to be wrong.

    Args:
        path: a csv with image_id (an id or a file) and, where the right label is known, disease, skin_tone or malignant; a photo
            for which all are empty is left out.

    Raises:
        InvalidInput: it cannot be read, or lacks the column image_id.
    """
    table = read_table(path)
    name = next((c for c in table.columns if c.casefold() in ("image_id", "image", "file", "img_id", "md5hash")), None)
    if table.problems or name is None:
        missing = Problem(path, "no column image_id", f"It has {', '.join(table.columns)}: rename one.", row=1)
        raise InvalidInput(table.problems or [missing])
    names, gone, changed, strange = Names((row for _, row in rows), prefix), set(), 0, 0
    for _, cells in table.rows:
        row = names.get(cells[name])
        right: Mapping[str, str] = {label: cells[label] for label in LABELS if cells.get(label)}
        if row is None:
            strange += 1
        elif right:
            changed += any(row[label] != value for label, value in right.items())
            row.update({k: (tone_of(v) or v) if k == "skin_tone" else v for k, v in right.items()})
        else:
            gone.add(id(row))
    said = [f"{path}: {changed} labels corrected, {len(gone)} photos of wrong label left out"]
    said += [f"{path}: {strange} rows name no photo of the table"] if strange else []
    return [(line, row) for line, row in rows if id(row) not in gone], said
