"""sRGB and CIELAB (D65, 2 degrees), colour difference and the individual typology angle."""

from __future__ import annotations

import numpy as np

_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(1)
_FROM_XYZ = np.linalg.inv(_TO_XYZ)
_LEVELS = np.arange(256) / 255.0
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)
"""Linear light of each 8-bit sRGB level (IEC 61966-2-1)."""
_EPSILON, _KAPPA = 216 / 24389, 24389 / 27


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of 8-bit sRGB (CIE 15:2004): (..., 3) uint8 to float64, L 0 to 100."""
    xyz = _LINEAR[rgb] @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > _EPSILON, np.cbrt(xyz), (_KAPPA * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """8-bit sRGB of CIELAB, out-of-gamut values clipped: (..., 3) float to uint8."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f**3 > _EPSILON, f**3, (116 * f - 16) / _KAPPA) * _WHITE
    linear = (xyz @ _FROM_XYZ.T).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).clip(0, 255).astype(np.uint8)


def delta_e(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Colour difference CIE76: Euclidean distance of (..., 3) CIELAB values; about 2.3 is just noticeable."""
    return np.sqrt(((one - two) ** 2).sum(-1))


def typology_angle(lab: np.ndarray) -> np.ndarray:
    """Individual typology angle in degrees, atan2(L - 50, b) (Chardon et al. 1991), of (..., 3) CIELAB values."""
    return np.degrees(np.arctan2(lab[..., 0] - 50, lab[..., 2]))
