"""The images of one adapter: its concept's photos, and healthy canvases as priors, chosen by named seeds."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.core.seeds import seed_for
from cgddi.diffusion import jobs
from cgddi.diffusion.photos import Photo, read_photos
from cgddi.stages.lora.settings import LoraSettings


@dataclass(frozen=True)
class LoraJob:
    """What one adapter is made of and where it goes.

    Args:
        spec: concept, images, model, settings, seed.
        photos: masks archives with the training images.
        canvases: archives of healthy canvases.
        split: csv (image_id, role); canvases that are not role train are no priors. None uses every canvas.
        embedding: the concept's `learned_embeds.safetensors`.
        output: folder to write to.
    """

    spec: Mapping[str, Any]
    photos: Sequence[Path]
    canvases: Sequence[Path]
    split: Path | None
    embedding: Path
    output: Path

    @property
    def slug(self) -> str:
        """The concept's slug."""
        return self.spec["concept"]["slug"]


def training_ids(split: Path | None) -> set[str] | None:
    """Image ids with role train in a split file; None without a file.

    Raises:
        UserError: the file is not a split.
    """
    if split is None:
        return None
    with open(split, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not {"image_id", "role"} <= set(rows[0]):
        raise UserError(f"{split}: needs the columns image_id and role. Run the split stage again.")
    return {row["image_id"] for row in rows if row["role"] == "train"}


def read_canvases(archives: Sequence[Path], split: Path | None) -> list[Photo]:
    """Canvases that may be used in training, sorted by id."""
    allowed = training_ids(split)
    photos = sorted(read_photos(archives), key=lambda photo: photo.id)
    return [photo for photo in photos if allowed is None or photo.id in allowed]


def choose_priors(canvases: Sequence[Photo], settings: LoraSettings, seed: int, photos: int) -> list[Photo]:
    """The canvases that serve as priors: at most `prior_per_tone` of each tone, drawn by a seed that names no concept, so that all
    adapters of a project share them (and their latents).

    `priors: published` does as the published script: the three tones' canvases in one list, light ones first, cut to
    `prior_per_tone` in all (97 light ones were there, so no other tone was left), and of these as many as the concept has photos,
    since one index, drawn below the number of photos, chose both.

    Args:
        photos: training photos of the concept.

    Raises:
        UserError: priors are asked for and there is no canvas.
    """
    if not settings.priors_per_step or not settings.prior_weight:
        return []
    if not canvases:
        raise UserError(
            "lora: no healthy canvas to draw priors from. Keep some in review.csv, or set lora.priors_per_step to 0."
        )
    by_tone = [[photo for photo in canvases if photo.tone == tone] for tone in TONES]
    if settings.priors == "published":
        return [photo for of_tone in by_tone for photo in of_tone][: settings.prior_per_tone][:photos]
    chosen = []
    for of_tone in by_tone:
        ranked = sorted(of_tone, key=lambda photo: seed_for(seed, "prior", photo.id))
        chosen += sorted(ranked[: settings.prior_per_tone], key=lambda photo: photo.id)
    return chosen


def instance_prompt(photo: Photo, settings: LoraSettings, token: str) -> str:
    """The caption of a training photo."""
    return jobs.fill_prompt(settings.prompt, token, photo.tone) + jobs.suffix_of(photo, settings)


def prior_prompt(photo: Photo, settings: LoraSettings) -> str:
    """The caption of a canvas. A ruler is named as in a photo's (the published script did so too), else it would be taught as part
    of healthy skin; a marker was painted over."""
    return jobs.fill_prompt(settings.class_prompt, "", photo.tone) + jobs.suffix_of(photo, settings)


def numbers_of(photos: Sequence[Photo], order: Mapping[tuple[str, str], int], kind: str) -> np.ndarray:
    """Numbers of photos in a table, by (kind, id)."""
    return np.array([order[kind, photo.id] for photo in photos])
