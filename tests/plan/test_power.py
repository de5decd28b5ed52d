"""What a test set can see, against enumeration; one line per plan."""

from __future__ import annotations

from itertools import product
from math import comb
from types import SimpleNamespace

import numpy as np
import pytest
from cgddi.plan.power import RATE, count_photos, least_gaps, power_note

TINY = {
    ("light", False): 3,
    ("light", True): 4,
    ("medium", False): 3,
    ("medium", True): 2,
    ("dark", False): 3,
    ("dark", True): 2,
}
PAPER = {("light", False): 34, ("light", True): 11, ("medium", False): 34, ("medium", True): 10} | {
    ("dark", False): 38,
    ("dark", True): 5,
}


def test_the_gap_is_the_one_that_enumeration_gives():
    cells = list(TINY.items())
    values, chances = {"EOM": [], "PQD": []}, []
    for right in product(*(range(n + 1) for _, n in cells)):
        chance = np.prod([comb(n, k) * RATE**k * (1 - RATE) ** (n - k) for (_, n), k in zip(cells, right, strict=True)])
        recall = {cell: k / n for (cell, n), k in zip(cells, right, strict=True)}
        ratios = []
        for label in (False, True):
            rates = [recall[tone, label] for tone in ("light", "medium", "dark")]
            ratios.append(min(rates) / max(max(rates), 1e-9))
        counts = dict(zip(TINY, right, strict=True))
        accuracy = [
            (counts[tone, False] + counts[tone, True]) / (TINY[tone, False] + TINY[tone, True])
            for tone in ("light", "medium", "dark")
        ]
        values["EOM"].append(np.mean(ratios))
        values["PQD"].append(min(accuracy) / max(max(accuracy), 1e-9))
        chances.append(chance)
    found = least_gaps(TINY)
    for name, shown in values.items():
        order = np.argsort(shown)
        below = np.cumsum(np.array(chances)[order])
        expected = 1 - np.array(shown)[order][np.searchsorted(below, 0.05)]
        assert found[name] == pytest.approx(expected, abs=0.06), name


def test_one_line_names_the_smallest_cell_and_the_split_that_sees_least():
    line = power_note({"main": PAPER, "large": {cell: 75 for cell in PAPER}})
    assert line.startswith("Split main (the least of 2 splits): 5 malignant dark test photos: EOM gaps below 33 points")
    assert "\n" not in line and power_note({"large": {cell: 75 for cell in PAPER}}).count("split") == 0
    gaps = [least_gaps({cell: n * k for cell, n in PAPER.items()})["EOM"] for k in (1, 4, 16)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert power_note({"main": PAPER | {("dark", True): 0}}) is None and power_note({}) is None


def test_photos_of_unknown_tone_or_class_are_not_counted_among_the_tones():
    rows = [("a", "dark", True), ("b", "dark", True), ("c", "dark", None), ("d", None, True), ("e", "light", False)]
    photos = [SimpleNamespace(image_id=i, skin_tone=t, malignant=m) for i, t, m in rows]
    counts = count_photos(photos, dict.fromkeys("abcd", "test") | {"e": "train"})
    assert counts["dark", True] == 2 and ("light", False) not in counts and least_gaps(counts) is None
