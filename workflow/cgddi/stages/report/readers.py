"""Real or made? A page on which a person judges pictures one by one, and what such answers come to."""

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.archive import read_member, sha256, write_atomic
from cgddi.core.errors import Problem, refuse
from cgddi.core.images import TONES
from cgddi.core.pictures import PictureFolder
from cgddi.stages.report.pictures import chosen

MADE = {"healthy": "healed canvas", "lesion_mapped": "transplant", "semantic": "sample"}
PER_CELL = 4
"""Made pictures of each kind and tone; of real photos as many as of all kinds of a tone together."""
SIDE = 512
"""Every picture is brought to this size in px, so that the size of its file tells nothing; faults of a few px stay visible."""
COLUMNS = ("reader", "picture", "id", "kind", "tone", "answer", "seconds")
ANSWERS = {"1": "surely real", "2": "probably real", "3": "probably made", "4": "surely made"}
CONFIDENCE = 0.95


def write_quiz(index: pd.DataFrame, folder: PictureFolder, output: str | Path) -> int:
    """Write the page for one split's training images; its pictures lie in the report's folder.

    Returns:
        The number of pictures; 0, and a page that says so, where nothing was made or nothing is real.
    """
    rows = index[index["role"] == "train"]
    pictures = []
    for tone in TONES:
        of_tone = rows[rows["tone"] == tone]
        made = [row for kind in MADE for row in chosen(of_tone[of_tone["kind"] == kind].to_dict("records"), PER_CELL)]
        real = chosen(of_tone[of_tone["kind"] == "real"].to_dict("records"), len(made))
        pictures += [*made, *real] if made and real else []
    pictures.sort(key=lambda row: sha256(f"order {row['id']}"))
    shown = []
    for row in pictures:
        file = folder.add(read_member(row["archive"], row["start"], row["size"]), side=SIDE, square=True)
        known = {name: str(row[name]) for name in ("id", "kind", "tone")}
        shown.append({"source": file.source, "picture": Path(file.source).stem, **known})
    page = resources.files("cgddi.stages.report").joinpath("templates/real-or-made.html.in").read_text(encoding="utf-8")
    data = json.dumps({"pictures": shown, "columns": COLUMNS, "answers": ANSWERS}, sort_keys=True)
    write_atomic(output, page.replace("__DATA__", data.replace("<", "\\u003c")))
    return len(shown)


def read_answers(paths: Sequence[str | Path]) -> list[dict[str, str]]:
    """Rows of csv files that the page exported.

    Raises:
        InvalidInput: a file cannot be read, lacks a column, or holds an answer that is none; all of them at once.
    """
    rows, problems = [], []
    remedy = "Export it again from the page, or take it out of report.answers."
    for path in map(str, paths):
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem(path, f"cannot be read ({error})", remedy))
            continue
        table = csv.DictReader(text.splitlines())
        if absent := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
            problems.append(Problem(path, f"lacks column {absent[0]}", remedy, row=1))
            continue
        for line, row in enumerate(table, start=2):
            if row["answer"] not in ANSWERS or row["kind"] not in ("real", *MADE) or row["tone"] not in TONES:
                cells = ", ".join(str(row[name]) for name in ("kind", "tone", "answer"))
                problems.append(Problem(path, "is no answer of the page", remedy, line, value=cells))
            else:
                rows.append({**row, "reader": row["reader"] or path})
    refuse(problems)
    return rows


def discernment(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """How well the readers tell made pictures from real ones: AUC by kind and tone, one half being no better than guessing.

    Args:
        rows: from `read_answers`; of a reader's several answers to one picture the last counts.

    Returns:
        Rows with kind, tone, made, real (pictures), readers, auc and its interval low and high; None where one side is missing.
    """
    from cgddi.core.intervals import (
        auc_interval,
        placements,
    )  # scipy's distributions, which no other part of the page needs

    last = {(row["reader"], row["picture"]): row for row in rows}
    readers = sorted({reader for reader, _ in last})
    facts: dict[str, tuple[str, str]] = {row["picture"]: (row["kind"], row["tone"]) for row in rows}
    given: dict[str, dict[str, int]] = defaultdict(dict)
    for (reader, picture), row in last.items():
        given[picture][reader] = int(row["answer"])
    found = []
    for kind in ("all", *MADE):
        for tone in ("all", *TONES):
            mine = [
                picture
                for picture, (what, where) in sorted(facts.items())
                if tone in ("all", where) and (what == "real" or kind in ("all", what))
            ]
            made = np.array([facts[picture][0] != "real" for picture in mine], bool)
            score = np.array([[given[picture].get(reader, np.nan) for picture in mine] for reader in readers])
            both = [row for row in score if _both(row, made)]
            line = {"kind": MADE.get(kind, kind), "tone": tone, "made": int(made.sum()), "real": int((~made).sum())}
            if not made.any():
                continue
            line |= {"readers": len(both), "auc": None, "low": None, "high": None}
            if both:
                score = np.array(both, float)
                auc = np.nanmean(placements(score, made)[0], axis=1).mean()
                values = zip(("auc", "low", "high"), (auc, *auc_interval(score, made, CONFIDENCE)), strict=True)
                line |= {name: round(float(value), 3) for name, value in values}
            found.append(line)
    return found


def _both(score: np.ndarray, made: np.ndarray) -> bool:
    """Whether a reader judged pictures of both sorts."""
    asked = ~np.isnan(score)
    return bool((asked & made).any() and (asked & ~made).any())
