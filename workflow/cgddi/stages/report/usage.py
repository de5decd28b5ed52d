"""What the jobs used, and how that compares with what was predicted: the report's section on time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

MARK = "default rate (no job had finished)"


def _summaries(logs: Path) -> pd.DataFrame:
    """Every line of the metrics files that sums a job up: one row per attempt that ended by itself."""
    rows = []
    for path in sorted(logs.rglob("*.metrics.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                facts = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(facts, dict) and {"seconds", "device"} <= facts.keys():
                rows.append({"stage": path.relative_to(logs).parts[0], "file": str(path), **facts})
    frame = pd.DataFrame(rows)
    for column in ("images", "steps", "peak_device_bytes", "utilisation", "kind"):
        if rows and column not in frame:
            frame[column] = None
    return frame


def usage(logs: Path) -> pd.DataFrame:
    """By stage, from the last run of each job: jobs, minutes, images and steps and their rates, the device, how full and busy."""
    frame = _summaries(logs)
    if frame.empty:
        return pd.DataFrame()
    last = frame.groupby("file", sort=False).tail(1)
    rows = []
    for stage, jobs in last.groupby("stage"):
        seconds = jobs["seconds"].sum()
        row: dict[str, Any] = {
            "stage": stage,
            "device": ", ".join(sorted(set(jobs["device"]))),
            "jobs": len(jobs),
            "minutes": round(seconds / 60, 1),
            "longest job, s": round(jobs["seconds"].max(), 1),
        }
        for unit in ("images", "steps"):
            counted = jobs[jobs[unit].notna() & (jobs[unit] != 0)]
            total, time = counted[unit].sum(), counted["seconds"].sum()
            row[unit] = total if time else None
            row[f"{unit} / s"] = round(total / time, 2) if time else None
        memory, busy = jobs["peak_device_bytes"].max(), jobs["utilisation"].mean()
        row["peak device memory, GB"] = None if pd.isna(memory) else round(memory / 1e9, 2)
        row["device at work, %"] = None if pd.isna(busy) else round(100 * busy)
        rows.append(row)
    table = pd.DataFrame(rows)
    numbers = [name for name in table.columns if name not in ("stage", "device")]
    return table.assign(**table[numbers].apply(pd.to_numeric)).dropna(axis=1, how="all")


def short(number: float) -> str:
    """A number as the tables show it: three digits of a small one, all of a large one."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


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
    """Predicted and spent hours by stage, all attempts counted, and a sentence on the prediction; None where there is none.

    Args:
        logs: folder of the jobs' logs, with the predictions (`plan.jsonl`).
    """
    path, frame = logs / "plan.jsonl", _summaries(logs)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    chosen = choose(lines)
    if chosen is None:
        return None
    rows = []
    for stage in chosen["stages"]:
        of_stage = frame[frame["stage"] == stage["stage"]] if len(frame) else frame
        if stage["stage"] == "audit" and len(of_stage):
            of_stage = of_stage[of_stage["kind"] == "quality"]
        spent = of_stage["seconds"].sum() / 3600 if len(of_stage) else 0.0
        rows.append(
            {
                "stage": stage["stage"],
                "jobs planned": stage["jobs"],
                "runs, repeated ones too": len(of_stage),
                "hours predicted": stage["hours"],
                "hours spent": spent,
                "rate from": f"{stage['measured']} finished job(s)" if stage["measured"] else MARK,
            }
        )
    table = pd.DataFrame(rows)
    whole = {"stage": "together", "rate from": ""} | {
        name: table[name].sum() for name in table.columns if name not in ("stage", "rate from")
    }
    table = pd.concat([table, pd.DataFrame([whole])], ignore_index=True)
    table["spent / predicted"] = [
        round(spent / hours, 2) if hours else None
        for spent, hours in zip(table["hours spent"], table["hours predicted"], strict=True)
    ]
    device = f"rates recorded on {chosen['device']}" if chosen["device"] else "no rate recorded yet"
    return f"Predicted on {chosen['when'][:16].replace('T', ' ')} UTC, {device}.", table
