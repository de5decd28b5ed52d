"""Writes predictions with their records for tests of the fairness stage."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

CONCEPTS = {"nevus": (0, 30), "wart": (0, 5), "melanoma": (1, 20), "lymphoma": (1, 2)}
CURVE = {
    "selection": "test",
    "leakage": {"gate": "report", "clean": False},
    "real_images": {"used": 12, "beyond": 45},
}
"""Facts of a run that deserves every caveat."""


def write_run(
    root: Path,
    regime: str,
    seed: int,
    skill: float,
    split: str = "single",
    method: str = "baseline",
    images=120,
    **record,
) -> str:
    """One run on test images of uneven tones and diseases, whose probabilities separate the classes by `skill`; returns
    predictions.csv, its rows in no order."""
    folder = root / split / regime / method / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(5)
    tones = cells.choice(["light", "medium", "dark"], images, p=[0.5, 0.3, 0.2])
    concepts = cells.choice(list(CONCEPTS), images, p=[0.4, 0.2, 0.25, 0.15])
    rng = np.random.default_rng([seed, sum(map(ord, regime))])
    chances = [1 / (1 + np.exp(-(skill * (2 * CONCEPTS[c][0] - 1) + rng.normal()))) for c in concepts]
    task = record.get("task", "malignancy")
    with open(folder / "predictions.csv", "w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        further = ["label", "p:benign", "p:malignant"] if task != "malignancy" else []
        writer.writerow(["image_id", "cohort", "concept", "tone", "malignant", "probability", "predicted", *further])
        for n in cells.permutation(images):
            label, chance = CONCEPTS[concepts[n]][0], chances[n]
            row = [f"im{n:03d}", "ddi", concepts[n], tones[n], str(bool(label)).lower(), f"{chance:.6f}"]
            if further:
                names = ("benign", "malignant")
                row += [names[int(chance > 0.5)], names[label], f"{1 - chance:.6f}", f"{chance:.6f}"]
            else:
                row.append(str(chance > 0.5).lower())
            writer.writerow(row)
    sizes = {name: size for name, (_, size) in CONCEPTS.items()}
    facts = {
        "split": split,
        "regime": regime,
        "method": method,
        "run_seed": seed,
        "task": task,
        "classes": ["benign", "malignant"],
        "selection": "validation",
        "leakage": {"gate": "enforce", "clean": True},
        "real_images": {"used": 57, "beyond": 0},
        "concept_images": {"all": sizes, "train": sizes},
        "cohorts": {"train": ["ddi"], "test": ["ddi"]},
        **record,
    }
    (folder / "record.json").write_text(json.dumps(facts))
    return str(folder / "predictions.csv")


def write_all(root: Path, seeds=(0, 1, 2), **record) -> list[str]:
    """Runs of real, synthetic and synthetic_real."""
    skills = {"real": 0.6, "synthetic": 1.2, "synthetic_real": 2.0}
    return [write_run(root, regime, seed, skill, **record) for regime, skill in skills.items() for seed in seeds]
