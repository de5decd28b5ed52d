"""Procedural skin at the size of clinical photographs: texture in several octaves, creases, pores, hair and uneven light."""

from __future__ import annotations

import numpy as np
from cgddi.core.colour import lab_to_rgb, rgb_to_lab, to_uint8
from cgddi.core.images import LESION, MARKER, RULER, SKIN
from cgddi.toy.scene import draw_skin_colour
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, gaussian_filter, zoom


def skin(seed: int, size: int = 512, tone: str = "light", hairs: int = 25) -> np.ndarray:
    """A photo (size, size, 3) uint8 of plain skin; lengths grow and shrink with its size."""
    rng, scale = np.random.default_rng(seed), size / 512
    lab = np.empty((size, size, 3))
    lab[...] = draw_skin_colour(rng, tone)
    for sigma, spread in ((0.7, 1.2), (1.5, 1.3), (3.0, 1.2), (6.0, 1.0), (12.0, 0.8), (30.0, 0.8)):
        lab[..., 0] += spread * rng.uniform(0.7, 1.3) * noise(rng, size, sigma * scale)
    for axis, spread in ((1, 0.8), (2, 0.5)):
        lab[..., axis] += spread * noise(rng, size, 10 * scale) + 0.6 * noise(rng, size, 1.5 * scale)
    y, x = np.mgrid[:size, :size] / size - 0.5
    turn = rng.uniform(0, np.pi)
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    lab[..., 0] += 0.7 * np.sin(2 * np.pi * 50 * across + 3 * noise(rng, size, 20 * scale))  # creases, some 10 px apart
    for _ in range(hairs):
        shift, start, bend = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.4), rng.uniform(-0.4, 0.4)
        off = (across - shift - bend * (along - start) ** 2) * 512
        lab[..., 0] -= 14 * np.exp(-((off / 0.9) ** 2)) * ((along > start) & (along < start + 0.12))
    lab[..., 0] += rng.uniform(2, 8) * x + rng.uniform(-5, 5) * y - 4 * (x * x + y * y)
    return to_uint8(lab_to_rgb(lab))


def noise(rng: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """A (size, size) random field of zero mean and unit deviation, smooth over `sigma` px."""
    step = 4 if sigma > 10 else 1  # a smooth field may be drawn coarsely
    field = gaussian_filter(rng.standard_normal((size // step, size // step)), max(sigma / step, 0.3), mode="wrap")
    field = zoom(field, size / len(field), order=1)
    return (field - field.mean()) / field.std()


def hole(seed: int, size: int = 512, radius: float = 45) -> np.ndarray:
    """A mask (size, size) uint8 of skin with one lobed lesion of about so many px (at 512)."""
    rng, scale = np.random.default_rng((seed, 1)), size / 512
    y, x = np.mgrid[:size, :size] - rng.uniform(0.3, 0.7, 2)[:, None, None] * size
    angle = np.arctan2(y, x)
    outline = radius * scale * (1 + sum(rng.uniform(-0.15, 0.15) * np.cos(k * angle + k) for k in range(2, 6)))
    return np.where(np.hypot(y, x) < outline, LESION, SKIN).astype(np.uint8)


SIGNS = {"blue": (38, -4, -18), "black": (14, 1, 1), "white": (84, 1, 5), "brown": (40, 14, 20)}
"""CIELAB of the signs of `lesion`: blue-grey veil, black pigment, scale, brown pigment."""


def lesion(
    photo: np.ndarray, seed: int = 0, radius: float = 60, redness: float = 0, ink: bool = False, ruler: bool = False
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """A photo of skin with a brown lesion that holds blue, black and white, its five-class mask, and where each sign is alone.

    Args:
        photo: (H, H, 3) uint8; lengths are for 512 px and grow and shrink with it.
        seed: of the outline and the place.
        radius: of the lesion, in px.
        redness: how much a* is raised beside the lesion; it falls off over 25 px.
        ink: two strokes of a pen right beside the lesion.
        ruler: a strip of white at the lower edge, with black marks.
    """
    size = len(photo)
    scale, mask = size / 512, hole(seed, size, radius)
    lab, inside = rgb_to_lab(photo), mask == LESION
    away = distance_transform_edt(~inside) / scale
    lab[..., 1] += redness * np.exp(-((away / 25) ** 2))
    y, x = np.argwhere(inside).mean(0)
    depth = distance_transform_edt(inside) / scale
    parts = {"brown": inside.copy()}
    for turn, name in enumerate(("blue", "black", "white")):
        angle = 2 * np.pi * turn / 3 + seed
        there = y + np.sin(angle) * radius * scale / 2, x + np.cos(angle) * radius * scale / 2
        parts[name] = np.hypot(*(np.mgrid[:size, :size] - np.array(there)[:, None, None])) < radius * scale / 4
    texture = lab - gaussian_filter(lab, (8 * scale, 8 * scale, 0))
    for name, part in parts.items():
        soft = gaussian_filter((part & (depth > 0)) * 1.0, 1.2 * scale)[..., None]
        lab = lab * (1 - soft) + (np.array(SIGNS[name]) + texture * (0.5, 0.2, 0.2)) * soft
    if ink:
        rows, columns = np.mgrid[:size, :size]
        stroke = (away > 4) & (away < 9) & (np.abs(rows - y) < np.abs(columns - x) / 2)
        lab[stroke] = (30, 25, -40)
        mask[stroke] = MARKER
    if ruler:
        lab[-size // 8 :] = (90, 0, 2)
        lab[-size // 8 :, :: max(2, size // 32)] = (10, 0, 0)
        mask[-size // 8 :] = RULER
    alone = {name: binary_erosion(part & (depth > 6), iterations=round(5 * scale)) for name, part in parts.items()}
    for name in ("blue", "black", "white"):
        alone["brown"] &= ~binary_dilation(parts[name], iterations=round(5 * scale))
    return to_uint8(lab_to_rgb(lab)), mask, alone


def octave_contrast(lightness: np.ndarray, part: np.ndarray, scale: float = 1.0) -> list[float]:
    """Spread of the lightness of a part in the octaves of 2, 4, 8 and 16 px (at 512): between Gaussian sigmas of 1 and 2 px ..."""
    bands = [gaussian_filter(lightness, s * scale) - gaussian_filter(lightness, 2 * s * scale) for s in (1, 2, 4, 8)]
    return [float(band[part].std()) for band in bands]
