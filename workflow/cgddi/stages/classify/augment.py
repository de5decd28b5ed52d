"""Augmentation of FairDisCo (random resized crop, rotation, mirroring, centre crop) in two Pillow calls per picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from cgddi.stages.classify.settings import ClassifySettings


def train_picture(picture: Image.Image, settings: ClassifySettings, rng: np.random.Generator) -> np.ndarray:
    """A random view: RandomResizedCrop, RandomRotation (nearest, black corners), mirroring, CenterCrop, as torchvision's.

    The crop is resized once; rotation, mirroring and centre crop are one affine resampling of its middle, so that pixels the
    centre crop would drop are never computed.

    Args:
        picture: RGB, any size.
        settings: sizes and ranges.
        rng: source of all randomness.

    Returns:
        uint8 (3, image_size, image_size).
    """
    side, out = settings.resize_to, settings.image_size
    box = crop_box(picture.size, settings.crop_scale, rng)
    picture = picture.resize((side, side), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    angle = math.radians(rng.uniform(-settings.rotation, settings.rotation))
    mirrored = rng.random() < settings.hflip
    sign = -1.0 if mirrored else 1.0
    cos, sin, half = math.cos(angle), math.sin(angle), out / 2
    # Output pixel centre (x, y) -> source: mirror about the middle, then turn back by the angle.
    a, b = sign * cos, sin
    d, e = -sign * sin, cos
    middle = side / 2
    matrix = (a, b, middle - a * half - b * half, d, e, middle - d * half - e * half)
    picture = picture.transform((out, out), Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)
    return _planes(picture)


def test_picture(picture: Image.Image, settings: ClassifySettings) -> np.ndarray:
    """The fixed view: shorter side to `resize_to`, centre crop to `image_size`; uint8 (3, image_size, image_size)."""
    width, height = picture.size
    scale = settings.resize_to / min(width, height)
    half = settings.image_size / scale / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    side = settings.image_size
    return _planes(picture.resize((side, side), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0))


def _planes(picture: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def crop_box(
    size: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Box of torchvision's RandomResizedCrop (ratio 3/4 to 4/3, ten tries, then the largest allowed in the middle)."""
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    ratio = width / height
    w = round(height * 4 / 3) if ratio > 4 / 3 else width
    h = round(width / (3 / 4)) if ratio < 3 / 4 else height
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
