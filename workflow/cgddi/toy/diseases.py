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
from pathlib import Path

import numpy as np
import yaml

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


def _read() -> list[Disease]:
    """The diseases of diseases.yaml: what an entry says comes over the families it names, and over what all have."""
    table = yaml.safe_load(Path(__file__).with_name("diseases.yaml").read_text(encoding="utf-8"))
    found = []
    for raw, entry in table["diseases"].items():
        merged: dict[str, list[float]] = {}
        for family in ("plain", *entry.pop("like")):
            merged |= table["families"][family]
        malignant, concept = entry.pop("malignant"), entry.pop("concept", raw.replace("-", " "))
        box = Box({name: tuple(ends) for name, ends in (merged | entry).items()})
        found.append(Disease(raw, concept, malignant, box))
    return found


*_TRAINED, EXTRA = _read()
DISEASES: tuple[Disease, ...] = tuple(_TRAINED)
"""Eleven raw names, ten concepts, five malignant and five benign; `EXTRA` is in no training or test set: the "add a disease"
example."""
ALL_DISEASES = (*DISEASES, EXTRA)
BY_RAW = {disease.raw: disease for disease in ALL_DISEASES}
EXCLUDED_BOXES = tuple(disease.box for disease in ALL_DISEASES)
"""What the pretraining corpus must never show."""
