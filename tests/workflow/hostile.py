"""Names that a shell, a path or a template would act on, given to some photos and a disease of the small toy world."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

FILES = (
    "$(touch pwned).png",
    "a;touch pwned;b.png",
    "`touch pwned`.png",
    "quo'te\"s & |pipe> pwned.png",
    "%s %(a)s $HOME.png",
    "-rf *?[a-z]~!#.png",
    "..%2f..%2fx\\..\\y.png",
    "mel\u0430noma \u00e9\U0001f9ff.png",
    "x" * 240 + ".png",
)
"""File names, one for each of the first masked photos. The Cyrillic a is a look-alike; the last is as long as a disk allows."""

DISEASE = "../x;a && $(touch pwned) `touch pwned` 'q\" {wildcards} n\u00e6vus"
"""Raw name of a disease, and the readable name of its concept; its slug stands in the disease sheet."""


def make_hostile(folder: Path, sheet: str, diseases: str, raw: str) -> None:
    """Rename photos on the disk and in the image sheet, and one disease in both sheets.

    Args:
        folder: the working directory.
        sheet: the image sheet.
        diseases: the disease sheet.
        raw: the disease that gets the hostile name.
    """
    with open(folder / sheet, newline="") as handle:
        rows = list(csv.DictReader(handle))
    masked = [row for row in rows if row["mask"]]
    deep = folder / "data" / "toy" / ("d" * 100)
    deep.mkdir()
    for row, name in zip(masked, FILES, strict=False):
        place = deep / name
        shutil.move(folder / row["file"], place)
        row["file"] = str(place.relative_to(folder))
    for row in rows:
        row["disease"] = DISEASE if row["disease"] == raw else row["disease"]
    with open(folder / diseases, newline="") as handle:
        concepts = list(csv.DictReader(handle))
    for concept in concepts:
        if concept["raw"] == raw:
            concept["raw"] = concept["concept"] = DISEASE
    for path, table in ((sheet, rows), (diseases, concepts)):
        with open(folder / path, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, table[0])
            writer.writeheader()
            writer.writerows(table)
