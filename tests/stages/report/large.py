"""What a run of DDI's size leaves, written by hand: 65 concepts, three methods, three regimes, five seeds."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.images import TONES, encode_png
from PIL import Image

CONCEPTS = 65
METHODS, REGIMES, SEEDS = ("baseline", "fairdisco", "patchalign"), ("real", "synthetic", "synthetic_real"), range(5)
METRICS = ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "f1", "ece")
TOGETHER = ("pqd", "dpm", "eom", "equalized_odds_difference")
PER_CELL = 6


def write_run(folder: Path, size: int = 8) -> list[str]:
    """Write a run's results; return the options of `cgddi report` that name them.

    Args:
        folder: where.
        size: side in px of its pictures; some are the same, since a page's size knows their names only.
    """
    rng = np.random.default_rng(0)
    pictures = [encode_png(_picture(rng, size)) for _ in range(30)]
    slugs = [f"long-name-of-disease-{n:02}" for n in range(CONCEPTS)]
    (folder / "lora").mkdir(parents=True)
    archive, samples = _images(folder, slugs, pictures)
    rows = [
        {**row, "archive": str(archive), "start": row["members"]["png"][0], "size": row["members"]["png"][1]}
        for row in Archive(archive).rows
    ]
    tested = [
        {**rows[n], "id": f"real/test-{n}", "image_id": f"test-{n}", "role": "test", "malignant": n % 4 == 0}
        for n, row in enumerate(rows)
        if row["kind"] == "real"
    ][:450]
    index = pd.DataFrame([*rows, *tested]).drop(
        columns=["members", "prompt", "seed", "scores", "faults"], errors="ignore"
    )
    index["malignant"] = index["malignant"].astype("boolean")
    index.to_parquet(folder / "main.parquet")
    left = {
        f"{kind}: {why}": 1000 for kind, why in product(("healthy", "semantic"), ("canvas is a test image", "donor is"))
    }
    (folder / "main.json").write_text(
        json.dumps({"dropped": left, "samples": [{"wanted": 9, "short": 1, "concept": "a", "tone": "dark"}]})
    )
    _fairness(folder / "fairness", slugs, rng)
    (folder / "leakage.json").write_text(
        json.dumps({"clean": True, "waived": {}, "checked": {"training_images": 300_000}})
    )
    records = _classifiers(folder, rng)
    sheets = []
    for slug in slugs:
        place = folder / f"lora/main/{slug}"
        place.mkdir(parents=True)
        sheets.append(place / "samples.png")
        sheets[-1].write_bytes(pictures[0])
        for stage in ("lora", "embedding"):
            log = folder / f"logs/{stage}/main/{slug}.training.jsonl"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(
                "".join(json.dumps({"step": 10 * n, "loss": 0.3 + rng.random() / 9}) + "\n" for n in range(75))
            )
    named = {
        "logs": [folder / "logs"],
        "summary": [folder / "fairness/summary.json"],
        "audits": [folder / "leakage.json"],
    }
    named |= {"index": [folder / "main.parquet"], "samples": sheets, "semantic": [samples], "classify": records}
    return [str(item) for name, paths in named.items() for item in (f"--{name}", *paths)]


def _picture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Coarse colours with grain, which compress about as skin does."""
    coarse = Image.fromarray(rng.integers(80, 200, (8, 8, 3), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse) + rng.normal(0, 4, (size, size, 1)), 0, 255).astype(np.uint8)


def _images(folder: Path, slugs: list[str], pictures: list[bytes]) -> tuple[Path, Path]:
    """An archive of training images of every kind, and one of samples, some of which failed."""
    paths = folder / "images.tar", folder / "samples.tar"
    with ArchiveWriter(paths[0], {"stage": "x"}) as images, ArchiveWriter(paths[1], {"stage": "semantic"}) as samples:
        for (number, slug), tone, n in product(enumerate(slugs), TONES, range(PER_CELL)):
            photo = f"{number:02}{tone}{n}"
            known = {"concept": slug, "tone": tone, "malignant": number % 5 == 0, "role": "train", "cohort": "ddi"}
            for kind, lineage in {
                "real": {"image_id": photo},
                "healthy": {"image_id": photo, "canvas": photo, "concept": "healthy"},
                "lesion_mapped": {"donor": photo, "canvas": photo[::-1]},
                "semantic": {"canvas": photo, "generator": f"main/{slug}"},
            }.items():
                row = known | {"id": f"{kind}/ddi/{slug}/{photo}", "kind": kind} | lineage
                images.add(f"{kind}{photo}", {"png": pictures[(number + n) % len(pictures)]}, row)
            for failed in (False, True):
                row = known | {
                    "id": f"semantic/ddi/{slug}/{photo}" + "-failed" * failed,
                    "kind": "semantic",
                    "canvas": photo,
                }
                row |= {"prompt": f"An image of <{slug}> on the skin of a {tone}-skinned individual", "seed": 2**61 + n}
                row |= {
                    "scores": {
                        "presence": 2.123,
                        "angle": -50.5,
                        "likeness": 0.765,
                        "strangeness": 1.25,
                        "nearest": photo,
                    }
                }
                row |= {"faults": {"lesion": "no lesion: colour difference 2.1, real ones have 6.0"} if failed else {}}
                samples.add(f"{photo}{failed}", {"png": pictures[n]}, row)
    return paths


def _fairness(folder: Path, slugs: list[str], rng: np.random.Generator) -> None:
    folder.mkdir()
    rows, diseases, paired = [], [], []
    for method, regime in product(METHODS, REGIMES):
        setting = {"split": "main", "regime": regime, "method": method, "task": "malignancy", "runs": 5, "caveats": ""}
        figures = [*product(METRICS, ("all", *TONES)), *product(TOGETHER, ("all",))]
        for metric, group in figures:
            value = round(float(rng.uniform(0.4, 0.9)), 6)
            rows.append(
                {
                    **setting,
                    "metric": metric,
                    "group": group,
                    "value": value,
                    "low": value - 0.1,
                    "high": value + 0.1,
                    "images": 450,
                }
            )
        diseases += [
            {**setting, "concept": slug, "rarity": "rare", "images": 7, "accuracy": rng.random()} for slug in slugs
        ]
        if regime != "real":
            names = {
                "split": "main",
                "method": method,
                "first": regime,
                "second": "real",
                "runs": 5,
                "images": 450,
                "caveats": "",
            }
            paired += [
                {**names, "metric": metric, "group": group, "difference": 0.05, "low": 0.01, "high": 0.09}
                for metric, group in figures
            ]
    for name, table in {
        "metrics": rows,
        "by_tone": rows,
        "by_rarity": rows,
        "by_disease": diseases,
        "paired": paired,
    }.items():
        pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)
    (folder / "table.md").write_text("| a | b |\n|---|---|\n| 1 | 2 |\n")
    for name in ("roc", "metrics", "calibration"):
        (folder / f"{name}.png").write_bytes(encode_png(np.full((300, 900), 200, np.uint8)))
    (folder / "summary.json").write_text(json.dumps({"paired": paired, "settings": rows[:1], "intervals": "About."}))


def _classifiers(folder: Path, rng: np.random.Generator) -> list[Path]:
    records = []
    for method, regime, seed in product(METHODS, REGIMES, SEEDS):
        history = [
            {"epoch": n, "train_loss": rng.random(), "held_out": {"balanced_accuracy": rng.random()}}
            for n in range(1, 16)
        ]
        record = {
            "split": "main",
            "method": method,
            "regime": regime,
            "run_seed": seed,
            "history": history,
            "chosen_epoch": 4,
        }
        record |= {"cohorts": {"train": ["ddi"], "test": ["ddi"]}, "spec": {"settings": {"selection": "validation"}}}
        records.append(folder / f"{method}-{regime}-{seed}.json")
        records[-1].write_text(json.dumps(record))
    return records
