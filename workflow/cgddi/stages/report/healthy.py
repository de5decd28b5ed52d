"""The report's healthy skin: photos before and after, beside the classical baseline, both judged by the same triage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.archive import Archive
from cgddi.core.images import LESION, SKIN, TONES, decode_png
from cgddi.core.seeds import seed_for
from cgddi.core.triage import faults, scores_of
from cgddi.stages.canvases.settings import TriageSettings
from cgddi.stages.healthy.biharmonic import BiharmonicInpainter
from cgddi.stages.healthy.region import blend, match_border

SCORES = {
    "lesion_contrast": "former lesion against skin, delta E",
    "texture_ratio": "texture, share of the skin's",
    "ita_change": "change of ITA, degrees",
    "artefacts": "share of foreign colours",
    "border_step": "step at the border, delta E",
}
"""Triage scores that are compared, and what the page calls them."""


@dataclass(frozen=True)
class Example:
    """One photo, the run's inpainting of it and the classical one, (H, W, 3) uint8; the run's verdict, both results' scores."""

    method: str
    tone: str
    verdict: str
    before: np.ndarray
    after: np.ndarray
    baseline: np.ndarray
    scores: dict[str, Any]
    baseline_scores: dict[str, Any]


def draw_examples(archives: Sequence[str], count: int, seed: int, limits: TriageSettings) -> list[Example]:
    """Up to `count` photos of each tone, drawn by name, with the biharmonic baseline painted into the same regions.

    The baseline is judged as the run's own results are. The archive holds the mask of the result, where the lesion has become
    skin; for its scores the region's core (weight of one half and more) stands for the former lesion, for both methods.

    Args:
        archives: healthy archives.
        count: photos per tone.
        seed: the project's seed.
        limits: thresholds of the shown verdicts.
    """
    found = [(archive, row) for archive in map(Archive, archives) for row in archive.rows]
    examples = []
    for tone in TONES:
        mine = [(archive, row) for archive, row in found if row["tone"] == tone]
        mine.sort(key=lambda pair: seed_for(seed, "report", "healthy", pair[1]["id"]))
        examples += [_example(archive, row, limits) for archive, row in mine[:count]]
    return examples


def _example(archive: Archive, row: dict[str, Any], limits: TriageSettings) -> Example:
    before, after, region = (decode_png(archive.read(row, part)) for part in ("before.png", "png", "region.png"))
    mask = np.where(region >= 128, LESION, decode_png(archive.read(row, "mask.png")))
    skin = (mask == SKIN) & (region == 0)
    (painted,) = BiharmonicInpainter().inpaint([before], [region], [skin], [row["seed"]])
    baseline = blend(before, match_border(before, painted, region), region)
    scores = [scores_of(before, result, region, mask) for result in (after, baseline)]
    verdict = "discard" if faults(row["triage"], limits) else "keep"
    return Example(row["method"], row["tone"], verdict, before, after, baseline, *scores)


def compare(examples: Sequence[Example]) -> pd.DataFrame:
    """Median triage scores of the run's method and of the baseline, over the same photos."""
    methods = {"run: " + "/".join(sorted({e.method for e in examples})): [e.scores for e in examples]}
    methods["baseline: biharmonic"] = [e.baseline_scores for e in examples]
    rows = []
    for name, scores in methods.items():
        medians = {text: pd.Series([s[key] for s in scores], dtype=float).median() for key, text in SCORES.items()}
        rows.append({"method": name, "photos": len(scores), **medians})
    return pd.DataFrame(rows)
