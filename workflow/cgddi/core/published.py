"""What cgDDI published: every figure of its tables (published.csv), how each was made, and what is known to be wrong with it."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SEEDS = (4242, 123, 0, 52, 64)
"""Seeds of the five random splits (PatchAlign, FairDisCo)."""
BACKBONES = {"baseline": "resnet18", "fairdisco": "resnet18", "patchalign": "vit_base_patch16_224.augreg_in21k"}
"""Method -> the network behind its published rows."""
TEST_SHARES = {"ddi": 0.2, "f17k": 0.15}
"""Data set -> share of its photos in the published tests."""


@dataclass(frozen=True)
class Figure:
    """One published figure.

    Args:
        table: name of the table. train, test: data sets trained and tested on, or of donors and canvases of images.
        method: classifier; "" for images. regime: what it learnt from, or the kind of images. metric, group: as in metrics.csv.
        value: of shares in 0..1. std: standard deviation over splits, where it was published.
    """

    table: str
    train: str
    test: str
    method: str
    regime: str
    metric: str
    group: str
    value: float
    std: float | None

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it the same figure as one of ours: all but the table and the value."""
        return self.train, self.test, self.method, self.regime, self.metric, self.group


@dataclass(frozen=True)
class Table:
    """How a published table was made.

    Args:
        title: what it shows. splits: "five" (mean over five random splits), "one of five", "one" (a split of another seed and
            share), or "" where no split is behind it. notes: what a reader must know of it.
    """

    title: str
    splits: str
    notes: tuple[str, ...]


_CHOSEN = "The best epoch was chosen on the test images."
_LEAKS = (
    "Tokens and adapters learnt from the test images too. Left out were transplants of a test photo's lesion, and samples whose "
    "disease and canvas together are a test photo's; other images on a test photo's canvas stayed."
)
_STEPS = "Regimes were trained for unequal numbers of steps: an epoch of real photos is some 500 images, of synthetic ones 266,000."
_SMALL = "Each split tests 132 photos, 26 of them malignant, five of those on dark skin: one image moves EOM by about 5 points."

TABLES: dict[str, Table] = {
    "ddi": Table(
        "DDI: accuracy and fairness",
        "five",
        (
            "Only the row of the baseline is a ResNet-18 trained by cross-entropy. The synthetic rows are PatchAlign's ViT-B/16: "
            "compare them with PatchAlign on real photos.",
            _CHOSEN,
            _LEAKS,
            _STEPS,
            _SMALL,
        ),
    ),
    "sources": Table(
        "DDI: which synthetic images help",
        "five",
        (
            "The row of real photos is a ResNet-18, the others are PatchAlign's ViT-B/16: it differs from them in its network too.",
            "No standard deviation was published.",
            _CHOSEN,
            _LEAKS,
            _STEPS,
        ),
    ),
    "rarity": Table(
        "DDI: accuracy by rarity of the disease",
        "one of five",
        (
            "The figures are whole numbers of 107, 19 and 6 photos: one split, whose seed was not told.",
            "One very rare photo is 16.7 points, a rare one 5.3.",
            _CHOSEN,
            _LEAKS,
            _STEPS,
        ),
    ),
    "f17k": Table(
        "Fitzpatrick17k: trained and tested on its verified photos",
        "one",
        (
            "The figures are whole numbers of 43 test photos (15 light, 17 medium, 11 dark); 15 % of the 364 photos that the text "
            "names are 55.",
            "One split, whose seed was not told.",
            _CHOSEN,
            _STEPS,
        ),
    ),
    "cross": Table(
        "Across data sets: trained on one, tested on the other",
        "one",
        (
            "The figures are whole numbers of 113 DDI photos (28 light, 45 medium, 40 dark) and of 43 of Fitzpatrick17k (15, 17, "
            "11), fewer than 20 % and 15 % of the photos named in the text.",
            "One split, whose seed was not told.",
            _CHOSEN,
            _STEPS,
        ),
    ),
    "quality": Table(
        "DDI: synthetic images against held-out real photos, and how many there are",
        "",
        (
            "FID of some 130 photos is biased upwards, the more the fewer photos a tone has; KID is not.",
            "Adapters learnt from the photos that the images are compared with.",
            "Not told: which photos were held out, how many images were drawn of each kind, and the network behind LPIPS (ours: as "
            "the audit says).",
        ),
    ),
}
"""Published tables by name; FEDD's are in `cgddi.fedd.tables`."""


@cache
def figures() -> tuple[Figure, ...]:
    """All published figures, in the order of the tables."""
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return tuple(
        Figure(**{**row, "value": float(row["value"]), "std": float(row["std"]) if row["std"] else None})
        for row in rows
    )


def same_splits(splits: Mapping[str, Mapping[str, Any]], figure: Figure) -> bool:
    """Whether runs were made on splits like those of a published figure.

    Args:
        splits: name -> settings (`method`, `seed`, `test`) of each split that the runs are of.
    """
    kind, share = TABLES[figure.table].splits, TEST_SHARES[figure.test]
    seeds = {int(split.get("seed", -1)) for split in splits.values()}
    alike = all(split.get("method") == "published" and split.get("test") == share for split in splits.values())
    if not alike or not splits or len(seeds) != len(splits):
        return False
    if kind == "five":
        return seeds == set(SEEDS)
    return len(seeds) == 1 and (kind == "one" or seeds <= set(SEEDS))
