"""Reading one photo and one human mask as they come from a clinic, with notes on what had to be converted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cgddi.core.errors import UserError
from cgddi.core.images import open_photo

EXIF_ORIENTATION = 0x0112


def read_photo(path: str | Path) -> tuple[Image.Image, list[str]]:
    """A photo as upright 8-bit RGB, and notes on the conversion (`converted_from_<mode>`, `exif_rotated`).

    Raises:
        UserError: missing, unreadable, cut short, or so large that it looks like a decompression bomb.
    """
    notes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as header:
                if header.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1):
                    notes.append("exif_rotated")
                if header.mode != "RGB":
                    notes.append("converted_from_" + header.mode.replace(";", "_"))
            return open_photo(path), notes
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {error}. Save the photo smaller.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return open_photo(path), notes  # says what is wrong with the file


def read_mask(path: str | Path, id_map: Mapping[str, int] | None = None) -> np.ndarray:
    """A human mask as an (H, W) uint8 array of class ids 0 to 4.

    Args:
        path: a 2-D integer `.npy` (as sDDI publishes them) or a png: class ids, a palette, colours or one class.
        id_map: value in the file -> class id; keys are numbers (grey values, palette indices) or `#rrggbb` colours.
            None: the file holds class ids.

    Raises:
        UserError: unreadable, of another format, not 2-D, or with values that are no class.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such mask file. Mend the path in the image sheet, or leave the cell empty.")
    if path.suffix.lower() == ".npy":
        values = _read_npy(path)
    elif path.suffix.lower() in (".png", ".bmp", ".gif", ".tif", ".tiff"):
        values = _read_picture(path, id_map)
    else:
        raise UserError(
            f"{path}: a mask is a .npy array or a png, not {path.suffix or 'a file without an ending'}. Save the array with "
            "numpy.save, or as a png without loss."
        )
    return _to_classes(path, values, id_map)


def _read_npy(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as a .npy array ({error}). Save it again with numpy.save.") from error
    if not isinstance(values, np.ndarray):
        values.close()
        raise UserError(f"{path}: is a .npz archive under another name. Save the one array with numpy.save.")
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "iub":
        raise UserError(
            f"{path}: a mask is a 2-D array of whole numbers, this one is {values.dtype} of shape {values.shape}. "
            "Save class ids of shape (height, width)."
        )
    return values.astype(np.int64)


def _read_picture(path: Path, id_map: Mapping[str, int] | None) -> np.ndarray:
    """Grey values or palette indices (H, W); colours become 0xRRGGBB numbers when the id map names colours."""
    try:
        with Image.open(path) as picture:
            colours = id_map is not None and any(key.startswith("#") for key in id_map)
            if colours:
                rgb = np.asarray(picture.convert("RGB"), dtype=np.int64)
                return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
            if picture.mode in ("1", "L", "P") or picture.mode.startswith("I"):
                return np.asarray(picture).astype(np.int64)
            rgb = np.asarray(picture.convert("RGB"), dtype=np.int64)
            if (rgb == rgb[..., :1]).all():
                return rgb[..., 0]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as a mask ({error}). Replace the file or clear its cell.") from error
    raise UserError(
        f'{path}: is a colour picture. Name its colours in masks.id_map, e.g. {{"#ff0000": 1, "#ffcc99": 4}}.'
    )


def _to_classes(path: Path, values: np.ndarray, id_map: Mapping[str, int] | None) -> np.ndarray:
    known = {number: number for number in range(5)}
    if id_map is not None:
        known = {int(key[1:], 16) if key.startswith("#") else int(key): class_id for key, class_id in id_map.items()}
    found, where = np.unique(values, return_inverse=True)
    strangers = [int(value) for value in found if int(value) not in known]
    if strangers:
        raise UserError(
            f"{path}: holds values that are no class ({', '.join(map(str, strangers[:8]))}). Class ids are 0 background, "
            "1 lesion, 2 marker, 3 ruler, 4 skin; give other values a class in masks.id_map."
        )
    classes = np.array([known[int(value)] for value in found], dtype=np.uint8)
    return classes[where].reshape(values.shape)
