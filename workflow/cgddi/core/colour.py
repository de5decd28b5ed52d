"""sRGB and CIELAB (D65, 2 degrees), colour difference and the individual typology angle (ITA)."""

from collections.abc import Sequence

import numpy as np

from cgddi.core.images import TONES

_FROM_XYZ = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)
"""Linear sRGB of CIE XYZ (IEC 61966-2-1, to seven digits)."""
_TO_XYZ = np.linalg.inv(_FROM_XYZ)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_LEVELS = np.arange(256) / 255.0
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)
"""Linear light of each 8-bit sRGB level (IEC 61966-2-1)."""
_DELTA = 6.0 / 29.0


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of 8-bit sRGB (CIE 15:2004): (..., 3) uint8 to float64, L 0 to 100."""
    xyz = _LINEAR[rgb] @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > _DELTA**3, np.cbrt(xyz), xyz / (3.0 * _DELTA**2) + 4.0 / 29.0)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """sRGB of CIELAB, (..., 3) float to float, 0 to 1; colours outside the gamut are clipped."""
    lightness = (lab[..., 0] + 16.0) / 116.0
    f = np.stack([lightness + lab[..., 1] / 500.0, lightness, lightness - lab[..., 2] / 200.0], axis=-1)
    xyz = np.where(f > _DELTA, f**3, (f - 16.0 / 116.0) * 3.0 * _DELTA**2) * _WHITE
    linear = np.clip(xyz @ _FROM_XYZ.T, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1.0 / 2.4) - 0.055)


def to_uint8(rgb: np.ndarray) -> np.ndarray:
    """Values of 0 to 1 as rounded 8-bit levels; what lies outside is clipped."""
    return np.rint(rgb * 255.0).clip(0, 255).astype(np.uint8)


_LEVEL_OF = np.rint(
    255 * np.where((light := np.arange(65536) / 65535) <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
).astype(np.uint8)
"""8-bit sRGB level of linear light in 65,535 steps, which are finer than the darkest level."""
_UNCLIPPED = _LINEAR[1], _LINEAR[254]


def unclipped_rgb(lab: np.ndarray) -> np.ndarray:
    """8-bit sRGB of CIELAB, (n, 3), without a level of 0 or 255: what would leave the range loses chroma at its own luminance."""
    lightness = (lab[:, 0] + 16.0) / 116.0
    f = np.stack([lightness + lab[:, 1] / 500.0, lightness, lightness - lab[:, 2] / 200.0], axis=-1)
    xyz = np.where(f > _DELTA, f * f * f, (f - 16.0 / 116.0) * (3.0 * _DELTA**2)) * _WHITE
    linear = xyz @ _FROM_XYZ.T
    low, high = _UNCLIPPED
    out = (linear.min(-1) < low) | (linear.max(-1) > high)
    if out.any():
        grey = xyz[out, 1:2].clip(low, high)
        away = linear[out] - grey
        room = np.where(away > 0, high - grey, low - grey)
        share = np.divide(room, away, out=np.ones_like(away), where=np.abs(away) > 1e-9)
        linear[out] = grey + away * share.min(-1, keepdims=True).clip(0, 1)
    return _LEVEL_OF[np.rint(linear * 65535).astype(np.int64)]


def delta_e(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Colour difference CIE76: Euclidean distance of (..., 3) CIELAB values; about 2.3 is just noticeable."""
    return np.sqrt(((one - two) ** 2).sum(-1))


def typology_angle(lab: np.ndarray) -> np.ndarray:
    """Individual typology angle in degrees, atan2(L - 50, b) (Chardon et al. 1991), of (..., 3) CIELAB values.

    The lighter the skin, the larger; for b > 0, as skin has, it is the published arctan((L - 50) / b).
    """
    return np.degrees(np.arctan2(lab[..., 0] - 50, lab[..., 2]))


def skin_angle(rgb: np.ndarray, skin: np.ndarray | None = None) -> float:
    """Median individual typology angle of a photo's skin, in degrees; the median is robust against lesion, hair and ink.

    Args:
        rgb: uint8 (H, W, 3).
        skin: bool (H, W), the pixels to measure; None or an empty mask measures all.
    """
    pixels = rgb[skin] if skin is not None and skin.any() else rgb.reshape(-1, 3)
    return float(np.median(typology_angle(rgb_to_lab(pixels))))


def tone_of_angle(angle: float, cuts: Sequence[float]) -> str:
    """light above the first cut, dark at or below the second, medium between; angle and cuts in degrees."""
    light, medium, dark = TONES
    return light if angle > cuts[0] else medium if angle > cuts[1] else dark


def fitted_cuts(angles: Sequence[float], tones: Sequence[str]) -> tuple[float, float]:
    """Cuts for `tone_of_angle` that tell photos of known tone apart best: most of each tone's share together.

    Of cuts that do equally well the middle of their range is taken. The two are found one by one, which is the best pair as long as
    the first is not below the second; else both are the same.

    Args:
        angles: degrees, one per photo.
        tones: of `TONES`, one per photo; a tone that is missing counts as told apart.
    """
    angles, tones = np.asarray(angles, float), np.asarray(tones)
    light, medium, dark = (np.sort(angles[tones == tone]) for tone in TONES)
    edges = np.unique(angles)
    candidates = np.concatenate([edges[:1] - 1, (edges[1:] + edges[:-1]) / 2, edges[-1:] + 1])

    def above(values: np.ndarray) -> np.ndarray:
        return 1 - np.searchsorted(values, candidates, side="right") / max(len(values), 1)

    first = _middle(candidates, above(light) - above(medium))
    second = _middle(candidates, above(medium) - above(dark))
    return (first, second) if first >= second else ((first + second) / 2,) * 2


def _middle(candidates: np.ndarray, worth: np.ndarray) -> float:
    """The middle of the longest run of best candidates."""
    best = np.flatnonzero(worth >= worth.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    run = max(runs, key=lambda run: candidates[run[-1]] - candidates[run[0]])
    return float((candidates[run[0]] + candidates[run[-1]]) / 2)
