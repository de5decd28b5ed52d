"""Write a toy world in DDI's format: ``cgddi toy-world --output DIR --preset demo|small --seed N``.

``DIR/ddi`` is an imbalanced set as a clinic would have it, ``DIR/test`` a balanced held-out one and ``DIR/extra``
one further disease.  Each holds ddi_metadata.csv, images/000001.png... and masks/000001.npy for most photos.
The same preset and seed give the same bytes.
"""

import csv
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.core.images import TONE_CODES, TONES
from cgddi.toy.diseases import BY_RAW, DISEASES, EXTRA
from cgddi.toy.scene import Photo, render_photo

MASKED_SHARE = 0.7
CLUTTER = {"marker": 0.12, "ruler": 0.2, "cloth": 0.15}
"""Chance of each kind of clutter in a photo, whatever the disease."""
COLUMNS = ("", "DDI_ID", "DDI_file", "skin_tone", "malignant", "disease")


@dataclass(frozen=True)
class Preset:
    """Photos of the training set by raw disease name (light, medium, dark), of a cell of the test set, of the extra disease."""

    counts: dict[str, tuple[int, int, int]]
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


@dataclass(frozen=True)
class Item:
    """One photo to render: its raw disease name, tone, and number among the photos of that name and tone."""

    disease: str
    tone: str
    number: int


def _name_seed(name: str) -> int:
    return zlib.crc32(name.encode())


def training_items(preset: Preset) -> list[Item]:
    """The photos of ``DIR/ddi``, by disease and tone."""
    return [
        Item(disease, tone, number)
        for disease, cells in preset.counts.items()
        for tone, count in zip(TONES, cells, strict=True)
        for number in range(count)
    ]


def test_items(preset: Preset) -> list[Item]:
    """The balanced test photos: each concept of the preset x each tone ``test_per_cell`` times, raw names in turn."""
    concepts: dict[str, list[str]] = {}
    for disease in DISEASES:
        if disease.raw in preset.counts:
            concepts.setdefault(disease.concept, []).append(disease.raw)
    return [
        Item(raws[number % len(raws)], tone, number)
        for raws in concepts.values()
        for tone in TONES
        for number in range(preset.test_per_cell)
    ]


def extra_items(preset: Preset) -> list[Item]:
    """The photos of the further disease."""
    return [
        Item(EXTRA.raw, tone, number)
        for tone, count in zip(TONES, preset.extra, strict=True)
        for number in range(count)
    ]


def render_item(item: Item, folder: str, seed: int) -> Photo:
    """Render one photo; it depends on the seed, the folder's name and the item alone, not on the others."""
    rng = np.random.default_rng(
        [seed, _name_seed(folder), _name_seed(item.disease), TONES.index(item.tone), item.number]
    )
    lesion = BY_RAW[item.disease].box.sample(rng)
    clutter = {kind: bool(rng.random() < share) for kind, share in CLUTTER.items()}
    return render_photo(rng, item.tone, lesion, **clutter)


def _masked(items: Sequence[Item], seed: int, folder: str) -> list[bool]:
    """Which photos get a mask: about ``MASKED_SHARE`` of them, the first of each disease always."""
    rng = np.random.default_rng([seed, _name_seed(folder), _name_seed("masked")])
    draws = rng.random(len(items)) < MASKED_SHARE
    seen: set[str] = set()
    chosen = []
    for item, drawn in zip(items, draws, strict=True):
        chosen.append(bool(drawn) or item.disease not in seen)
        seen.add(item.disease)
    return chosen


def _order(items: Sequence[Item], seed: int, folder: str) -> np.ndarray:
    """The position in ``items`` of each file number, shuffled so that file order tells nothing."""
    return np.random.default_rng([seed, _name_seed(folder), _name_seed("order")]).permutation(len(items))


def _refuse_stale(base: Path, items: Sequence[Item], seed: int) -> None:
    masked, order = _masked(items, seed, base.name), _order(items, seed, base.name)
    expected = {base / "images" / f"{row + 1:06d}.png" for row in range(len(items))}
    expected |= {base / "masks" / f"{row + 1:06d}.npy" for row, position in enumerate(order) if masked[position]}
    stale = sorted(path for path in base.glob("*/*") if path not in expected)
    if stale:
        raise UserError(
            f"{len(stale)} file(s) of another world are in the way, first {stale[0]}. Choose another --output, or remove {base}."
        )


def write_set(root: Path, folder: str, items: Sequence[Item], seed: int) -> None:
    """Render ``items`` into ``root/folder`` in DDI's format, in an order drawn from the seed."""
    base = root / folder
    (base / "images").mkdir(parents=True, exist_ok=True)
    (base / "masks").mkdir(exist_ok=True)
    order = _order(items, seed, folder)
    masked = _masked(items, seed, folder)
    rows = []
    for row, position in enumerate(order):
        item, stem = items[position], f"{row + 1:06d}"
        photo = render_item(item, folder, seed)
        Image.fromarray(photo.image).save(base / "images" / f"{stem}.png", optimize=False)
        if masked[position]:
            np.save(base / "masks" / f"{stem}.npy", photo.mask, allow_pickle=False)
        rows.append((row, row + 1, f"{stem}.png", TONE_CODES[item.tone], BY_RAW[item.disease].malignant, item.disease))
    with (base / "ddi_metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def write_world(root: Path, preset: Preset, seed: int) -> None:
    """Write the three sets of a preset under ``root``.

    Raises UserError, before anything is written, when a set's folder holds a photo or mask that this
    preset and seed would not write, so that no stale file stays among new ones.
    """
    sets = (("ddi", training_items(preset)), ("test", test_items(preset)), ("extra", extra_items(preset)))
    for folder, items in sets:
        _refuse_stale(root / folder, items, seed)
    for folder, items in sets:
        write_set(root, folder, items, seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of ``cgddi toy-world``; returns the exit status."""
    parser = command_parser("toy-world", __doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write (another world's is refused)")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="demo", help="demo: 196 photos of 10 diseases; small: 28 of 4"
    )
    parser.add_argument("--seed", type=int, default=0, help="a non-negative integer")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error("--seed must not be negative")
    write_world(args.output, PRESETS[args.preset], args.seed)
    return 0
