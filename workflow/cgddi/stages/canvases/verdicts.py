"""The csv of a review: a person's verdicts on healthy images. Light: planning reads it too."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from cgddi.core.errors import InvalidInput, Problem, refuse

COLUMNS = ("image_id", "cohort", "verdict", "note")
VERDICTS = ("keep", "discard")


def read_review(path: str | Path) -> list[dict[str, str]]:
    """Rows of the csv the review page exports: image_id, cohort, verdict ("keep", "discard", or "" beside a note alone) and note.

    Raises:
        InvalidInput: missing or unknown columns, a verdict that is neither keep nor discard, an image judged twice; all at once.
    """
    source = str(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, restkey="too many columns", restval="")
            columns = reader.fieldnames or []
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(
            [Problem(source, f"cannot be read ({error})", "Export it again from the review page.")]
        ) from error
    if sorted(columns) != sorted(COLUMNS):
        message = f"the columns are {', '.join(map(str, columns)) or 'none'}"
        raise InvalidInput([Problem(source, message, f"They must be {', '.join(COLUMNS)}.", row=1)])
    problems, seen = [], set()
    for number, row in enumerate(rows, start=2):
        image = (row["cohort"], row["image_id"])
        if "too many columns" in row:
            problems.append(
                Problem(source, "more columns than the header", "Quote a note that holds commas.", row=number)
            )
        elif not all(image):
            problems.append(
                Problem(source, "image_id and cohort must not be empty", "Fill them or drop the row.", row=number)
            )
        elif row["verdict"] not in (*VERDICTS, ""):
            remedy = "Write keep or discard, or nothing beside a note."
            problems.append(Problem(source, "no such verdict", remedy, number, "verdict", row["verdict"]))
        elif image in seen:
            problems.append(
                Problem(source, "image judged twice", "Keep one of its rows.", number, "image_id", image[1])
            )
        seen.add(image)
    refuse(problems)
    return rows


def verdicts_of(rows: Iterable[Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Verdicts of a review's rows by cohort, {cohort: {image_id: "keep" or "discard"}}; a note alone is none."""
    by_cohort: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["verdict"]:
            by_cohort.setdefault(row["cohort"], {})[row["image_id"]] = row["verdict"]
    return by_cohort
