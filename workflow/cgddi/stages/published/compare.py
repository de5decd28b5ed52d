"""Every published figure with the run's own of the same method, regime and data, and how their settings differ."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cgddi.core.archive import Archive
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.core.published import BACKBONES, SEEDS, TABLES, Figure, figures, same_splits

COLUMNS = ["table", "train", "test", "method", "regime", "metric", "group", "published", "published_std"]
COLUMNS += ["value", "std", "low", "high", "difference", "setting", "runs", "images", "differs"]
"""Columns of published.csv. `value` is ours, empty where there is none, `std` its deviation over splits; `differs` says how its
setting is another one."""
MEASURED = ("fid", "kid", "lpips")
Ours = dict[str, Any]
"""value, std, low, high, setting, runs, images and differs of one figure of ours."""


def compare(
    spec: Mapping[str, Any],
    table: str | None,
    summary: str | None,
    quality: str | None = None,
    images: Sequence[str] = (),
    fedd: str | None = None,
) -> pd.DataFrame:
    """The figures of one published table, or of all, with ours.

    Args:
        spec: the job's spec: `datasets` (cohort -> published data set), `concept_cohorts` (slug -> cohorts of its photos).
        table: a key of `TABLES`, "fedd", or None for all.
        summary: fairness/summary.json. quality: findings of an audit. images: manifests. fedd: summary of the study's tables.

    Returns:
        One row per published figure, see `COLUMNS`.
    """
    runs = Runs(summary) if summary else None
    measured = _quality(quality) if quality else {}
    counted = _counts(images, spec.get("datasets", {}), spec.get("concept_cohorts", {})) if images else {}
    rows = []
    for figure in figures():
        if table not in (None, figure.table):
            continue
        if figure.method:
            ours = runs.of(figure) if runs else None
        else:
            ours = (counted if figure.metric in ("images", "without room") else measured).get(figure.key)
        rows.append(_row(figure, ours or {}))
    if fedd and table in (None, "fedd"):
        rows += _fedd(Path(fedd).parent)
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(figure: Figure, ours: Ours) -> dict[str, Any]:
    about = {name: getattr(figure, name) for name in COLUMNS[:7]}
    row = {**about, "published": figure.value, "published_std": figure.std, **ours}
    if row.get("value") is not None:
        row["difference"] = round(row["value"] - figure.value, 6)
    return row


def _number(cell: Any) -> float | None:
    """A cell of a table as a number; None where it is empty or `undefined`."""
    value = pd.to_numeric(cell, errors="coerce")
    return None if pd.isna(value) else float(value)


class Runs:
    """The run's classifiers, from the tables of the fairness stage.

    Args:
        summary: fairness/summary.json, with metrics.csv and by_rarity.csv beside it.

    Raises:
        UserError: a table is missing or is no table.
    """

    def __init__(self, summary: str):
        folder = Path(summary).parent
        try:
            self.about = json.loads(Path(summary).read_text(encoding="utf-8"))["about"]
            metrics, rarity = (pd.read_csv(folder / f"{name}.csv") for name in ("metrics", "by_rarity"))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{summary}: cannot be read with its tables ({error}). Run the stage fairness again."
            ) from error
        rarity = rarity[rarity["group"] == "all"].assign(group=rarity["rarity"], std_runs=None)
        shown = ["split", "regime", "method", "metric", "group", "value", "std_runs", "low", "high", "runs", "images"]
        self.rows: dict[tuple[str, str, str], Ours] = {}
        for row in pd.concat([metrics, rarity])[shown].to_dict("records"):
            name = f"{row['split']}/{row['regime']}/{row['method']}"
            figures = {key: _number(row[key]) for key in ("value", "low", "high")} | {"std": _number(row["std_runs"])}
            facts = {"setting": name, "runs": int(row["runs"]), "images": int(row["images"])}
            self.rows[name, row["metric"], row["group"]] = figures | facts

    def of(self, figure: Figure) -> Ours | None:
        """Ours of the same data, method and regime; of several settings the one that differs least, then the one of most splits.
        Where one of the five splits was published, but not which, their mean goes before any of them."""
        found = []
        for name, about in self.about.items():
            same = all(about[key] == getattr(figure, key) for key in ("train", "test", "method", "regime"))
            ours = self.rows.get((name, figure.metric, figure.group))
            if same and about["task"] == "malignancy" and ours:
                order = not _mean_of_five(about, figure), len(differences(about, figure)), -len(about["splits"]), name
                found.append((order, differences(about, figure), ours))
        if not found:
            return None
        _, differs, ours = min(found, key=lambda item: item[0])
        return {**ours, "differs": "; ".join(differs)}


def differences(about: Mapping[str, Any], figure: Figure) -> list[str]:
    """How a setting of ours differs from that of a published figure of the same data, method and regime."""
    found = []
    if about["backbone"] != BACKBONES[figure.method]:
        found.append(f"another network ({about['backbone']})")
    if _mean_of_five(about, figure):
        found.append("the mean of the five splits, one of which was published")
    elif not same_splits(about["splits"], figure):
        kinds = sorted({split.get("method", "unknown") for split in about["splits"].values()})
        many = len(about["splits"])
        wanted = {"five": "the five published ones", "one of five": "one of the published five"}
        published = wanted.get(TABLES[figure.table].splits, "one random split")
        found.append(f"other splits ({many} {', '.join(kinds)}, where published: {published})")
    if about["selection"] != "test":
        found.append("epoch not chosen on the test photos")
    if about["clean"]:
        found.append("generators have not seen the test photos")
    if about.get("equal_steps"):
        found.append("every regime takes the same number of train steps")
    if len(about["seeds"]) > 1:
        found.append(f"{len(about['seeds'])} trainings per split")
    return found


def _mean_of_five(about: Mapping[str, Any], figure: Figure) -> bool:
    """Whether a setting is the mean over the five splits of which one was published."""
    splits = about["splits"].values()
    drawn = all(split.get("method") == "published" for split in splits)
    seeds = sorted(int(split.get("seed", -1)) for split in splits)
    return TABLES[figure.table].splits == "one of five" and drawn and seeds == sorted(SEEDS)


def _quality(path: str) -> dict[tuple[str, ...], Ours]:
    """FID, KID and LPIPS of the run's images by kind and tone; kinds are `all` or one."""
    audit = json.loads(Path(path).read_text(encoding="utf-8"))
    differs = []
    if "inception" not in json.dumps(audit.get("features", "")).lower():
        differs.append(f"other features ({audit.get('features')})")
    if not audit["held_out"]["seen_by_generators"]:
        differs.append("generators have not seen the photos compared with")
    found: dict[tuple[str, ...], Ours] = {}
    by_kind = audit["by_kind"]
    every = {(metric, cell.get(metric)) for tones in by_kind.values() for cell in tones.values() for metric in MEASURED}
    for metric in (metric for metric in MEASURED if any(name == metric and value is not None for name, value in every)):
        for kind, tones in by_kind.items():
            values = {tone: tones.get(tone, {}).get(metric) for tone in TONES}  # None: too few images of the tone
            ratio = None
            if all(value is not None and value > 0 for value in values.values()):
                ratio = round(max(values.values()) / min(values.values()), 6)
            for group, value in {**values, "max/min": ratio}.items():
                facts = {"setting": kind, "images": tones.get(group, {}).get("images"), "differs": "; ".join(differs)}
                found["ddi", "ddi", "", kind, metric, group] = {"value": value, **facts}
    return found


def _counts(
    manifests: Iterable[str], datasets: Mapping[str, str], concept_cohorts: Mapping[str, Sequence[str]]
) -> dict[tuple[str, ...], Ours]:
    """Images by data set of the donor (or the concept's photos), data set of the canvas, kind and tone; and pairs without room."""
    counts: Counter[tuple[str, ...]] = Counter()
    skipped: Counter[tuple[str, str]] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for archive in map(Archive, manifests):
        for row in archive.rows:
            canvas = datasets.get(row["cohort"])
            home = row.get("donor_cohort") or row["cohort"]
            if row["kind"] == "semantic":
                home = next((c for c in concept_cohorts.get(row["concept"], ()) if c in datasets), row["cohort"])
            sides = (datasets.get(home) or "", canvas or "")
            for group in ("all", row["tone"]):
                counts[(*sides, "", row["kind"], "images", group)] += 1
        spec = archive.record["spec"]
        if spec["stage"] == "lesion_mapped":
            sides = tuple(datasets.get(spec[name]) or "" for name in ("cohort", "canvas_cohort"))
            without = sum(
                "/" in entry["id"] for entry in archive.record["skipped"]
            )  # others are donors without a lesion
            skipped[sides] += without
            pairs[sides] += len(archive.rows) + without
    found: dict[tuple[str, ...], Ours] = {key: {"value": float(count)} for key, count in counts.items()}
    for sides, count in (+pairs).items():
        found[(*sides, "", "lesion_mapped", "without room", "all")] = {"value": round(skipped[sides] / count, 6)}
    return found


def _fedd(folder: Path) -> list[dict[str, Any]]:
    """Figures of the FEDD study that were published too."""

    def published(name: str) -> list[dict[str, Any]]:
        path = folder / f"{name}.csv"
        frame = pd.read_csv(path) if path.is_file() else pd.DataFrame()
        return frame[frame["published"].notna()].to_dict("records") if "published" in frame else []

    rows = []
    for name, metric, value in (("iou", "IoU, {class}", "iou"), ("classification", "{metric}", "value")):
        rows += [
            _fedd_row(
                name,
                row,
                metric.format(**row),
                {"value": row[value], **{end: _number(row[end]) for end in ("low", "high")}},
            )
            for row in published(name)
        ]
    return rows + [
        _fedd_row(
            "further", row, f"{row['metric']}, over the next best, further photos", {"value": row["over_next_best"]}
        )
        for row in published("further")
    ]


def _fedd_row(setting: str, row: Mapping[str, Any], metric: str, ours: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table of the study as one of ours: `metric` as it is named here, `ours` the columns that hold our figure."""
    numbers = {name: _number(cell) for name, cell in ours.items()}
    about = {"table": "fedd", "train": "ddi", "test": "ddi", "method": row["model"], "regime": f"{row['subset']} %"}
    about |= {"metric": metric, "group": row["tone"], "published": row["published"], **numbers, "setting": setting}
    if numbers["value"] is not None:
        about["difference"] = round(numbers["value"] - row["published"], 6)
    same = str(row["published_same"]) == "True"
    return about | {"runs": row["runs"], "images": row["images"], "differs": "" if same else "other data or subsets"}
