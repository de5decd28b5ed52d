"""The generic pretraining corpus: photos sampled broadly over lesion space, never from a toy disease's box."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass

import numpy as np

from cgddi.core.images import LESION, TONES

from .captions import caption
from .diseases import EXCLUDED_BOXES
from .lesion import sample_broad
from .render import SIZE
from .scene import render_photo

HEALTHY_SHARE = 0.25
CLUTTER_SHARE = 0.15
"""Chance of each of marker, ruler and cloth in a photo."""
_CHUNK = 256


@dataclass(frozen=True)
class Corpus:
    """Images (N, 64, 64, 3) uint8, lesion masks (N, 64, 64) bool, captions and tones of length N."""

    images: np.ndarray
    lesions: np.ndarray
    captions: list[str]
    tones: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def draw_example(rng: np.random.Generator):
    """One corpus example: (photo, lesion parameters or None, caption)."""
    tone = TONES[rng.integers(len(TONES))]
    lesion = None if rng.random() < HEALTHY_SHARE else sample_broad(rng, EXCLUDED_BOXES)
    marker, ruler, cloth = rng.random(3) < CLUTTER_SHARE
    photo = render_photo(rng, tone, lesion, marker=bool(marker), ruler=bool(ruler), cloth=bool(cloth))
    return photo, lesion, caption(rng, photo, lesion)


def _draw_chunk(job: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    seed, chunk, count = job
    rng = np.random.default_rng([seed, chunk])
    images, masks = np.empty((count, SIZE, SIZE, 3), np.uint8), np.empty((count, SIZE, SIZE), bool)
    texts, tones = [], []
    for index in range(count):
        photo, _, text = draw_example(rng)
        images[index], masks[index] = photo.image, photo.mask == LESION
        texts.append(text)
        tones.append(photo.tone)
    return images, masks, texts, tones


def build_corpus(count: int, seed: int, processes: int = 1) -> Corpus:
    """``count`` examples; the same whatever the number of processes (3 ms an example and process).

    Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"a corpus needs at least one photo, not {count}")
    jobs = [(seed, chunk, min(_CHUNK, count - start)) for chunk, start in enumerate(range(0, count, _CHUNK))]
    if processes > 1:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            parts = pool.map(_draw_chunk, jobs)
    else:
        parts = [_draw_chunk(job) for job in jobs]
    images, masks, texts, tones = zip(*parts, strict=True)
    return Corpus(np.concatenate(images), np.concatenate(masks), sum(texts, []), sum(tones, []))
