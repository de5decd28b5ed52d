"""Draws docs/transplants.webp: `python -m tests.stages.lesion_mapped.sheet docs/transplants.webp`. Procedural pictures alone."""

from __future__ import annotations

import sys

import numpy as np
from cgddi.core.images import SKIN
from cgddi.stages.lesion_mapped.blend import Blender
from cgddi.stages.lesion_mapped.lesion import cut_out
from cgddi.stages.lesion_mapped.settings import LesionMappedSettings
from PIL import Image, ImageDraw, ImageFont

from tests.core.procedural import lesion, skin

SIDE, TOP, GAP = 320, 28, 6
PUBLISHED = {"lighting_match": False, "halo": False, "leave_behind": False}
WAYS = {"as published": PUBLISHED, "Poisson": PUBLISHED | {"blending": "poisson"}, "this workflow": {}}
DONORS = {"light": (1, 4, {"redness": 10, "ink": True}), "dark": (2, 4, {}), "medium": (3, 7, {"redness": 8})}
CANVASES = {"light": 11, "medium": 12, "dark": 13}


def sheet() -> Image.Image:
    """A row per donor and canvas: the donor, and its lesion on the canvas in each way."""
    pairs = [(source, target) for source in DONORS for target in CANVASES if source != target]
    columns = ["donor", *WAYS]
    size = len(columns) * (SIDE + GAP) - GAP, TOP + len(pairs) * (SIDE + GAP) - GAP
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for number, name in enumerate(columns):
        draw.text((number * (SIDE + GAP) + 4, 5), name, "black", font)
    for line, (source, target) in enumerate(pairs):
        seed, shape, options = DONORS[source]
        photo, mask, _ = lesion(skin(seed, tone=source), shape, **options)
        canvas = skin(CANVASES[target], tone=target)
        pictures = [photo, *(transplanted(photo, mask, canvas, way) for way in WAYS.values())]
        for number, picture in enumerate(pictures):
            small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            page.paste(small, (number * (SIDE + GAP), TOP + line * (SIDE + GAP)))
    return page


def transplanted(photo: np.ndarray, mask: np.ndarray, canvas: np.ndarray, way: dict) -> np.ndarray:
    """A donor's lesion in the middle of a canvas."""
    settings = LesionMappedSettings(image_size=512, padding=20, dilate=4, blur=4, **way)
    cutout = cut_out(photo, mask, settings)
    result, classes = canvas.copy(), np.full(canvas.shape[:2], SKIN, np.uint8)
    place = tuple((512 - side) // 2 + cutout.margin for side in cutout.shape.shape)
    Blender(cutout, settings.blending, settings.lighting_match).paste(result, classes, place)
    return result


if __name__ == "__main__":
    sheet().save(sys.argv[1], quality=82, method=6)
