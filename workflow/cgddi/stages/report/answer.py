"""What the run found, in three sentences: paired differences between regimes with their intervals, and a plot of them by tone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cgddi.core.images import TONES

LEARNT = {
    "real": "real photos",
    "healthy": "healed canvases",
    "healthy_mapped": "healed canvases and transplants",
    "synthetic": "synthetic images",
    "synthetic_real": "synthetic images and then real photos",
}
"""What classifiers of a regime learnt from, in words; other regimes go by their names."""
PLOTTED = {
    ("balanced_accuracy", "all"): "balanced accuracy, all",
    ("accuracy", "all"): "accuracy, all",
    **{("accuracy", tone): f"accuracy, {tone}" for tone in TONES},
    ("auc", "all"): "AUC, all",
    ("eom", "all"): "EOM",
}


@dataclass(frozen=True)
class Comparison:
    """A regime set against another on the same test photos.

    Args:
        title: what is compared.
        rows: lines of the plot: name, difference, low and high in points, and their places on the axis in per cent of its width.
        reach: half of the axis, in points.
    """

    title: str
    rows: list[dict[str, Any]]
    reach: float
    runs: int
    caveats: str


def learnt(regime: str) -> str:
    """What classifiers of a regime learnt from, in words."""
    return LEARNT.get(regime, f"the images of regime {regime}")


def points(value: float, sign: bool = True) -> str:
    """A difference in percentage points, with a real minus sign."""
    return f"{100 * value:{'+' if sign else ''}.1f}".replace("-", "−")


def groups(paired: Sequence[Mapping[str, Any]]) -> list[dict[tuple[str, str], Mapping[str, Any]]]:
    """The rows of each comparison by (metric, group), comparisons in the order of the table."""
    found: dict[tuple[str, ...], dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in paired:
        name = tuple(row[key] for key in ("split", "method", "first", "second"))
        found.setdefault(name, {})[row["metric"], row["group"]] = row
    return list(found.values())


def comparison(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> Comparison:
    """What the plot of one comparison shows."""
    shown = [(name, rows[key]) for key, name in PLOTTED.items() if "difference" in rows.get(key, {})]
    ends = [
        abs(row[end])
        for _, row in shown
        for end in (("difference",) if row["metric"] == "eom" else ("difference", "low", "high"))
        if end in row
    ]
    reach = next(size for size in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0) if size >= max(ends, default=0))
    lines = []
    for name, row in shown:
        low, high = row.get("low", row["difference"]), row.get("high", row["difference"])
        place = {
            end: min(max(50 + 50 * value / reach, 0), 100)
            for end, value in (("at", row["difference"]), ("low", low), ("high", high))
        }
        told = f"{points(row['difference'])} ({points(low)} to {points(high)})"
        place = {key: round(value, 1) for key, value in place.items()}
        lines.append({"name": name, "told": told, "sure": low > 0 or high < 0, **place})
    row = next(iter(rows.values()))
    title = f"{row['first']} minus {row['second']} ({row['method']}, split {row['split']})"
    return Comparison(title, lines, 100 * reach, int(row["runs"]), row.get("caveats", ""))


def sentences(
    rows: Mapping[tuple[str, str], Mapping[str, Any]],
    values: Mapping[tuple[str, str, str, str, str], float],
    photos: Mapping[tuple[str, str], int],
) -> list[str]:
    """The answer of one comparison: balanced accuracy, dark skin, EOM. It names a direction only where the interval leaves zero.

    Args:
        rows: by (metric, group), as the fairness stage's `paired` has them.
        values: (split, method, regime, metric, group) -> the figure, median-unbiased where the difference is.
        photos: (split, group) -> test photos.
    """
    any_row = next(iter(rows.values()))
    split, method, first, second = (any_row[key] for key in ("split", "method", "first", "second"))
    alone = (
        ", for these two trained classifiers (one run of each: training again may turn it round)"
        if any_row["runs"] == 1
        else ""
    )
    pair = f"learning from {learnt(first)} instead of {learnt(second)}"
    found = []
    for metric, group, name, where in (
        (
            "balanced_accuracy",
            "all",
            "balanced accuracy",
            f"on {photos.get((split, 'all'), any_row['images'])} test photos",
        ),
        ("accuracy", "dark", "accuracy on dark skin", f"on {photos.get((split, 'dark'), 'the')} photos"),
        ("eom", "all", "EOM", "less the gaps that chance adds; 100 % is the same opportunity for all tones"),
    ):
        row = rows.get((metric, group), {})
        if "difference" not in row:
            found.append(f"{name[0].upper()}{name[1:]}: the test photos do not tell.")
            continue
        both = [values.get((split, method, regime, metric, group)) for regime in (second, first)]
        told = "" if None in both else f", from {100 * both[0]:.1f} to {100 * both[1]:.1f} %"
        change = f"{points(row['low'])} to {points(row['high'])}" if "low" in row else "no interval"
        end = f" points ({change}){told}, {where}{'' if found else alone}."
        what = "it" if found else pair
        if "low" in row and (row["low"] > 0 or row["high"] < 0):
            verb = "raised" if row["difference"] > 0 else "lowered"
            text = f"{what} {verb} {name} by {points(abs(row['difference']), sign=False)}{end}"
        else:
            verb = "changed" if found else "raises or lowers"
            text = f"It cannot be told whether {what} {verb} {name}: {points(row['difference'])}{end}"
        found.append(text[0].upper() + text[1:])
    return found
