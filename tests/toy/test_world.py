"""``cgddi toy-world``: DDI's format, determinism, imbalance, the balanced test set."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cgddi.core.errors import UserError
from cgddi.toy.diseases import ALL_DISEASES, BY_RAW, EXTRA
from cgddi.toy.world import DEMO, PRESETS, SMALL, main, training_items
from cgddi.toy.world import test_items as balanced_items
from PIL import Image

SHEET = Path(__file__).parents[2] / "config/toy/diseases.csv"


def _digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "ddi_metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    assert main(["--output", str(root), "--preset", "small", "--seed", "3"]) == 0
    return root


def test_same_seed_same_bytes(small, tmp_path):
    main(["--output", str(tmp_path / "again"), "--preset", "small", "--seed", "3"])
    main(["--output", str(tmp_path / "other"), "--preset", "small", "--seed", "4"])
    assert _digest(small) == _digest(tmp_path / "again")
    assert _digest(small) != _digest(tmp_path / "other")


@pytest.mark.parametrize("folder", ["ddi", "test", "extra"])
def test_files_are_in_ddi_format(small, folder):
    rows = _rows(small / folder)
    assert list(rows[0]) == ["", "DDI_ID", "DDI_file", "skin_tone", "malignant", "disease"]
    assert [row["DDI_ID"] for row in rows] == [str(number + 1) for number in range(len(rows))]
    assert {row["skin_tone"] for row in rows} <= {"12", "34", "56"}
    masked = Counter()
    for row in rows:
        assert row["malignant"] == str(BY_RAW[row["disease"]].malignant)
        with Image.open(small / folder / "images" / row["DDI_file"]) as image:
            assert (image.format, image.mode, image.size, image.info) == ("PNG", "RGB", (64, 64), {})
        path = small / folder / "masks" / row["DDI_file"].replace(".png", ".npy")
        if path.exists():
            mask = np.load(path, allow_pickle=False)
            assert mask.dtype == np.int32 and mask.shape == (64, 64)
            assert set(np.unique(mask)) <= {0, 1, 2, 3, 4} and (mask == 1).any()
            masked[row["disease"]] += 1
    assert set(masked) == {row["disease"] for row in rows}, "every disease has a masked photo"
    assert len(list((small / folder / "images").iterdir())) == len(rows)


def test_extra_disease_is_nowhere_else(small):
    assert {row["disease"] for row in _rows(small / "extra")} == {EXTRA.raw}
    assert EXTRA.raw not in {row["disease"] for folder in ("ddi", "test") for row in _rows(small / folder)}


def test_demo_is_imbalanced_like_ddi():
    by_concept = Counter(BY_RAW[item.disease].concept for item in training_items(DEMO))
    assert 180 <= by_concept.total() <= 220 and len(by_concept) == 10
    assert sum(count == 1 for count in by_concept.values()) in (2, 3)
    assert sum(count > 10 for count in by_concept.values()) in (3, 4)
    malignant = {raw: cells for raw, cells in DEMO.counts.items() if BY_RAW[raw].malignant}
    assert sum(dark for _, _, dark in malignant.values()) <= 4
    assert 0.2 < sum(map(sum, malignant.values())) / by_concept.total() < 0.35


@pytest.mark.parametrize(("preset", "photos"), [(DEMO, 450), (SMALL, 36)])
def test_test_set_is_balanced(preset, photos):
    items = balanced_items(preset)
    assert len(items) == photos
    cells = Counter((BY_RAW[item.disease].concept, item.tone) for item in items)
    assert set(cells.values()) == {preset.test_per_cell}
    assert sum(BY_RAW[item.disease].malignant for item in items) * 2 == photos


def test_training_and_test_photos_differ(small):
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in small.glob("*/images/*.png")]
    assert len(digests) == len(set(digests))


def test_stale_files_are_refused_and_kept(small):
    before = _digest(small)
    assert main(["--output", str(small), "--preset", "small", "--seed", "3"]) == 0, (
        "the same world may be written again"
    )
    with pytest.raises(UserError, match="another world"):
        main(["--output", str(small), "--preset", "small", "--seed", "9"])
    assert _digest(small) == before


def test_negative_seed_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path), "--seed", "-1"])


def test_disease_sheet_agrees_with_the_generator():
    with SHEET.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["raw"], row["concept"], row["slug"], row["token"]) for row in rows] == [
        (disease.raw, disease.concept, disease.slug, f"<{disease.slug}>") for disease in ALL_DISEASES
    ]
    assert len({row["concept"] for row in rows}) < len(rows), "one concept joins two raw names"
    assert set(PRESETS) == {"demo", "small"}
