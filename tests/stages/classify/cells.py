"""A small uneven set of pictures, and a linear classifier that notes what it is given: for tests of what a training is made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cgddi.core.archive import ArchiveWriter
from cgddi.core.images import encode_png
from cgddi.stages.classify.rows import Rows
from cgddi.stages.classify.settings import ClassifySettings

CELLS = {  # (kind, tone, label, concept): images
    ("real", "light", 0, "nevus"): 9,
    ("real", "light", 0, "wart"): 2,
    ("real", "light", 1, "melanoma"): 3,
    ("real", "medium", 0, "nevus"): 4,
    ("real", "medium", 1, "melanoma"): 1,
    ("real", "dark", 0, "wart"): 1,
    ("real", "dark", 1, "melanoma"): 1,
    ("real", "dark", 1, "lymphoma"): 2,
    ("semantic", "light", 0, "nevus"): 11,
    ("semantic", "dark", 1, "lymphoma"): 5,
    ("healthy", "dark", 0, "healthy"): 6,
}
TONES = {"light": 0, "medium": 1, "dark": 2}
SIDE = 16
NET = {"epochs": 5, "batch_size": 8, "learning_rate": 0.02, "lr_step": 2, "lr_gamma": 0.5, "clip_norm": 15.0}


def write_table(folder: Path) -> pd.DataFrame:
    """Rows of `CELLS`, with pictures in an archive in a folder."""
    path = folder / "p.tar"
    rows, rng = [], np.random.default_rng(0)
    with ArchiveWriter(path, {"stage": "masks"}) as archive:
        for (kind, tone, label, concept), count in CELLS.items():
            for _ in range(count):
                name = f"i{len(rows):03d}"
                colour = np.array([230, 180, 90]) - 60 * TONES[tone] + 40 * label
                picture = (colour + rng.normal(0, 12, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
                archive.add(name, {"png": encode_png(picture)}, {"id": name})
                about = {"id": name, "image_id": name, "kind": kind, "tone": tone, "label": label, "concept": concept}
                rows.append({**about, "tone_id": TONES[tone], "archive": str(path)})
    made = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    places = [(*line["members"]["png"], line["sha256"]) for line in made]
    return pd.DataFrame(rows).join(pd.DataFrame(places, columns=["start", "size", "sha256"]))


class Linear(torch.nn.Module):
    """A linear classifier that notes the batches it is given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3 * SIDE * SIDE, 2)
        self.seen = []

    def forward(self, images):
        return self.layer(images.flatten(1))

    def losses(self, images, labels, tones, weight=None):
        self.seen.append((labels.tolist(), tones.tolist(), None if weight is None else weight.tolist()))
        each = torch.nn.functional.cross_entropy(self(images), labels, reduction="none")
        return {"class": each.mean() if weight is None else (each * weight).sum() / weight.sum()}


def settings_for(**more):
    given = {"image_size": SIDE, "resize": SIDE, "precision": "fp32", "selection": "last", "training": NET}
    given["images_per_epoch"] = None
    return ClassifySettings(**{**given, **more})


def rows_of(table, held=None):
    held = table if held is None else held
    return Rows(table, held, held, ("benign", "malignant"))
