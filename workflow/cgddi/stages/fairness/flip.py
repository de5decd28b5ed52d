"""How far EOM moves when one prediction is flipped: with few malignant images of a tone, a long way."""

from __future__ import annotations

import numpy as np

from cgddi.core.bootstrap import Run
from cgddi.core.metrics import confusion, equality_of_opportunity


def eom_under_one_flip(run: Run) -> tuple[float, float, float]:
    """EOM, and the least and greatest EOM after one test image's prediction is flipped.

    A right prediction becomes the most probable other class, a wrong one becomes right. All NaN where EOM is undefined.

    Returns:
        (eom, lowest, highest).
    """
    classes, n = len(run.classes), len(run.labels)
    base = confusion(run.labels, run.predicted, run.tones, classes, np.ones((1, n)))[0]
    others = run.probability.copy()
    others[np.arange(n), run.labels] = -1
    flipped = np.where(run.predicted == run.labels, others.argmax(1), run.labels)
    tables = np.repeat(base[None], n, axis=0)
    image = np.arange(n)
    tables[image, run.tones, run.labels, run.predicted] -= 1
    tables[image, run.tones, run.labels, flipped] += 1
    moved = equality_of_opportunity(tables)
    value = float(equality_of_opportunity(base[None])[0])
    if not np.isfinite(value):
        return float("nan"), float("nan"), float("nan")
    return value, float(np.nanmin(moved)), float(np.nanmax(moved))
