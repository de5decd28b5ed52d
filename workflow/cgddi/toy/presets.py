"""How many photos of which toy disease and skin tone each preset holds."""

from __future__ import annotations

from dataclasses import dataclass

Counts = dict[str, tuple[int, int, int]]
"""Raw disease name -> number of light, medium and dark photos."""


@dataclass(frozen=True)
class Preset:
    """Photos of the training-side set by disease and tone, per-cell size of the test set, photos of the extra disease."""

    counts: Counts
    test_per_cell: int
    extra: tuple[int, int, int] = (2, 2, 2)


DEMO = Preset(
    # Like DDI: a quarter malignant, very few of them dark, a long tail of rare diseases.
    counts={
        "inkblot-naevoma": (9, 7, 2),
        "inkblot-naevoma-early": (4, 4, 0),
        "button-naevule": (22, 28, 22),
        "emberplaque-carcova": (6, 6, 1),
        "rosequilt-dermia": (16, 20, 16),
        "pearlrim-carcova": (5, 2, 0),
        "pearldrop-papulum": (4, 3, 2),
        "greyveil-melovoma": (2, 2, 1),
        "bluecoin-naevule": (0, 1, 0),
        "crustfold-keravoma": (1, 0, 0),
        "waxbutton-keraphyte": (3, 4, 3),
    },
    test_per_cell=15,
)
SMALL = Preset(
    counts={
        "inkblot-naevoma": (2, 2, 1),
        "inkblot-naevoma-early": (1, 1, 0),
        "button-naevule": (4, 5, 4),
        "emberplaque-carcova": (0, 1, 0),
        "rosequilt-dermia": (2, 3, 2),
    },
    test_per_cell=3,
)
PRESETS = {"demo": DEMO, "small": SMALL}
