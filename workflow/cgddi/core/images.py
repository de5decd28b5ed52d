"""Photos and masks as arrays: decoding, encoding, tones and class ids shared by all stages."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cgddi.core.errors import UserError

BACKGROUND, LESION, MARKER, RULER, SKIN = range(5)
"""Class ids of a five-class mask, as in the sDDI masks of FEDD."""

TONES = ("light", "medium", "dark")
"""Skin-tone groups: Fitzpatrick I-II, III-IV and V-VI."""


def open_photo(path: str | Path) -> Image.Image:
    """A photo as upright 8-bit RGB: EXIF rotation applied, alpha on white, 16-bit scaled, greyscale and CMYK converted.

    Raises:
        UserError: the file is missing, not an image or cut short.
    """
    try:
        with Image.open(path) as photo:
            return to_rgb(ImageOps.exif_transpose(photo))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Mend the path in the image sheet.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error}). Replace the file or remove its row.") from error


def to_rgb(photo: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB (see `open_photo`)."""
    if photo.mode.startswith("I") or photo.mode == "F":
        values = np.asarray(photo, dtype=np.float64)
        top = 65535.0 if values.max() > 255 else 255.0
        return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if photo.mode in ("RGBA", "LA", "PA") or "transparency" in photo.info:
        photo = photo.convert("RGBA")
        white = Image.new("RGBA", photo.size, "white")
        return Image.alpha_composite(white, photo).convert("RGB")
    return photo.convert("RGB")


def encode_png(array: np.ndarray, compress_level: int = 1) -> bytes:
    """PNG bytes of an (H, W, 3) RGB or (H, W) single-channel uint8 array."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8)).save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Pixels of PNG bytes: uint8, (H, W, 3) for RGB, (H, W) for a mask."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)
