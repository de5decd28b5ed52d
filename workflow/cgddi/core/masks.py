"""Human mask files: `.npy` arrays and pictures, as class ids or as the values that they hold."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cgddi.core.errors import UserError
from cgddi.core.images import BROKEN, CLASSES

SUFFIXES = (".npy", ".png", ".bmp", ".tif", ".tiff", ".gif", ".jpg", ".jpeg")
"""Endings of mask files, the better ones first: JPEG keeps no more than two classes apart."""
GREY = (64, 192)
"""Grey values of a JPEG mask from and below which a pixel is neither black nor white, whatever compression did to it."""
GREY_SHARE = 0.0002
"""Share of a JPEG mask's pixels that may lie amid grey ones (see `_black_or_white`). Of masks in black and white with smooth to
ragged borders, 64 to 1500 px, at qualities 5 to 95 and smoothly scaled by a third to three it is 0.00002 at most; all grey pixels
together, which grow with the border, are up to 0.16."""
COLOURED = 32
"""Difference of a pixel's channels from which on it is coloured, as JPEG keeps colours."""


def read_mask(path: str | Path, id_map: Mapping[str, int] | None = None) -> np.ndarray:
    """A human mask as an (H, W) uint8 array of class ids 0 to 4.

    Args:
        path: a 2-D `.npy` of whole numbers (as sDDI publishes them) or a picture: class ids, a palette, colours or one class; of
            a JPEG black and white alone (see `_black_or_white`).
        id_map: value in the file -> class id; keys are numbers (grey values, palette indices) or `#rrggbb` colours.
            None: the file holds class ids.

    Raises:
        UserError: unreadable, of another format, not 2-D, or with values that are no class.
    """
    path = _mask_file(path)
    values = _read_npy(path) if path.suffix.lower() == ".npy" else _read_picture(path, id_map)
    return _to_classes(path, values, id_map)


def _mask_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such mask file. Fix the path in the image sheet, or leave the cell empty.")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: a mask is a .npy array or a png, not {path.suffix or 'a file without an ending'}. Save the array with "
            "numpy.save, or as a png without loss."
        )
    return path


def mask_values(path: str | Path) -> tuple[np.ndarray, bool, dict[str, str]]:
    """What is in a mask file, whatever it means.

    Returns:
        Values (H, W), whether they are colours (0xRRGGBB), and palette index -> `#rrggbb`.

    Raises:
        UserError: as `read_mask`.
    """
    path = _mask_file(path)
    if path.suffix.lower() == ".npy":
        return _read_npy(path), False, {}
    palette: dict[str, str] = {}
    with Image.open(path) as picture:
        if picture.mode == "P":
            colours = picture.getpalette() or []
            palette = {str(k): f"#{bytes(colours[3 * k : 3 * k + 3]).hex()}" for k in range(len(colours) // 3)}
    try:
        return _read_picture(path, None), False, palette
    except UserError:
        return _read_picture(path, {"#000000": 0}), True, palette


def _read_npy(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as a .npy array ({error}). Save it again with numpy.save.") from error
    if not isinstance(values, np.ndarray):
        values.close()
        raise UserError(f"{path}: is a .npz archive under another name. Save the one array with numpy.save.")
    whole = values.dtype.kind in "iub" or (values.dtype.kind == "f" and bool((values == np.rint(values)).all()))
    if values.ndim != 2 or 0 in values.shape or not whole:
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
            if picture.format in ("JPEG", "MPO"):
                return _black_or_white(path, picture) * (0x010101 if colours else 1)
            if colours:
                rgb = np.asarray(picture.convert("RGB"), dtype=np.int64)
                return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
            if picture.mode in ("1", "L", "P") or picture.mode.startswith("I"):
                return np.asarray(picture).astype(np.int64)
            rgb = np.asarray(picture.convert("RGB"), dtype=np.int64)
            if (rgb == rgb[..., :1]).all():
                return rgb[..., 0]
    except BROKEN as error:
        raise UserError(f"{path}: cannot be read as a mask ({error}). Replace the file or clear its cell.") from error
    raise UserError(
        f'{path}: is a colour picture. Name its colours in masks.id_map, e.g. {{"#ff0000": 1, "#ffcc99": 4}}.'
    )


def _black_or_white(path: Path, picture: Image.Image) -> np.ndarray:
    """A JPEG mask, upright, as 0 and 255: cut at 128, where all that is neither black nor white is the border between them.

    Compression greys a border by a pixel or two, so a pixel of which all eight neighbours are grey too is another class, a smooth
    mask or a photo; numbers of classes (0 to 4) do not survive it at all.

    Raises:
        UserError: such pixels are common, or the picture is coloured or black but for small numbers.
    """
    rgb = np.asarray(ImageOps.exif_transpose(picture).convert("RGB")).astype(np.int16)
    values, remedy = rgb[..., 1], "Save it again as PNG from the program it was drawn in."
    if (np.ptp(rgb, axis=2) > COLOURED).mean() > GREY_SHARE:
        raise UserError(f"{path}: is a coloured JPEG, which keeps no two classes apart but black and white. {remedy}")
    grey = (values >= GREY[0]) & (values < GREY[1])
    around = np.lib.stride_tricks.sliding_window_view(np.pad(grey, 1, mode="edge"), (3, 3))
    if (amid := around.all((2, 3)).mean()) > GREY_SHARE:
        raise UserError(
            f"{path}: {grey.mean():.1%} of this JPEG mask are neither black nor white, and {amid:.1%} lie amid such pixels: a "
            f"third class, a smooth mask or a photo. {remedy}"
        )
    if 0 < values.max() < GREY[0]:
        raise UserError(
            f"{path}: its largest value is {values.max()}: numbers of classes do not survive JPEG. {remedy}"
        )
    return np.where(values < 128, 0, 255).astype(np.int64)


def _to_classes(path: Path, values: np.ndarray, id_map: Mapping[str, int] | None) -> np.ndarray:
    known = {number: number for number in CLASSES.values()}
    if id_map is not None:
        known = {int(key[1:], 16) if key.startswith("#") else int(key): class_id for key, class_id in id_map.items()}
    present, where = np.unique(values, return_inverse=True)
    strangers = [int(value) for value in present if int(value) not in known]
    if strangers:
        raise UserError(
            f"{path}: holds values that are no class ({', '.join(map(str, strangers[:8]))}). Class ids are "
            f"{', '.join(f'{number} {name}' for name, number in CLASSES.items())}; give other values a class in masks.id_map."
        )
    classes = np.array([known[int(value)] for value in present], dtype=np.uint8)
    return classes[where].reshape(values.shape)
