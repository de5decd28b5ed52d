"""Small tables and photos to ingest."""

import csv

import numpy as np
from cgddi.core.images import encode_png


def picture(seed, shape=(24, 32)):
    """Block noise: no two seeds look alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (shape[0] // 4, shape[1] // 4, 3))
    return small.repeat(4, 0).repeat(4, 1).astype(np.uint8)


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture(seed)))


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def rows_of(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def small_ddi(folder, count=3, start=1, **changes):
    """A DDI table of a few rows, with photos; `changes` go into the last row."""
    rows = []
    for i in range(start, start + count):
        save(folder / "images" / f"{i:06d}.png", i)
        row = {"": i, "DDI_ID": i, "DDI_file": f"{i:06d}.png", "skin_tone": 34, "malignant": False, "disease": "wart"}
        rows.append(row)
    rows[-1] |= changes
    write(folder / "ddi.csv", rows)
    return ["ddi", "--metadata", "ddi.csv", "--images", "images", "--output", "images.csv", "--threads", "1"]
