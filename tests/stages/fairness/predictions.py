"""Writes predictions with their records for tests of the fairness stage."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

CONCEPTS = {"nevus": (0, 30), "wart": (0, 5), "melanoma": (1, 20), "lymphoma": (1, 2)}


def write_run(
    root: Path, regime: str, seed: int, skill: float, split: str = "single", method: str = "baseline", **record
) -> str:
    """One run on 120 balanced test images whose probabilities separate the classes by `skill`; returns predictions.csv."""
    folder = root / split / regime / method / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, sum(map(ord, regime))])
    names = list(CONCEPTS)
    with open(folder / "predictions.csv", "w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["image_id", "cohort", "concept", "tone", "malignant", "probability", "predicted"])
        for n in range(120):
            concept, tone = names[n % 4], ("light", "medium", "dark")[n // 4 % 3]
            label = CONCEPTS[concept][0]
            chance = 1 / (1 + np.exp(-(skill * (2 * label - 1) + rng.normal())))
            cells = [f"im{n:03d}", "ddi", concept, tone, str(bool(label)).lower(), f"{chance:.6f}"]
            writer.writerow([*cells, str(chance > 0.5).lower()])
    sizes = {name: size for name, (_, size) in CONCEPTS.items()}
    facts = {
        "split": split,
        "regime": regime,
        "method": method,
        "run_seed": seed,
        "task": "malignancy",
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
