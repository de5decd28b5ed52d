"""Rendering one toy lesion: its coverage of the photo and the CIELAB colours it puts there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import gaussian_filter

SIZE = 64
"""Side of a toy photo in pixels."""
_GRID_Y, _GRID_X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64) + 0.5


def smooth_noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """A (64, 64) random field of zero mean and unit deviation, smooth over ``sigma`` pixels."""
    field = gaussian_filter(rng.standard_normal((SIZE, SIZE)), sigma, mode="reflect")
    return (field - field.mean()) / (field.std() + 1e-9)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))


def _outline(rng: np.random.Generator, angle: np.ndarray, lesion: Mapping[str, float]) -> np.ndarray:
    """Relative radius of the outline at each angle: lobes, teeth and a lopsided bulge around 1."""
    relative = np.ones_like(angle)
    for order in range(2, 6):
        amplitude = lesion["irregularity"] * rng.normal(0.0, 1.0) / (order - 0.5) ** 0.7
        relative += amplitude * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    for order in range(7, 13):
        relative += lesion["jaggedness"] * rng.normal(0.0, 0.35) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    bulge = np.exp(2.5 * (np.cos(angle - rng.uniform(0, 2 * np.pi)) - 1.0))
    relative += 0.6 * lesion["asymmetry"] * (bulge - bulge.mean())
    return np.clip(relative, 0.35, 1.9)


def lesion_extent(lesion: Mapping[str, float]) -> float:
    """Distance in pixels from the centre within which the lesion's body almost surely stays."""
    spread = 1.0 + 1.3 * lesion["irregularity"] + 0.45 * lesion["asymmetry"] + lesion["jaggedness"]
    return lesion["radius"] * np.sqrt(lesion["aspect"]) * spread + lesion["softness"]


def render_lesion(
    rng: np.random.Generator, lesion: Mapping[str, float], skin: np.ndarray, centre: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a lesion at ``centre`` (x, y in pixels) over a (64, 64, 3) CIELAB skin.

    Returns the painted CIELAB image (64, 64, 3) and the coverage (64, 64) in [0, 1]; the lesion's mask
    is where the coverage passes one half.
    """
    dx, dy = _GRID_X - centre[0], _GRID_Y - centre[1]
    turn = rng.uniform(0, np.pi)
    along, across = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
    stretch = np.sqrt(lesion["aspect"])
    along, across = along / stretch, across * stretch
    distance, angle = np.hypot(along, across), np.arctan2(across, along)
    outline = lesion["radius"] * _outline(rng, angle, lesion)
    depth = distance / outline  # 0 in the middle, 1 on the outline
    coverage = _sigmoid((outline - distance) / (0.45 * lesion["softness"]))

    for _ in range(round(lesion["satellites"])):
        away = rng.uniform(0, 2 * np.pi)
        reach = lesion["radius"] * rng.uniform(1.35, 1.9)
        radius = lesion["satellite_radius"] * rng.uniform(0.7, 1.3)
        gap = np.hypot(dx - reach * np.cos(away), dy - reach * np.sin(away))
        coverage = np.maximum(coverage, _sigmoid((radius - gap) / 0.45))

    offset = np.empty((SIZE, SIZE, 3))
    offset[...] = lesion["lightness"], lesion["redness"], lesion["yellowness"]
    # Blotches of a second colour, pulled to one side by asymmetry.
    if lesion["blotches"] > 0.01:
        side = lesion["asymmetry"] * (dx * np.cos(turn) + dy * np.sin(turn)) / lesion["radius"]
        field = smooth_noise(rng, 0.22 * lesion["radius"]) + 0.8 * side
        threshold = np.quantile(field[coverage > 0.5], 1.0 - lesion["blotches"]) if (coverage > 0.5).any() else 0.0
        blotch = _sigmoid((field - threshold) * 5.0)[..., None]
        offset += blotch * np.array([lesion["blotch_lightness"], lesion["blotch_redness"], lesion["blotch_yellowness"]])
    ring = np.exp(-(((depth - (1.0 - lesion["rim_width"] / 2)) / (lesion["rim_width"] / 2)) ** 2))
    offset[..., 0] += lesion["rim"] * ring
    core = _sigmoid((lesion["centre_radius"] - depth) * 14.0)
    offset[..., 0] += lesion["centre"] * core
    offset[..., 1] += 0.35 * np.maximum(-lesion["centre"], 0.0) * core  # a crater is raw

    for _ in range(round(lesion["dots"])):
        way, reach = rng.uniform(0, 2 * np.pi), lesion["radius"] * 0.8 * np.sqrt(rng.random())
        gap = (dx - reach * np.cos(way)) ** 2 + (dy - reach * np.sin(way)) ** 2
        offset[..., 0] += lesion["dot_lightness"] * np.exp(-gap / (2 * 0.85**2))
    if lesion["scale"] > 0.02:
        flakes = _sigmoid((smooth_noise(rng, 0.9) - 1.9 + 1.1 * lesion["scale"]) * 4.0)
        offset += flakes[..., None] * np.array([20.0, -5.0, -2.0]) * (0.35 + 0.65 * lesion["scale"])
    if lesion["vessels"] > 0.02:
        thread = np.exp(-((smooth_noise(rng, 2.2) / 0.16) ** 2)) * lesion["vessels"]
        offset += thread[..., None] * np.array([-9.0, 15.0, 3.0])
    # Relief: a dome lit from one side.
    light = rng.uniform(0, 2 * np.pi)
    dome = (dx * np.cos(light) + dy * np.sin(light)) / lesion["radius"] * np.clip(1.3 - depth, 0.0, 1.0)
    offset[..., 0] += 7.0 * lesion["relief"] * dome

    # Darkening is relative, so that a lesion on dark skin stays above black.
    painted = skin + offset
    darker = offset[..., 0] < 0
    painted[..., 0] = np.where(darker, skin[..., 0] * np.exp(offset[..., 0] / 55.0), np.minimum(painted[..., 0], 96.0))
    return skin + coverage[..., None] * (painted - skin), coverage
