"""A made-up lab's folder: photos with a lesion, masks, and a table as typed."""

import os

import numpy as np
from cgddi.cli import main
from PIL import Image, ImageDraw

from tests.ingest.tables import picture, write

SIDE = (96, 72)


def photo(seed, size=SIDE, where=(30, 24)):
    """Block noise as skin, with a dark lesion of 24 px off the middle."""
    image = Image.fromarray(picture(seed, (size[1], size[0]))).point(lambda v: 150 + v // 4)
    ImageDraw.Draw(image).ellipse([*where, where[0] + 24, where[1] + 24], fill=(70, 30, 20))
    return image


def lesion(size=SIDE, where=(30, 24), skin=0, spot=255):
    mask = Image.new("L", size, skin)
    ImageDraw.Draw(mask).ellipse([*where, where[0] + 24, where[1] + 24], fill=spot)
    return mask


def lab(folder, count=6, **changes):
    """A lab's folder: photos, and a table with tones as typed; arguments of `cgddi ingest`."""
    os.makedirs(folder / "photos", exist_ok=True)
    tones = ["I", "ii", "3.0", "IV", "V-VI", ""]
    rows = []
    for i in range(count):
        photo(i).save(folder / f"photos/IMG_{i}.jpg", quality=95)
        row = {"file": f"IMG_{i}.jpg", "disease": "nevus", "skin_tone": tones[i % 6], "malignant": "no"}
        rows.append(row | {key: values[i] for key, values in changes.items()})
    write(folder / "lab.csv", rows)
    args = ["ingest", "folder", "--table", "lab.csv", "--images", "photos", "--output", "images.csv", "--threads", "1"]
    return [*args, "--write-diseases", "diseases.csv"]


def save_mask(mask, path):
    os.makedirs(path.parent, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.asarray(mask))
    else:
        mask.save(path)


def check(*options):
    return main(["check", "--images", "images.csv", "--diseases", "diseases.csv", "--threads", "1", *options])
