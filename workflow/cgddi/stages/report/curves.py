"""Curves of trainings, as small drawings in the page: the loss of tokens and adapters, loss and held-out score of classifiers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, MOST = 100, 40, 60
"""Of a drawing, in its own units; most points of a line."""


@dataclass(frozen=True)
class Curve:
    """One drawing: its name, polylines (points of an SVG), marks (places of chosen epochs), and what it shows in words."""

    name: str
    lines: list[str]
    marks: list[str]
    words: str


def trainings(logs: Path, stage: str) -> list[Curve]:
    """The loss of each training of a stage, from `logs/<stage>/<scope>/<concept>.training.jsonl`; of a step done twice the last."""
    found = []
    for path in sorted((logs / stage).rglob("*.training.jsonl")):
        losses = {}
        for line in path.read_text(errors="replace").splitlines():
            try:
                step = json.loads(line)
            except json.JSONDecodeError:  # of a killed process
                continue
            if isinstance(step, dict) and step.get("loss") is not None and "step" in step:
                losses[step["step"]] = step["loss"]
        if len(losses) > 1:
            steps = sorted(losses)
            line = [(step, losses[step]) for step in steps]
            words = f"loss {line[0][1]:.3g} at step {steps[0]}, {line[-1][1]:.3g} at step {steps[-1]}"
            found.append(Curve(path.name.removesuffix(".training.jsonl"), *draw([line]), words))
    return found


def classifiers(records: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Two drawings of each split, regime and method, a line for each seed: training loss, and the held-out score that chooses."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record.get("history"):
            groups.setdefault(f"{record['split']}: {record['method']}, {record['regime']}", []).append(record)
    found = []
    for name, runs in groups.items():
        metric = runs[0].get("spec", {}).get("settings", {}).get("selection_metric", "balanced_accuracy")
        for key, what in (("train_loss", "training loss"), (metric, f"held-out {metric.replace('_', ' ')}")):
            lines, marks = [], []
            for run in runs:
                line = [(row["epoch"], value) for row in run["history"] if (value := _value(row, key)) is not None]
                lines += [line] if len(line) > 1 else []
                marks += [point for point in line if key == metric and point[0] == run.get("chosen_epoch")]
            if lines:
                ends = [value for line in lines for _, value in line]
                epochs = int(max(epoch for line in lines for epoch, _ in line))
                words = f"{what}, {len(lines)} seed(s), {min(ends):.3g} to {max(ends):.3g}, {epochs} epochs"
                found.append(Curve(name, *draw(lines, marks), words + ("; dots: chosen epochs" if marks else "")))
    return found


def _value(row: Mapping[str, Any], key: str) -> float | None:
    return row.get(key, (row.get("held_out") or {}).get(key))


def draw(
    lines: Sequence[Sequence[tuple[float, float]]], marks: Sequence[tuple[float, float]] = ()
) -> tuple[list[str], list[str]]:
    """Polylines and marks of an SVG of WIDTH x HEIGHT, on the axes that all lines share."""
    points = [point for line in lines for point in line]
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = WIDTH * (point[0] - left) / ((right - left) or 1)
        return round(x, 1), round(HEIGHT - 2 - (HEIGHT - 4) * (point[1] - low) / ((high - low) or 1), 1)

    drawn = []
    for line in lines:
        kept = line[:: -(-len(line) // MOST)]
        drawn.append(" ".join(f"{x:g},{y:g}" for x, y in map(place, kept)))
    return drawn, [f"M{x:g} {y:g}h0" for x, y in map(place, marks)]
