"""The ladder: figures of classifiers against the number of synthetic images per real one, with real photos alone beside them."""

from collections.abc import Sequence

import pandas as pd

from cgddi.core.bootstrap import Setting
from cgddi.core.figures import COLOURS, md_row, plt, png
from cgddi.core.images import TONES

FIGURES = (
    ("accuracy", "all"),
    *(("accuracy", tone) for tone in TONES),
    *((name, "all") for name in ("auc", "pqd", "eom")),
)
"""(metric, group) of the curves, as in metrics.csv."""


def per_real(setting: Setting) -> tuple[float, int, int]:
    """Synthetic images per real training photo that a setting learnt from, as counted (there may be fewer than its regime asks
    for), the synthetic images and the real photos; means over runs where splits differ."""
    made, real = [], []
    for run in setting.runs:
        counts = run.record["counts"]["train"]
        made.append(sum(n for name, n in counts.items() if not name.startswith("real/")))
        real.append(sum(run.record["concept_images"]["train"].values()))
    synthetic, photos = sum(made) / len(made), sum(real) / len(real)
    return synthetic / photos, round(synthetic), round(photos)


def ladder_table(settings: Sequence[Setting], metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of the metrics table that a rung's curves are made of, with how many images each learnt from, rungs in order."""
    rungs = {(s.split, s.regime, s.method): per_real(s) for s in settings}
    keys = list(zip(metrics["metric"], metrics["group"], strict=True))
    table = metrics[[key in FIGURES for key in keys]]
    found = [rungs[key] for key in zip(table["split"], table["regime"], table["method"], strict=True)]
    for place, name in enumerate(("synthetic_per_real", "synthetic_images", "real_photos")):
        table = table.assign(**{name: [rung[place] for rung in found]})
    first = ["split", "method", "regime", "synthetic_per_real", "synthetic_images", "real_photos", "metric", "group"]
    shown = [*first, "value", "low", "high", "runs", "images", "caveats"]
    return table[shown].sort_values(
        ["split", "method", "metric", "group", "synthetic_per_real"], kind="stable", ignore_index=True
    )


PANELS = (
    ("accuracy", "Accuracy", ("all",)),
    ("accuracy", "Accuracy by skin tone", TONES),
    ("auc", "AUC", ("all",)),
    ("pqd", "PQD (tones' accuracies)", ("all",)),
    ("eom", "EOM (tones' recalls)", ("all",)),
)
"""(metric, title, groups drawn) of the panels, left to right."""


def plot(table: pd.DataFrame) -> bytes:
    """Each figure against the images per real photo (logarithmic), with its interval; real photos alone as a dashed line, with
    theirs as a band; PNG bytes.

    A row per split and method, whose panels share the axes of their column. Tones stand side by side, a colour each, so that no
    interval hides another; their real photos have a line alone.
    """
    groups = list(table.groupby(["split", "method"], sort=False))
    size = (3.4 * len(PANELS), 0.5 + 3 * len(groups))
    figure, axes = plt.subplots(
        len(groups), len(PANELS), figsize=size, sharey="col", squeeze=False, layout="constrained"
    )
    for row, ((split, method), part) in zip(axes, groups, strict=True):
        rungs = sorted({rung for rung in part["synthetic_per_real"] if rung > 0})
        for axis, (metric, title, shown) in zip(row, PANELS, strict=True):
            for place, group in enumerate(shown):
                line = part[(part["metric"] == metric) & (part["group"] == group) & (part["value"] != "undefined")]
                line = line.astype({"value": float, "low": float, "high": float})
                made, real = line[line["synthetic_images"] > 0], line[line["synthetic_images"] == 0]
                spread = [made["value"] - made["low"], made["high"] - made["value"]]
                beside = 1.12 ** (place - (len(shown) - 1) / 2)  # a factor: the axis is logarithmic
                style = {"c": COLOURS[group], "ms": 4, "lw": 1, "capsize": 2, "elinewidth": 0.8}
                axis.errorbar(
                    made["synthetic_per_real"] * beside, made["value"], spread, fmt="o-", label=group, **style
                )
                for photos in real.itertuples():
                    axis.axhline(photos.value, c=COLOURS[group], ls="--", lw=0.8)
                    if len(shown) == 1:
                        axis.axhspan(photos.low, photos.high, color=COLOURS[group], alpha=0.08, lw=0)
            axis.set(xscale="log", title=title if (split, method) == groups[0][0] else "")
            axis.set_xticks(rungs, [f"{rung:.3g}" for rung in rungs])
            axis.minorticks_off()
            axis.grid(lw=0.3)
            if len(shown) > 1:
                axis.legend(fontsize=7)
        row[0].set_ylabel(f"{split}: {method}")
    figure.supxlabel(
        "synthetic images per real photo (bars: intervals; dashed: real photos alone, shaded: their interval)",
        fontsize=9,
    )
    return png(figure)


def markdown(table: pd.DataFrame, confidence: float) -> str:
    """A table for reading: a row per rung, per cent with intervals."""
    header = ["Setting", "Synthetic per real", "Images", *(m if g == "all" else f"{m}, {g}" for m, g in FIGURES)]
    lines = [f"Per cent; in brackets the {100 * confidence:.0f}% interval. Every rung takes as many train steps.", ""]
    lines += [md_row(header), md_row(["---"] * len(header))]
    for (split, method, regime), part in table.groupby(["split", "method", "regime"], sort=False):
        cells = {(row.metric, row.group): row for row in part.itertuples(index=False)}
        rung = part.iloc[0]
        figures = [_per_cent(cells.get(key)) for key in FIGURES]
        about = [f"{split}: {method}, {regime}", f"{rung['synthetic_per_real']:.3g}", str(rung["synthetic_images"])]
        lines.append(md_row([*about, *figures]))
    return "\n".join([*lines, ""])


def _per_cent(row) -> str:
    if row is None or row.value == "undefined":
        return "" if row is None else "undefined"
    return f"{100 * float(row.value):.1f} ({100 * float(row.low):.1f}-{100 * float(row.high):.1f})"
