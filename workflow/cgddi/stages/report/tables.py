"""Tables of the page: the audits, the masks, the counts of a split, what was left out, and what the jobs used."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cgddi.core.images import TONES
from cgddi.job.runtime import read_usage
from cgddi.stages.report.records import Records

OVERVIEW = [("balanced_accuracy", "all"), *(("accuracy", group) for group in ("all", *TONES))]
OVERVIEW += [(metric, "all") for metric in ("auc", "pqd", "dpm", "eom")]
"""Figures of a setting in the first table."""

DEFAULT_RATE = "default rate (no job had finished)"
SCORES = {
    "lesion_contrast": "former lesion against skin, delta E",
    "stain": "stain, delta E",
    "texture_2": "texture of 2 px, share of the skin's",
    "texture_8": "texture of 8 px, share of the skin's",
    "ita_change": "change of ITA, degrees",
    "artefacts": "share of foreign colours",
    "border_step": "step at the border, delta E",
}
"""Triage scores of healthy skin, and what the page calls them."""
COUNTED = ["cohort", "tone", "photos", "with a mask", "automatic mask not used"]
CAME = ["tone", "photos", "with a mask", "canvases kept", "lesion and canvas pairs", "lesions placed", "share placed"]
"""Columns on masks, in their order; quality flags follow the first."""


def short(number: float) -> str:
    """A number with three digits if it is small, with all if it is large."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def counts(index: pd.DataFrame) -> pd.DataFrame:
    """Images of a split by kind and role (rows), tone and malignancy (columns)."""
    label = index["malignant"].map({True: "malignant", False: "benign"}).astype(object).fillna("unlabelled")
    table = pd.crosstab([index["kind"], index["role"]], [index["tone"], label])
    table = table.reindex([tone for tone in TONES if tone in table.columns.get_level_values(0)], axis=1, level=0)
    table.columns = [" ".join(names) for names in table.columns]
    table["all"] = table.sum(axis=1)
    return table.reset_index()


def left_out(record: Mapping[str, Any]) -> pd.DataFrame:
    """What a split's index leaves out, and why: kind, reason, images."""
    rows = [(*reason.partition(": ")[::2], count) for reason, count in record.get("dropped", {}).items()]
    rows = [(kind, reason, count) if reason else ("any", kind, count) for kind, reason, count in rows]
    skipped = Counter(
        entry["reason"] if isinstance(entry, Mapping) else str(entry) for entry in record.get("photos_skipped", [])
    )
    rows += [("photo", reason, count) for reason, count in skipped.items()]
    rows += [
        ("sample", f"{row['concept']}, {row['tone']}: fewer passed their check than were wanted", row["short"])
        for row in record.get("samples", [])
        if row.get("short")
    ]
    return pd.DataFrame(rows, columns=["kind", "reason", "images"])


def not_pooled(records: Records) -> pd.DataFrame:
    """Photos that gave no healthy picture, and pictures that are no canvas, by cohort and reason; reasons that differ in a number
    only are one."""
    found: Counter[tuple[str, str, str]] = Counter()
    for what, lines in (
        ("photo without a healthy picture", records.painted),
        ("picture that is no canvas", records.canvases),
    ):
        for record in lines:
            for entry in record.get("skipped", []):
                reason = re.sub(r"\d+(\.\d+)?", "#", entry["reason"]).partition(" (")[0]
                found[what, record.get("spec", {}).get("cohort", ""), reason] += 1
    rows = [(*key, count) for key, count in sorted(found.items(), key=lambda item: (item[0][:2], -item[1]))]
    return pd.DataFrame(rows, columns=["what", "cohort", "reason", "images"])


def config_table(changed: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Keys of the config that differ from their defaults: key -> (value here, default)."""
    rows = [(key, *(json.dumps(value, ensure_ascii=False) for value in pair)) for key, pair in changed.items()]
    return pd.DataFrame(rows, columns=["key", "this run", "default"])


def settings_table(metrics: pd.DataFrame) -> pd.DataFrame | None:
    """One row a setting, one column a figure in per cent with its interval; None where the table holds no settings."""
    if not {"split", "regime", "method", "metric", "group", "value"} <= set(metrics.columns):
        return None
    rows = []
    for (split, regime, method), part in metrics.groupby(["split", "regime", "method"], sort=False):
        row = {"setting": f"{split}: {method}, {regime}", "runs": part["runs"].iloc[0]}
        known = {(each.metric, each.group): each for each in part.itertuples(index=False)}
        for metric, group in OVERVIEW:
            if (each := known.get((metric, group))) is not None:
                row[metric if group == "all" else f"accuracy, {group}"] = _percent(each)
        rows.append(row)
    return pd.DataFrame(rows)


def _percent(row: Any) -> str:
    value = pd.to_numeric(row.value, errors="coerce")
    low, high = pd.to_numeric(row.low, errors="coerce"), pd.to_numeric(row.high, errors="coerce")
    if pd.isna(value):
        return "undefined"
    return f"{100 * value:.1f}" + ("" if pd.isna(low) else f" ({100 * low:.1f}–{100 * high:.1f})")


# ---- audits


def audit_tables(audits: Sequence[str]) -> dict[str, dict[str, list[pd.DataFrame | str]]]:
    """What the audits of the splits found: split -> caption -> tables and lines of text."""
    found: dict[str, dict[str, list[pd.DataFrame | str]]] = {}
    for path in map(Path, sorted(audits)):
        caption, *shown = AUDITS[path.stem](json.loads(path.read_text(encoding="ascii")))
        found.setdefault(path.parent.name, {})[caption] = shown
    return found


def _leakage(found: Mapping[str, Any]) -> tuple[Any, ...]:
    checked = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in found["checked"].items())
    verdict = "clean" if found["clean"] else "LEAKS, and the gate was told to report only"
    return "Leakage gate", f"{verdict} ({checked})"


def _by_kind_and_tone(found: Mapping[str, Any], columns: Callable[[dict[str, Any]], dict[str, Any]]) -> pd.DataFrame:
    cells = [(kind, tone, tones[tone]) for kind, tones in found["by_kind"].items() for tone in TONES if tone in tones]
    return pd.DataFrame([{"kind": kind, "tone": tone} | columns(cell) for kind, tone, cell in cells])


def _tone(found: Mapping[str, Any]) -> tuple[Any, ...]:
    cuts = " and ".join(f"{cut:g}" for cut in found["cuts"])
    table = _by_kind_and_tone(
        found,
        lambda cell: (
            {"images": cell["images"], "agree": cell["agreement"], "relative to real photos": cell.get("relative")}
            | {f"measured {tone}": cell["measured"][tone] for tone in TONES}
        ),
    )
    cuts += f" degrees, from {found.get('cuts_from', 'settings')}"
    return f"Tone asked for against tone measured: {found['measure']}; cuts at {cuts}", table


def _quality(found: Mapping[str, Any]) -> tuple[Any, ...]:
    seen, perceptual = found["held_out"]["seen_by_generators"], found["perceptual"]
    keys = ["images", "real_images", "fid", "kid", "kid_std", *(["lpips"] if perceptual else []), "black", "flat"]
    measures = "; ".join(filter(None, (found["features"], perceptual)))
    caption = (
        f"Quality against held-out real photos of the same tone ({measures}); `real`: training photos, for comparison"
    )
    parts: list[Any] = [_by_kind_and_tone(found, lambda cell: {key: cell.get(key) for key in keys})]
    if seen:
        parts.append(f"Generators learnt from all {seen} photos that images are compared with (generator_scope: all).")
    if found.get("samples"):
        parts.append("Samples by what came of their check (docs/samples.md); those that failed are not learnt from.")
        why = [", ".join(f"{name} {count}" for name, count in row["reasons"].items()) for row in found["samples"]]
        parts.append(pd.DataFrame(found["samples"]).assign(reasons=why))
    return caption, *parts


def _memorisation(found: Mapping[str, Any]) -> tuple[Any, ...]:
    if "similarity" not in found:
        return ("Memorisation: there is no sample, or no real training photo, to compare.",)
    frame = pd.DataFrame({"samples": found["similarity"], "real photos among themselves": found["between_real"]})
    caption = (
        f"Memorisation: {found['copies']} of {found['images']} samples come nearer than {found['threshold']} to a training "
        f"photo, {found['closer_than_real']} nearer than any two training photos are to each other. Quantiles of the similarity "
        f"to the nearest one; features: {found['features']}"
    )
    return caption, frame.rename_axis("quantile").reset_index()


AUDITS = {"leakage": _leakage, "tone": _tone, "quality": _quality, "memorisation": _memorisation}


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The run's pictures beside the baseline (see `cgddi.stages.audit.pictures`)."""
    return pd.DataFrame(rows, columns=["method", "photos", *SCORES]).rename(columns=SCORES)


def mask_tables(found: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Caption -> table of what the run's masks are worth (see `cgddi.stages.audit.pictures.audit_masks`)."""
    columns = list(dict.fromkeys([*COUNTED, *(name for row in found["counts"] for name in row)]))
    noticed = pd.DataFrame(found["counts"], columns=columns)
    shown = {"Masks by cohort and skin tone, and what was noticed about them": noticed}
    for of in found["against_human"]:
        unused = ", ".join(f"{tone} {of['unused'][tone]}" for tone in TONES if tone in of["unused"])
        notes = {
            f"{of['learnt']} photo(s) the segmenter learnt from are left out": of["learnt"],
            f"{sum(of['unused'].values())} without a used automatic mask ({unused})": unused,
            f"{of['unreadable']} human mask(s) cannot be read": of["unreadable"],
        }
        caption = f"{of['cohort']}: automatic masks against human ones, {of['photos']} photos"
        shown["; ".join([caption, *(note for note, said in notes.items() if said)])] = _iou_table(of["rows"])
    idle = found["idle_donors"]
    caption = "What came of the masks in this run, by the canvas's skin tone"
    caption += f"; {idle} donor(s) gave no lesion or found no room" if idle else ""
    return shown | {caption: pd.DataFrame(found["what_came"], columns=CAME)}


def _iou_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows by class, columns by tone: IoU with its interval, and the images behind it."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        line = lines.setdefault(row["class"], {"IoU": "mean of classes" if row["class"] == "mean" else row["class"]})
        figure = "undefined"
        if row["iou"] is not None:
            interval = "no interval" if row["low"] is None else f"{row['low']:.2f}, {row['high']:.2f}"
            figure = f"{row['iou']:.2f} [{interval}]"
        line[f"{row['tone']} (n={row['images']})"] = figure
    order = ("lesion", "skin", "marker", "ruler", "background", "mean")
    return pd.DataFrame([lines[name] for name in order])


# ---- time


def usage(logs: Path) -> pd.DataFrame:
    """By stage, from the last run of each job: jobs, minutes, images and steps and their rates, the device, how full and busy."""
    frame = attempts(logs)
    rows = []
    for stage, jobs in frame.groupby("file", sort=False).tail(1).groupby("stage"):
        seconds = jobs["seconds"]
        row: dict[str, Any] = {"stage": stage, "device": ", ".join(sorted(set(jobs["device"]))), "jobs": len(jobs)}
        row |= {"minutes": round(seconds.sum() / 60, 1), "longest job, s": round(seconds.max(), 1)}
        for unit in ("images", "steps"):
            counted = jobs[jobs[unit].notna() & (jobs[unit] != 0)]
            if len(counted):
                total = counted[unit].sum()
                row |= {unit: total, f"{unit} / s": round(total / counted["seconds"].sum(), 2)}
        memory, busy = jobs["peak_device_bytes"].max(), jobs["utilisation"].mean()
        row["peak device memory, GB"] = None if pd.isna(memory) else round(memory / 1e9, 2)
        row["device at work, %"] = None if pd.isna(busy) else round(100 * busy)
        rows.append(row)
    units = [name for unit in ("images", "steps") for name in (unit, f"{unit} / s")]
    names = ["stage", "device", "jobs", "minutes", "longest job, s", *units]
    names += ["peak device memory, GB", "device at work, %"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(**table[names[2:]].apply(pd.to_numeric)).dropna(axis=1, how="all")


def attempts(logs: Path) -> pd.DataFrame:
    """What each attempt of a job used, see `cgddi.job.runtime.read_usage`."""
    columns = ["file", "stage", "device", "seconds", "images", "steps", "peak_device_bytes", "utilisation", "kind"]
    return pd.DataFrame(read_usage(logs), columns=columns)


def choose(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The prediction to judge: the first that rests on recorded rates throughout, else the first in part, else the first.

    One that was asked for when no job was left predicts nothing, and does not count.
    """
    lines = [line for line in lines if any(stage.get("left") != 0 for stage in line["stages"])]
    for enough in (all, any):
        for line in lines:
            if line["stages"] and enough(stage["measured"] for stage in line["stages"]):
                return line
    return lines[0] if lines else None


def plan_and_fact(logs: Path) -> tuple[str, pd.DataFrame] | None:
    """A sentence on the prediction, and predicted and spent hours by stage, all attempts counted; None where there is none.

    Args:
        logs: folder of the jobs' logs, with the predictions (`plan.jsonl`).
    """
    path = logs / "plan.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()] if path.is_file() else []
    if (chosen := choose(lines)) is None:
        return None
    frame = attempts(logs)
    frame = frame[(frame["stage"] != "audit") | (frame["kind"] == "quality")]  # the audit that takes a GPU
    rows = []
    for stage in chosen["stages"]:
        spent = frame[frame["stage"] == stage["stage"]]["seconds"]
        row = {"stage": stage["stage"], "jobs planned": stage["jobs"], "runs, repeated ones too": len(spent)}
        row |= {"hours predicted": stage["hours"], "hours spent": spent.sum() / 3600}
        rows.append(row | {"rate from": f"{stage['measured']} finished job(s)" if stage["measured"] else DEFAULT_RATE})
    table = pd.DataFrame(rows)
    whole = {"stage": "together", **table.drop(columns=["stage", "rate from"]).sum().to_dict(), "rate from": ""}
    table = pd.DataFrame([*rows, whole])
    table["spent / predicted"] = (table["hours spent"] / table["hours predicted"].where(lambda h: h > 0)).round(2)
    device = f"rates recorded on {chosen['device']}" if chosen["device"] else "no rate recorded yet"
    when = chosen["when"][:16].replace("T", " ")
    return f"Predicted on {when} UTC, {device}.", table


def discernment_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """How well readers tell made pictures from real ones (see `cgddi.stages.report.readers.discernment`)."""
    frame = pd.DataFrame(rows, columns=["kind", "tone", "made", "real", "readers", "auc", "low", "high"])
    frame["95 % interval"] = [
        "" if pd.isna(row.low) else f"{row.low:.2f} to {row.high:.2f}" for row in frame.itertuples(index=False)
    ]
    return frame.drop(columns=["low", "high"]).rename(columns={"auc": "AUC"})
