"""Tables beside a page: each as csv, and on the page to sort, with bars behind shares and what each figure means."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape

from cgddi.core.archive import write_atomic

MEANINGS = {
    "balanced_accuracy": (
        "higher",
        "mean of sensitivity and specificity: a classifier that always says benign has 50 %",
    ),
    "accuracy": ("higher", "share of test photos that are classified right; by tone: of the photos of that tone"),
    "auc": ("higher", "chance that a malignant photo gets a higher score than a benign one; 50 % is guessing"),
    "sensitivity": ("higher", "share of malignant photos that are found"),
    "specificity": ("higher", "share of benign photos that are left alone"),
    "f1": ("higher", "harmonic mean of precision and sensitivity"),
    "ece": ("lower", "expected calibration error: how far probabilities are from what comes true"),
    "pqd": ("higher", "lowest accuracy of a tone over the highest; 100 % is equal"),
    "dpm": (
        "higher",
        "demographic parity: of each class, lowest share of predictions of a tone over the highest; 100 % is equal",
    ),
    "eom": (
        "higher",
        "equality of opportunity: of each class, lowest share found of a tone over the highest; 100 % is equal",
    ),
    "equalized_odds_difference": (
        "lower",
        "largest difference between tones of a true or false positive rate; 0 is equal",
    ),
    "equal_opportunity_difference": ("lower", "largest difference between tones in sensitivity; 0 is equal"),
    "iou": ("higher", "intersection over union of predicted and human mask; 100 % is the same"),
    "fid": ("lower", "distance of two sets of pictures in a network's features; depends on their number"),
    "kid": ("lower", "the same, unbiased by the number of pictures; 0 is no difference"),
    "lpips": ("lower", "difference of two pictures as people see it, from a network"),
}
"""Metric -> (which direction is better, what it is)."""
SHORT = {name: name.upper() for name in ("auc", "ece", "pqd", "dpm", "eom", "fid", "kid", "lpips", "f1")} | {
    "iou": "IoU"
}
ARROWS = {"higher": "↑", "lower": "↓"}


def _known(name: str) -> tuple[str, str] | None:
    return MEANINGS.get(name.lower().partition(",")[0])


def heading(name: str) -> str:
    """A column's name in words; of a metric (`accuracy, dark`) with an arrow to where it is better."""
    known = _known(name)
    words = SHORT.get(name.lower(), name.replace("_", " "))
    return f"{words} {ARROWS[known[0]]}" if known else words


def meaning(name: str) -> str | None:
    """What a column's metric is, and which direction is better; None of other columns."""
    known = _known(name)
    return f"{known[1]}; {known[0]} is better" if known else None


MOST = 300
"""Rows of a table that the page shows; its csv holds all."""
INTERVAL = re.compile(r"(\d+\.\d) \((.*)\)")
NO_BAR = ("p", "p_holm", "low", "high", "kid", "kid_std", "difference", "std_runs", "published_std")


class TableFolder:
    """The folder `tables` beside a page, which holds every table of it as csv."""

    def __init__(self, page: str | Path):
        self.folder = Path(page).parent / "tables"
        self.named: set[str] = set()

    def html(
        self, frame: pd.DataFrame, name: str, number: str | Callable[[float], str] = "%.3f", words: bool = False
    ) -> Markup:
        """A data frame as a table to sort, with bars behind shares, and a link to its csv; a missing value is empty.

        Args:
            frame: its rows; of a long one the first `MOST` are shown.
            number: format of fractions.
            words: whether its cells are text.
        """
        stem, count = name, 2
        while f"{name}.csv" in self.named:
            name, count = f"{stem}-{count}", count + 1
        self.named.add(f"{name}.csv")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / f"{name}.csv", frame.to_csv(index=False))
        shown = frame.head(MOST)
        head = "".join(_head(str(column)) for column in shown.columns)
        columns = [_cells(shown[column], number, column not in NO_BAR) for column in shown.columns]
        rows = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in zip(*columns, strict=True))
        more = f", the first {MOST:,} of its {len(frame):,} rows" if len(frame) > MOST else ""
        kind = "data words" if words else "data"
        return Markup(
            f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
            f'<div class="csv"><a href="tables/{name}.csv">csv</a>{more}</div>'
        )

    def sweep(self) -> None:
        """Delete what an earlier page showed and this one does not."""
        for file in self.folder.glob("*.csv"):
            if file.name not in self.named:
                file.unlink()


def _head(column: str) -> str:
    """A heading; of a metric with the direction in which it is better, and what it is."""
    known = meaning(column)
    title = f' title="{escape(known)}"' if known else ""
    return f"<th{title}>{escape(heading(column))}</th>"


def _cells(values: pd.Series, number: str | Callable[[float], str], bars: bool) -> list[str]:
    """A column's cells; fractions that all lie in 0 to 1, and figures with an interval, have a bar."""
    if not pd.api.types.is_float_dtype(values):
        return [_text("" if pd.isna(value) is True else str(value)) for value in values]
    there = values.dropna()
    if (there % 1 == 0).all() and not callable(number):
        return [f"<td>{'' if pd.isna(value) else int(value)}</td>" for value in values]
    bars = bars and not callable(number) and bool(there.between(0, 1).all())
    write = number if callable(number) else number.__mod__
    return [
        "<td></td>" if pd.isna(value) else f"<td{_bar(100 * value) if bars else ''}>{write(value)}</td>"
        for value in values
    ]


def _text(text: str) -> str:
    if found := INTERVAL.fullmatch(text):
        return f"<td{_bar(float(found[1]))}>{found[1]} <small>{found[2]}</small></td>"
    return f"<td>{escape(text)}</td>"


def _bar(per_cent: float) -> str:
    return f' style="--v:{per_cent:.0f}"'
