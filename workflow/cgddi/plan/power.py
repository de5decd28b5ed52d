"""What a test set can tell, before anything is trained: the smallest gap between tones that is more than chance. Light: read at
every parse."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from cgddi.plan.sheets import TONES

RATE, DRAWS, LEVEL = 0.8, 2000, 0.05
"""Share of every tone's photos that the classifier supposed here gets right, test sets drawn, and how seldom chance may look
like a gap."""

Counts = Mapping[tuple[str, bool], int]
"""(tone, malignant) -> test photos."""


def count_photos(photos: Iterable, roles: Mapping[str, str]) -> Counts:
    """Test photos of a split by tone and malignancy; of unknown tone or malignancy none."""
    return Counter((p.skin_tone, p.malignant) for p in photos if roles.get(p.image_id) == "test")


def least_gaps(counts: Counts) -> dict[str, float] | None:
    """EOM and PQD gaps (1 less the figure) that one of twenty test sets shows by chance where all tones are equal, by figure.

    One classifier, right on `RATE` of every tone's photos of either class. None where a tone lacks a class.
    """
    size = np.array([[counts.get((tone, label), 0) for label in (False, True)] for tone in TONES])
    if not size.all():
        return None
    right = np.random.default_rng(0).binomial(size, RATE, (DRAWS, *size.shape))
    recall, accuracy = right / size, right.sum(2) / size.sum(1)
    greatest = np.maximum(recall.max(1), 1e-9)
    figures = {"EOM": (recall.min(1) / greatest).mean(1), "PQD": accuracy.min(1) / accuracy.max(1)}
    return {name: float(1 - np.quantile(values, LEVEL)) for name, values in figures.items()}


def power_note(splits: Mapping[str, Counts]) -> str | None:
    """One line on the split that can tell least; None where no split can be tested."""
    gaps = {name: found for name, counts in splits.items() if (found := least_gaps(counts))}
    if not gaps:
        return None
    name = max(gaps, key=lambda split: gaps[split]["EOM"])
    tone, malignant = min(((t, m) for t in TONES for m in (False, True)), key=lambda cell: splits[name][cell])
    photos = splits[name][tone, malignant]
    what = f"{photos} {'malignant' if malignant else 'benign'} {tone} test photo{'s' * (photos != 1)}"
    shown = " and ".join(f"{figure} gaps below {100 * gap:.0f} points" for figure, gap in gaps[name].items())
    others = f" (the least of {len(gaps)} splits)" if len(gaps) > 1 else ""
    about = f"one classifier, right on {100 * RATE:.0f} % of every tone"
    return f"Split {name}{others}: {what}: {shown} cannot be told from chance ({about})."
