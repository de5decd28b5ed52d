"""CIELAB colour (D65) and the individual typology angle (ITA) that defines skin tones here.

ITA = atan2(L* - 50, b*) in degrees: the larger, the lighter the skin.  The cuts between light,
medium and dark are 38 and -2 degrees; the toy world draws skin well inside these cuts.
"""

from __future__ import annotations

import numpy as np

TONES = ("light", "medium", "dark")
TONE_CODES = {"light": 12, "medium": 34, "dark": 56}
ITA_CUTS = (38.0, -2.0)
"""Degrees: above the first is light, below the second is dark."""
ITA_RANGES = {"light": (42.0, 58.0), "medium": (14.0, 34.0), "dark": (-55.0, -18.0)}
"""Degrees from which the skin of each tone is drawn."""
SKIN_B_RANGES = {"light": (12.0, 18.0), "medium": (14.0, 22.0), "dark": (10.0, 17.0)}
SKIN_A_RANGES = {"light": (6.0, 12.0), "medium": (8.0, 14.0), "dark": (6.0, 12.0)}

_RGB_FROM_XYZ = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]],
    dtype=np.float64,
)
_XYZ_FROM_RGB = np.linalg.inv(_RGB_FROM_XYZ)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """CIELAB (..., 3) to sRGB (..., 3) in [0, 1]; colours outside the gamut are clipped."""
    lightness = (lab[..., 0] + 16.0) / 116.0
    f = np.stack([lightness + lab[..., 1] / 500.0, lightness, lightness - lab[..., 2] / 200.0], axis=-1)
    xyz = np.where(f > 6.0 / 29.0, f**3, (f - 16.0 / 116.0) * 3.0 * (6.0 / 29.0) ** 2) * _WHITE
    linear = np.clip(xyz @ _RGB_FROM_XYZ.T, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1.0 / 2.4) - 0.055)


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) in [0, 1], or uint8, to CIELAB (..., 3)."""
    rgb = np.asarray(rgb)
    value = rgb / 255.0 if rgb.dtype == np.uint8 else np.clip(rgb.astype(np.float64), 0.0, 1.0)
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = (linear @ _XYZ_FROM_RGB.T) / _WHITE
    delta = 6.0 / 29.0
    f = np.where(xyz > delta**3, np.cbrt(xyz), xyz / (3.0 * delta**2) + 4.0 / 29.0)
    return np.stack(
        [116.0 * f[..., 1] - 16.0, 500.0 * (f[..., 0] - f[..., 1]), 200.0 * (f[..., 1] - f[..., 2])], axis=-1
    )


def ita_degrees(lab: np.ndarray) -> np.ndarray:
    """Individual typology angle in degrees of CIELAB colours (..., 3)."""
    return np.degrees(np.arctan2(lab[..., 0] - 50.0, lab[..., 2]))


def tone_of_ita(ita: float) -> str:
    """The tone, light, medium or dark, of an ITA in degrees."""
    return "light" if ita > ITA_CUTS[0] else "medium" if ita > ITA_CUTS[1] else "dark"


def image_ita(rgb: np.ndarray, region: np.ndarray | None = None) -> float:
    """ITA in degrees of the median colour of an (H, W, 3) uint8 image, over a boolean (H, W) region if given.

    Raises ValueError when the region is empty.
    """
    pixels = rgb.reshape(-1, 3) if region is None else rgb[region]
    if len(pixels) == 0:
        raise ValueError("no skin pixel to measure: the region is empty")
    return float(ita_degrees(np.median(rgb_to_lab(pixels), axis=0)))


def draw_skin_lab(rng: np.random.Generator, tone: str) -> np.ndarray:
    """One base skin colour (3,) in CIELAB for a tone, its ITA inside ``ITA_RANGES[tone]``."""
    angle = np.radians(rng.uniform(*ITA_RANGES[tone]))
    b = rng.uniform(*SKIN_B_RANGES[tone])
    return np.array([50.0 + b * np.tan(angle), rng.uniform(*SKIN_A_RANGES[tone]), b])
