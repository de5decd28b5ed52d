"""Lesion space, and the toy diseases: invented names, a malignancy, and a narrow box in that space each.

Lengths are pixels of a 64 px photo; colours are CIELAB offsets from the surrounding skin, so that one lesion crosses skin tones;
counts are drawn as real numbers and rounded when rendered.

Five pairs of a malignant and a benign disease share a hue and most of the inner structure.  Within a pair the malignant one is
ragged and asymmetric, and its shade lies to one side of the benign one's, with an overlap; size, position, light, relief and
clutter vary freely.  The boxes were fixed on real photos alone, before any synthetic image was trained on: a small network that
sees 2,100 fresh photos should be right about nine times in ten, and one that sees the toy set's own 196 clearly less often.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

BOUNDS: dict[str, tuple[float, float]] = {
    # outline
    "radius": (4.5, 13.0),
    "aspect": (1.0, 1.7),
    "irregularity": (0.0, 0.40),
    "jaggedness": (0.0, 0.22),
    "asymmetry": (0.0, 1.0),
    "softness": (0.4, 2.6),
    "satellites": (0.0, 7.0),
    "satellite_radius": (0.8, 2.4),
    # colour of the body, and of the blotches in it
    "lightness": (-38.0, 12.0),
    "redness": (-6.0, 24.0),
    "yellowness": (-20.0, 16.0),
    "blotches": (0.0, 0.6),
    "blotch_lightness": (-26.0, 22.0),
    "blotch_redness": (-8.0, 18.0),
    "blotch_yellowness": (-16.0, 14.0),
    # inner structure
    "rim": (-16.0, 16.0),
    "rim_width": (0.12, 0.40),
    "centre": (-22.0, 22.0),
    "centre_radius": (0.15, 0.55),
    "dots": (0.0, 12.0),
    "dot_lightness": (-26.0, 26.0),
    "scale": (0.0, 1.0),
    "vessels": (0.0, 1.0),
    "relief": (0.0, 1.0),
}
"""Name -> (lowest, highest) value: 24 axes."""
NAMES = tuple(BOUNDS)
OFTEN_ABSENT = ("satellites", "blotches", "rim", "centre", "dots", "scale", "vessels", "jaggedness")
"""Axes on which 0 means "not there"; the generic corpus leaves each out half of the time."""


@dataclass(frozen=True)
class Box:
    """A box in lesion space; axes it does not name are free over their bounds.

    Raises ValueError for an unknown axis or a range outside the bounds.
    """

    ranges: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if name not in BOUNDS:
                raise ValueError(f"unknown lesion axis {name!r}; known: {', '.join(NAMES)}")
            if not BOUNDS[name][0] <= low <= high <= BOUNDS[name][1]:
                raise ValueError(f"range {low}..{high} of {name} is outside {BOUNDS[name]}")

    def sample(self, rng: np.random.Generator) -> dict[str, float]:
        """A lesion drawn uniformly from the box: axis name -> value."""
        return {name: float(rng.uniform(*self.ranges.get(name, BOUNDS[name]))) for name in NAMES}

    def contains(self, lesion: Mapping[str, float], margin: float = 0.0) -> bool:
        """Whether a lesion lies in the box widened on each side by ``margin`` x the axis' full span."""
        for name, (low, high) in self.ranges.items():
            slack = margin * (BOUNDS[name][1] - BOUNDS[name][0])
            if not low - slack <= lesion[name] <= high + slack:
                return False
        return True


def sample_broad(rng: np.random.Generator, excluded: Iterable[Box] = (), margin: float = 0.02) -> dict[str, float]:
    """A lesion from the whole space, never inside an excluded box (widened by ``margin``)."""
    excluded = tuple(excluded)
    while True:
        lesion = {name: float(rng.uniform(*BOUNDS[name])) for name in NAMES}
        for name in OFTEN_ABSENT:
            if rng.random() < 0.5:
                lesion[name] = 0.0
        # Outlines of low irregularity are rare under a uniform law, and round lesions common in clinics.
        lesion["irregularity"] *= rng.random() ** 0.5
        lesion["asymmetry"] *= rng.random() ** 0.5
        visible = abs(lesion["lightness"]) / 2 + abs(lesion["redness"]) + abs(lesion["yellowness"]) / 2
        if visible > 9.0 and not any(box.contains(lesion, margin) for box in excluded):
            return lesion


Range = tuple[float, float]


@dataclass(frozen=True)
class Disease:
    """One raw disease name of the toy world: the concept it belongs to, its label and its box."""

    raw: str
    concept: str
    malignant: bool
    box: Box

    @property
    def slug(self) -> str:
        """The concept in ``[a-z0-9-]``."""
        return self.concept.replace(" ", "-")


def _colour(
    lightness: Range, redness: Range, yellowness: Range, blotch: tuple[Range, Range, Range]
) -> dict[str, Range]:
    names = ("lightness", "redness", "yellowness", "blotch_lightness", "blotch_redness", "blotch_yellowness")
    return dict(zip(names, (lightness, redness, yellowness, *blotch), strict=True))


_INK = _colour((-34, -20), (-2, 6), (-8, 3), ((-14, 4), (-4, 4), (-8, 4)))
_EMBER = _colour((-16, -4), (11, 20), (-3, 6), ((-10, 8), (-2, 7), (-4, 4)))
_PEARL = _colour((-3, 8), (1, 9), (-8, 0), ((-8, 6), (-2, 6), (-4, 3)))
_SLATE = _colour((-26, -12), (-5, 2), (-19, -10), ((-10, 8), (-4, 5), (-5, 5)))
_CRUST = _colour((-20, -7), (2, 9), (4, 13), ((-12, 6), (-3, 5), (-3, 8)))

_REGULAR = {"irregularity": (0.02, 0.09), "jaggedness": (0.0, 0.03), "asymmetry": (0.0, 0.25)}
_RAGGED = {"irregularity": (0.15, 0.26), "jaggedness": (0.05, 0.12), "asymmetry": (0.35, 0.80)}
_PLAIN = {
    "satellites": (0, 0),
    "scale": (0, 0.2),
    "vessels": (0, 0.2),
    "dots": (0, 2),
    "rim": (-3, 3),
    "centre": (-4, 4),
}


def _disease(
    raw: str, malignant: bool, *parts: dict[str, Range], concept: str | None = None, **ranges: Range
) -> Disease:
    merged: dict[str, Range] = {}
    for part in (_PLAIN, *parts, ranges):
        merged.update(part)
    return Disease(raw, concept or raw.replace("-", " "), malignant, Box(merged))


DISEASES: tuple[Disease, ...] = (
    # Dark brown: outline and blotches tell them apart.
    _disease(
        "inkblot-naevoma",
        True,
        _INK,
        _RAGGED,
        lightness=(-34, -26),
        radius=(6, 11),
        blotches=(0.18, 0.5),
        satellites=(0, 2.4),
    ),
    _disease(
        "inkblot-naevoma-early",
        True,
        _INK,
        _RAGGED,
        lightness=(-34, -26),
        radius=(5, 8),
        blotches=(0.08, 0.3),
        concept="inkblot naevoma",
    ),
    _disease(
        "button-naevule", False, _INK, _REGULAR, lightness=(-29, -20), radius=(5, 11), blotches=(0.0, 0.25), dots=(0, 4)
    ),
    # Red plaques: a broken centre against an even, scaly one.
    _disease(
        "emberplaque-carcova",
        True,
        _EMBER,
        _RAGGED,
        lightness=(-16, -9),
        redness=(11, 16),
        radius=(6, 12),
        centre=(-16, -4),
        blotches=(0.1, 0.4),
        scale=(0.0, 0.5),
        vessels=(0.1, 0.7),
    ),
    _disease(
        "rosequilt-dermia",
        False,
        _EMBER,
        _REGULAR,
        lightness=(-11, -4),
        redness=(14, 20),
        radius=(6, 12),
        centre=(-3, 10),
        blotches=(0.0, 0.3),
        scale=(0.15, 0.8),
        vessels=(0.0, 0.35),
    ),
    # Pearly papules: a rolled rim and vessels against a plain dome.
    _disease(
        "pearlrim-carcova",
        True,
        _PEARL,
        _REGULAR,
        irregularity=(0.10, 0.17),
        asymmetry=(0.3, 0.6),
        lightness=(-3, 4),
        yellowness=(-8, -3),
        radius=(5, 10),
        rim=(5, 14),
        centre=(-14, -4),
        vessels=(0.4, 1.0),
    ),
    _disease(
        "pearldrop-papulum",
        False,
        _PEARL,
        _REGULAR,
        lightness=(1, 8),
        yellowness=(-5, 0),
        radius=(5, 10),
        rim=(-2, 7),
        centre=(-5, 10),
        vessels=(0.0, 0.5),
    ),
    # Slate blue: veil-like blotches and satellites against one even coin.
    _disease(
        "greyveil-melovoma",
        True,
        _SLATE,
        _RAGGED,
        lightness=(-26, -18),
        radius=(6, 11),
        blotches=(0.15, 0.5),
        satellites=(0, 3.4),
        softness=(0.8, 2.4),
    ),
    _disease(
        "bluecoin-naevule",
        False,
        _SLATE,
        _REGULAR,
        lightness=(-21, -12),
        radius=(5, 10),
        blotches=(0.0, 0.2),
        softness=(0.6, 2.0),
    ),
    # Yellow-brown crusts: ragged crater against stuck-on wax with pits.
    _disease(
        "crustfold-keravoma",
        True,
        _CRUST,
        _RAGGED,
        lightness=(-20, -13),
        yellowness=(4, 9),
        radius=(6, 11),
        centre=(-16, -3),
        scale=(0.3, 0.9),
        dots=(0, 4),
        dot_lightness=(-20, -6),
    ),
    _disease(
        "waxbutton-keraphyte",
        False,
        _CRUST,
        _REGULAR,
        lightness=(-15, -7),
        yellowness=(8, 13),
        radius=(6, 12),
        centre=(-5, 6),
        scale=(0.1, 0.7),
        dots=(2, 9),
        dot_lightness=(-22, -8),
    ),
)
"""Eleven raw names, ten concepts, five malignant and five benign."""

EXTRA = _disease(
    "starfield-exanthum",
    False,
    _EMBER,
    _REGULAR,
    radius=(5, 8),
    satellites=(4, 7),
    satellite_radius=(1.0, 2.0),
    scale=(0, 0.1),
    centre=(0, 8),
)
"""A disease that is in no training or test set: the "add a disease" example."""

ALL_DISEASES = (*DISEASES, EXTRA)
BY_RAW = {disease.raw: disease for disease in ALL_DISEASES}
EXCLUDED_BOXES = tuple(disease.box for disease in ALL_DISEASES)
"""What the pretraining corpus must never show."""
