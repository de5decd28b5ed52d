"""What a reader sees: the side-by-side table in Markdown and LaTeX (ours with intervals, the published figures beneath, counts and
caveats), and the plots."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from cgddi.core.bootstrap import Setting
from cgddi.core.figures import COLOURS, GRID, md_row, plt, png, tex_text
from cgddi.core.images import TONES
from cgddi.stages.fairness.tables import RARITIES, SUMMARY_METRICS, in_group

ACCURACY_COLUMNS = (("accuracy", "all", "Mean"), *(("accuracy", tone, tone.capitalize()) for tone in TONES))
FAIRNESS_COLUMNS = (("auc", "all", "AUC"), ("pqd", "all", "PQD"), ("dpm", "all", "DPM"), ("eom", "all", "EOM"))
COLUMNS = (*ACCURACY_COLUMNS, *FAIRNESS_COLUMNS)
RARITY_COLUMNS = tuple(("accuracy", rarity, rarity.capitalize()) for rarity in RARITIES)
SETTING = ["split", "regime", "method"]
SIGNS = {
    "epoch chosen on the test images": "†",
    "leakage gate waived: training images touch held-out images": "‡",
    "lineage waived: given images or adapters may have seen test images": "¶",
    "learning curve: generators or starting weights saw real images outside the subset": "§",
}
"""The sign in front of each caveat, and behind the name of the setting it belongs to."""
ABOUT = (
    "An interval of one run is about that fitted classifier on the population that the test photos come from; of several runs, "
    "about the mean over all runs that could have been trained, photos and runs both drawn."
)
COMPARED = (("pqd", "PQD"), ("dpm", "DPM"), ("eom", "EOM"))
"""Figures that compare tones in the table, beneath which stands what chance alone gives."""


def split_caveats(cells: Iterable[str]) -> list[str]:
    """Every different caveat of some cells of column `caveats`."""
    return list(dict.fromkeys(caveat for text in cells for caveat in text.split("; ") if caveat))


def signs(caveats: str) -> str:
    """The signs of a cell of column `caveats`."""
    return "".join(SIGNS[caveat] for caveat in split_caveats([caveats]))


def per_cent(row, to: str = "-") -> str:
    """A row's value with its interval; "" without a row."""
    if row is None or row.value == "undefined":
        return "" if row is None else "undefined"
    interval = "" if pd.isna(row.low) else f" ({100 * row.low:.1f}{to}{100 * row.high:.1f})"
    return f"{100 * row.value:.1f}{interval}"


def rows_of(
    metrics: pd.DataFrame, columns: Sequence[tuple[str, str, str]] = COLUMNS
) -> tuple[list[list[str]], list[str]]:
    """Cells of a table (per cent) and its footnotes.

    Args:
        metrics: see `cgddi.stages.fairness.tables.metrics_table`.
        columns: (metric, group, heading) of each column.
    """
    lines, notes = [], []
    for (split, regime, method), part in metrics.groupby(SETTING, sort=False):
        caveats = part["caveats"].iloc[0]
        notes += [f"{SIGNS[caveat]} {caveat}" for caveat in split_caveats([caveats])]
        found = {(row.metric, row.group): row for row in part.itertuples(index=False)}
        cells = [found.get(column[:2]) for column in columns]
        name, runs = f"{split}: {method}, {regime}", part["runs"].iloc[0]
        lines.append([name + signs(caveats), f"{runs}", *map(per_cent, cells)])
        published = ["" if row is None else _published(row) for row in cells]
        if any(published):
            lines.append([f"published: {method}, {regime}", "", *published])
        else:
            notes.append(f"{name}: no published figure for this setting")
        chance = ["" if row is None else _chance(row) for row in cells]
        if any(chance):
            lines.append(["by chance, were tones equal", "", *chance])
    return lines, list(dict.fromkeys(notes))


def _chance(row) -> str:
    if row.metric not in dict(COMPARED) or pd.isna(row.chance):
        return ""
    return f"{100 * row.chance:.1f} ({100 * row.chance_low:.1f}-{100 * row.chance_high:.1f})"


def _published(row) -> str:
    if pd.isna(row.published):
        return ""
    return f"{100 * row.published:.1f}" + ("" if pd.isna(row.published_std) else f" ± {100 * row.published_std:.1f}")


def rarity_rows(by_rarity: pd.DataFrame) -> list[list[str]]:
    """Cells of the table of accuracy by rarity of the disease (per cent), published figures beneath ours."""
    overall = by_rarity[by_rarity["group"] == "all"]
    return rows_of(overall.assign(group=overall["rarity"]), RARITY_COLUMNS)[0]


def count_lines(metrics: pd.DataFrame) -> list[str]:
    """One line per split: test images and classes by tone."""
    lines = []
    for split, part in metrics[metrics["metric"] == "accuracy"].groupby("split", sort=False):
        cells = []
        for row in part.drop_duplicates("group").to_dict("records"):
            numbers = {key: row[key] for key in row if key.startswith("images_") and not pd.isna(row[key])}
            classes = ", ".join(f"{int(n)} {key.removeprefix('images_')}" for key, n in numbers.items())
            cells.append(f"{row['group']} {int(row['images'])}" + (f" ({classes})" if classes else ""))
        lines.append(f"{split}: test images {'; '.join(cells)}")
    return lines


def chance_lines(metrics: pd.DataFrame, confidence: float) -> list[str]:
    """What test sets of these counts would show if tones were equal, and whether ours lies outside of that; by setting."""
    lines = []
    for (split, regime, method), part in metrics[metrics["chance"].notna()].groupby(SETTING, sort=False):
        rows = {row.metric: row for row in part.itertuples(index=False)}
        cells = []
        for metric, name in COMPARED:
            if (row := rows.get(metric)) is None:
                continue
            within = "no more than chance" if row.value >= row.chance_low else "further than chance reaches"
            cells.append(f"{name} {100 * row.value:.1f} where equal tones give {_chance(row)}: {within}")
        if cells:
            lines.append(f"{split}, {method}, {regime} ({100 * confidence:.0f}% range): {'; '.join(cells)}")
    return lines


def flip_lines(metrics: pd.DataFrame) -> list[str]:
    """How far one flipped prediction moves EOM, by setting."""
    lines = []
    for (split, regime, method), part in metrics.groupby(SETTING, sort=False):
        value = part[part["group"] == "all"].set_index("metric")["value"]
        names = ("eom", "eom_lowest_under_one_flip", "eom_highest_under_one_flip")
        now, low, high = (value[name] for name in names)
        if low != "undefined":
            line = f"{split}, {method}, {regime}: EOM {100 * now:.1f} becomes {100 * low:.1f} to {100 * high:.1f}"
            lines.append(line)
    return lines


def _about(confidence: float) -> str:
    return f"{100 * confidence:.0f}% interval over test photos and, where there are several, runs"


def markdown(metrics: pd.DataFrame, by_rarity: pd.DataFrame, confidence: float) -> str:
    """The tables as Markdown, with notes, counts and the effect of one flipped image."""
    lines, notes = rows_of(metrics)
    text = [f"Per cent; in brackets the {_about(confidence)}. {ABOUT}", ""]
    for title, columns, rows in (
        ("Setting", COLUMNS, lines),
        ("Accuracy by rarity of the disease", RARITY_COLUMNS, rarity_rows(by_rarity)),
    ):
        header = [title, "Runs", *(name for *_, name in columns)]
        text += [md_row(header), md_row(["---"] * len(header)), *map(md_row, rows), ""]
    footers = {"Notes": notes, "Counts": count_lines(metrics)}
    footers |= {"Chance": chance_lines(metrics, confidence), "EOM after one flipped prediction": flip_lines(metrics)}
    for heading, items in footers.items():
        if items:
            text += [f"**{heading}**", "", *(f"- {item}" for item in items), ""]
    return "\n".join(text)


def latex(metrics: pd.DataFrame, by_rarity: pd.DataFrame, confidence: float) -> str:
    """Two LaTeX tables (booktabs): the figures, notes and counts beneath them; and accuracy by rarity of the disease."""
    lines, notes = rows_of(metrics)
    about = f"Per cent, with the {_about(confidence)}. {ABOUT}"
    caption = " ".join([about, *(f"{line}." for line in [*notes, *count_lines(metrics)])])
    rarity = f"{about} Accuracy by rarity of the disease."
    return _tabular(COLUMNS, lines, caption) + _tabular(RARITY_COLUMNS, rarity_rows(by_rarity), rarity)


def _tabular(columns, lines, caption: str) -> str:
    text = [r"\begin{table}", r"\centering", r"\begin{tabular}{l" + "r" * (len(columns) + 1) + "}", r"\toprule"]
    text.append(" & ".join(["Setting", "Runs", *(name for *_, name in columns)]) + r" \\")
    text += [r"\midrule", *(" & ".join(tex_text(cell) for cell in line) + r" \\" for line in lines), r"\bottomrule"]
    return "\n".join([*text, r"\end{tabular}", rf"\caption{{{tex_text(caption)}}}", r"\end{table}", ""])


def _panels(settings: Sequence[Setting]):
    """A figure with one panel per setting."""
    columns = min(4, max(1, len(settings)))
    rows = -(-max(1, len(settings)) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.3 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(settings) :]:
        axis.axis("off")
    return figure, list(axes.flat)


def _finish(axis, setting: Setting, x: str, y: str, place: str) -> None:
    axis.plot([0, 1], [0, 1], ":", c="grey", lw=0.8)
    title = setting.name.replace("/", " / ") + signs("; ".join(setting.caveats))
    axis.set_title(title, fontsize=8)
    axis.set(xlabel=x, ylabel=y)
    axis.legend(fontsize=6, loc=place)


def roc_by_tone(settings: Sequence[Setting]) -> bytes:
    """ROC curves by tone, averaged over runs at equal false positive rate; one panel per setting with two classes."""
    settings = [setting for setting in settings if len(setting.runs[0].classes) == 2]
    figure, axes = _panels(settings)
    if not settings:
        axes[0].text(0.5, 0.5, "no setting with two classes", ha="center")
    for setting, axis in zip(settings, axes, strict=False):
        for group in ("all", *TONES):
            curves = []
            for run in setting.runs:
                here = in_group(run, group)
                if 0 < run.labels[here].sum() < here.sum():
                    fpr, tpr, _ = roc_curve(run.labels[here], run.probability[here, 1])
                    curves.append(np.interp(GRID, fpr, tpr))
            label = f"{group} (n={here.sum()})" if curves else f"{group}: undefined"
            mean = np.mean(curves, axis=0) if curves else np.full_like(GRID, np.nan)
            axis.plot(GRID, mean, c=COLOURS[group], label=label)
        _finish(axis, setting, "false positive rate", "true positive rate", "lower right")
    return png(figure)


def metrics_with_intervals(metrics: pd.DataFrame) -> bytes:
    """Each metric of each setting with its interval and, as a cross, the published value; accuracy also by tone."""
    wanted = [("accuracy", tone) for tone in TONES] + [
        (metric, "all") for metric in ("accuracy", *SUMMARY_METRICS) if metric != "balanced_accuracy"
    ]
    names = list(dict.fromkeys(zip(*(metrics[name] for name in SETTING), strict=True)))
    caveats = metrics.groupby(SETTING, sort=False)["caveats"].first()
    labels = [" / ".join(name) + signs(caveats[name]) for name in names]
    size = (16, 2.2 + 0.5 * len(names))
    figure, axes = plt.subplots(2, 5, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (metric, group) in zip(axes.flat, wanted, strict=True):
        part = metrics[(metrics["metric"] == metric) & (metrics["group"] == group)]
        for row in part.itertuples(index=False):
            place = names.index((row.split, row.regime, row.method))
            if row.value == "undefined":
                axis.text(0.5, place, "undefined", ha="center", va="center", fontsize=7)
                continue
            if not pd.isna(row.chance):
                axis.plot(
                    [row.chance_low, row.chance_high], [place + 0.2] * 2, c="#bbbbbb", lw=3, solid_capstyle="butt"
                )
            axis.plot([row.low, row.high], [place, place], c="black", lw=1)
            axis.plot(row.value, place, "o", c="black", ms=4)
            if not pd.isna(row.published):
                axis.plot(row.published, place, "x", c="#d55e00", ms=6)
        axis.set_title(metric if group == "all" else f"{metric}, {group}")
        axis.set(xlim=(0, 1.02), ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), labels, fontsize=7)
        axis.grid(axis="x", lw=0.3)
    crosses = "" if metrics["published"].isna().all() else "; orange cross: published"
    figure.supxlabel(f"dot: ours, with its interval; grey: by chance, were tones equal{crosses}", fontsize=8)
    return png(figure)


def calibration(settings: Sequence[Setting], bins: int = 10) -> bytes:
    """Reliability: share of positives (or of right predictions) against probability, by tone, all runs of a setting pooled."""
    figure, axes = _panels(settings)
    for setting, axis in zip(settings, axes, strict=False):
        binary = len(setting.runs[0].classes) == 2
        own = [run.probability[np.arange(len(run.labels)), run.predicted] for run in setting.runs]
        chance = np.concatenate([run.probability[:, 1] for run in setting.runs] if binary else own)
        hit = np.concatenate([run.labels if binary else run.labels == run.predicted for run in setting.runs])
        for group in ("all", *TONES):
            here = np.concatenate([in_group(run, group) for run in setting.runs])
            place = np.minimum((chance[here] * bins).astype(int), bins - 1)
            size = np.bincount(place, minlength=bins)
            good = size > 0
            x, y = (np.bincount(place, v[here].astype(float), bins)[good] / size[good] for v in (chance, hit))
            axis.plot(x, y, "o-", c=COLOURS[group], ms=3, lw=1, label=group)
        share = "share of positives" if binary else "share right"
        _finish(axis, setting, "probability", share, "upper left")
    return png(figure)
