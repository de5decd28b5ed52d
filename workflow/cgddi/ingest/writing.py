"""Write the image sheet and the disease sheet: append without touching earlier rows, name new cohorts, sum up."""

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cgddi.core.archive import csv_text
from cgddi.core.errors import Problem, refuse
from cgddi.ingest.diseases import DISEASE_COLUMNS, Concept, check_diseases
from cgddi.ingest.names import UNKNOWN, slugify
from cgddi.ingest.readers import malignant_name, tone_name
from cgddi.ingest.table import Table, check_columns, parse_table, read_table
from cgddi.plan.sheets import COLUMNS, MEASURED, OPTIONAL, REQUIRED, TONES, Sheets, check_images

Row = dict[str, str]


def read_existing(path: str | Path) -> list[Row]:
    """Rows of an image sheet that new rows are added to, missing optional columns filled in.

    Raises:
        InvalidInput: it is not a readable image sheet.
    """
    table = read_table(path)
    refuse(table.problems + check_columns(table, REQUIRED, (*OPTIONAL, *MEASURED)))
    return [{**dict.fromkeys(COLUMNS, ""), **cells} for _, cells in table.rows]


def free_cohort(wanted: str, taken: Iterable[str]) -> str:
    """The wanted cohort name, or the first of `<wanted>-2`, `-3`, ... that no earlier row has."""
    names = set(taken)
    candidates = itertools.chain([wanted], (f"{wanted}-{k}" for k in itertools.count(2)))
    return next(name for name in candidates if name not in names)


def split_known(existing: Sequence[Row], incoming: Table, folder: str) -> tuple[list[tuple[int, Row]], int]:
    """Incoming rows that are new.

    Args:
        folder: the sheet's folder, where the paths of its rows may start.

    Returns:
        The new rows with their lines, and how many stand in the sheet already with the same content.

    Raises:
        InvalidInput: an id stands in the sheet for another photo, or with other facts.
    """
    earlier = {row["image_id"].casefold(): row for row in existing}
    fresh, known, problems = [], 0, []
    for line, row in incoming.rows:
        old = earlier.get(row["image_id"].casefold())
        if old is None:
            fresh.append((line, row))
        elif differing := [
            column for column in ("file", "disease", "skin_tone", "malignant") if not _same(column, old, row, folder)
        ]:
            message = f"this id stands in the sheet already, with another {' and '.join(differing)}"
            remedy = "Ids are unique over all cohorts: give the new photos a --prefix, or remove the old row."
            problems.append(
                Problem(incoming.source, message, remedy, row=line, column="image_id", value=row["image_id"])
            )
        else:
            known += 1
    refuse(problems)
    return fresh, known


def _same(column: str, old: Row, new: Row, folder: str) -> bool:
    if column == "file":
        places = {os.path.realpath(old[column]), os.path.realpath(os.path.join(folder, old[column]))}
        return os.path.realpath(new[column]) in places
    plain = {"skin_tone": tone_name, "malignant": malignant_name}.get(column, str)
    return plain(old[column]) == plain(new[column])


def checked(source: str, rows: Sequence[Row], known: Mapping[str, Concept]) -> tuple[str, Sheets]:
    """The sheet's text and content, read back by the reader the workflow uses.

    Diseases outside the disease sheet are let through as concepts of their own: the sheet may hold earlier cohorts.

    Raises:
        InvalidInput: the sheet as a whole has problems, such as ids that differ in case only.
    """
    columns = [*COLUMNS, *(column for column in MEASURED if any(row.get(column) for row in rows))]
    text = csv_text(columns, [{column: row.get(column, "") for column in columns} for row in rows])
    others = {row["disease"] for row in rows} - set(known)
    concepts = dict(known) | {raw: Concept(slugify(raw), raw, f"<{slugify(raw)}>") for raw in others}
    sheets, problems = check_images(parse_table(source, text), concepts, "the disease sheet")
    refuse(problems)
    return text, sheets


def merged_diseases(path: str | Path, known: Mapping[str, Concept], names: Iterable[str]) -> str:
    """Text of a disease sheet for these raw names: the file's rows as they are, then `known`'s, then one a name.

    Raises:
        InvalidInput: the result would have problems (a slug of two concepts, a name without Latin letters).
    """
    rows: list[Row] = []
    if Path(path).exists():
        table = read_table(path)
        concepts, problems = check_diseases(table)
        refuse(problems)
        rows = [_disease_row(raw, concept) for raw, concept in concepts.items()]
    have = {row["raw"] for row in rows}
    for name in dict.fromkeys(names):
        if name not in have:
            slug = slugify(name)
            rows.append(_disease_row(name, known.get(name) or Concept(slug, name, f"<{slug}>")))
    text = csv_text(DISEASE_COLUMNS, rows)
    _, problems = check_diseases(parse_table(os.fspath(path), text))
    refuse(problems)
    return text


def _disease_row(raw: str, concept: Concept) -> Row:
    return {"raw": raw, "concept": concept.name, "slug": concept.slug, "token": concept.token}


def summary(sheets: Sheets) -> str:
    """Counts by cohort, tone and malignancy, concepts by size, masks and groups, as text."""
    photos = sheets.photos
    lines = [f"{len(photos)} photos, {sum(p.mask is not None for p in photos)} with a mask"]
    labels = {True: "malignant", False: "benign", None: "unknown"}
    for cohort in dict.fromkeys(p.cohort for p in photos):
        lines.append(f"cohort {cohort}: {sum(p.cohort == cohort for p in photos)} photos")
        lines.append(
            f"  {'tone':8}{'photos':>8}" + "".join(f"{label:>11}" for label in labels.values()) + f"{'mask':>8}"
        )
        for tone in (*TONES, UNKNOWN):
            own = [p for p in photos if p.cohort == cohort and p.skin_tone == tone]
            if tone == UNKNOWN and not own:
                continue
            counts = Counter(p.malignant for p in own)
            cells = "".join(f"{counts[label]:>11}" for label in labels)
            lines.append(f"  {tone:8}{len(own):>8}{cells}{sum(p.mask is not None for p in own):>8}")
    sizes = Counter(p.concept for p in photos)
    classes = Counter("1 photo" if n == 1 else "2-10" if n <= 10 else "more than 10" for n in sizes.values())
    lines.append(
        f"{len(sizes)} concepts: " + ", ".join(f"{classes[c]} of {c}" for c in ("1 photo", "2-10", "more than 10"))
    )
    lines.append("largest: " + ", ".join(f"{slug} {n}" for slug, n in sizes.most_common(5)))
    if mixed := sheets.mixed_concepts():
        lines.append(f"malignant and benign photos in one concept: {', '.join(mixed)}")
    groups: dict[str, int] = defaultdict(int)
    for photo in photos:
        if photo.group:
            groups[photo.group] += 1
    if groups:
        lines.append(f"{len(groups)} groups that a split keeps together, {sum(groups.values())} photos")
    return "\n".join(lines)
