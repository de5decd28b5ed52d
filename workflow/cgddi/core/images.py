"""Photos and five-class masks: class ids and tones, photos read, PNG written, and the way to working size and back."""

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from cgddi.core.errors import UserError

CLASSES = {"background": 0, "lesion": 1, "marker": 2, "ruler": 3, "skin": 4}
"""Classes of a five-class mask and their ids, as in the sDDI masks of FEDD."""

BACKGROUND, LESION, MARKER, RULER, SKIN = CLASSES.values()

CLASS_COLOURS = {
    BACKGROUND: (0, 0, 0),
    LESION: (220, 40, 40),
    MARKER: (40, 80, 255),
    RULER: (255, 210, 0),
    SKIN: (60, 190, 90),
}
"""Class id -> colour (RGB), where a mask is drawn or exported."""

TONE_CODES = {"light": "12", "medium": "34", "dark": "56"}
"""Skin-tone groups and DDI's names of them: Fitzpatrick I-II, III-IV and V-VI."""

TONES = tuple(TONE_CODES)

UNKNOWN = "unknown"
"""In the place of a tone: nobody knows it. Such a photo may be a donor or a canvas, and stands in no index and no figure."""

ASPECT_TOLERANCE = 0.03
"""A mask belongs to a photo when their aspect ratios differ by no more than this share."""

_EXIF_ORIENTATION = 0x0112
BROKEN = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises of files that are no pictures."""


def read_photo(path: str | Path) -> tuple[Image.Image, list[str]]:
    """A photo as upright 8-bit sRGB: EXIF rotation and colour profile applied, alpha on white, greyscale and CMYK converted, and
    values of more than 8 bits scaled by the file's own range (`to_rgb`).

    Returns:
        The photo, and notes on what had to be converted (`converted_from_<mode>`, `converted_from_profile`, `exif_rotated`).

    Raises:
        UserError: missing, not an image (HEIC is named), cut short, of values that are no picture, or so large that it looks like
            a decompression bomb.
    """
    notes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as photo:
                if photo.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1):
                    notes.append("exif_rotated")
                if photo.mode != "RGB":
                    notes.append("converted_from_" + photo.mode.replace(";", "_"))
                upright = ImageOps.exif_transpose(photo)
                converted = _to_srgb(upright)
                if converted is not None:
                    notes.append("converted_from_profile")
                return to_rgb(upright if converted is None else converted), notes
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Fix the path in the image sheet.") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {error}. Save the photo smaller.") from error
    except BROKEN as error:
        if isinstance(path, str | Path) and _is_heic(path):
            raise UserError(f"{path}: is a HEIC photo, which is not read. {HEIC_REMEDY}") from error
        raise UserError(f"{path}: cannot be read as an image ({error}). Replace the file or remove its row.") from error


HEIC_REMEDY = (
    "Convert it to JPEG or PNG: `sips -s format jpeg *.HEIC --out .` on a Mac, `magick mogrify -format jpg *.HEIC` elsewhere; "
    "phones save JPEG where the camera's format is 'most compatible'."
)


def _is_heic(path: str | Path) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] == b"ftyp" and head[8:12] in b"heic heix hevc hevx heim heis mif1 msf1".split()


_TURNS = {
    2: "mirrored left to right",
    3: "by 180 degrees",
    4: "mirrored top to bottom",
    5: "with rows and columns exchanged",
    6: "by 90 degrees clockwise",
    7: "with rows and columns exchanged and by 180 degrees",
    8: "by 90 degrees counterclockwise",
}


def exif_turn(path: str | Path) -> str | None:
    """How a photo's EXIF entry turns its stored pixels upright, in words; None where it does not."""
    try:
        with Image.open(path) as photo:
            return _TURNS.get(photo.getexif().get(_EXIF_ORIENTATION, 1))
    except BROKEN:
        return None


def _to_srgb(photo: Image.Image) -> Image.Image | None:
    """A photo with a colour profile other than sRGB (Display P3 of phones, Adobe RGB, CMYK of print), in sRGB; else None.

    Conversion is perceptual, by LittleCMS; a profile that cannot be read counts as none. What a profile is, its colours tell and
    not its name: Android's P3 is called "Display P3 Gamut with sRGB Transfer".
    """
    data = photo.info.get("icc_profile")
    mode = {"P": "RGB", "PA": "RGB", "LA": "L"}.get(photo.mode, photo.mode)
    if not data or mode not in ("RGB", "RGBA", "CMYK", "L"):
        return None
    if mode != photo.mode:
        photo = to_rgb(photo).convert(mode)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        way = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), mode, "RGBA" if mode == "RGBA" else "RGB"
        )
        probe = _PROBE.convert(mode)
        moved = np.subtract(ImageCms.applyTransform(probe, way).convert("RGB"), probe.convert("RGB"), dtype=np.int16)
        if mode != "CMYK" and np.abs(moved).max() <= ROUNDED:
            return None
        return ImageCms.applyTransform(photo, way)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


ROUNDED = 3
"""Levels (of 255) by which a profile of sRGB may move a colour, for its curve is tabulated."""
_PROBE = Image.fromarray(np.stack(np.meshgrid(*3 * [np.arange(0, 256, 51, dtype=np.uint8)]), -1).reshape(6, 36, 3))
"""Colours that tell one profile from another."""


def to_rgb(photo: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB (see `read_photo`).

    Whole numbers are of 8, 10, 12, 14 or 16 bits: of the fewest that hold the largest value, so that 12 bits in a 16-bit file do
    not decode to black. Fractions reach to 1, 255 or 65535, whichever holds the largest.

    Raises:
        ValueError: values below 0, or that are no numbers.
    """
    if photo.mode.startswith("I") or photo.mode == "F":
        values = np.asarray(photo, dtype=np.float64)
        if not np.isfinite(values).all() or values.min() < 0:
            raise ValueError("its values are below 0 or no numbers, so black and white are not known")
        tops = (1.0, 255.0, 65535.0) if photo.mode == "F" else tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))
        top = next((top for top in tops if values.max() <= top), values.max())
        return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if photo.mode in ("RGBA", "LA", "PA") or "transparency" in photo.info:
        photo = photo.convert("RGBA")
        white = Image.new("RGBA", photo.size, "white")
        return Image.alpha_composite(white, photo).convert("RGB")
    return photo.convert("RGB")


LEAST_SIDE = 16
"""Pixels below which a photo shows nothing."""
WIDEST = 3.0
"""Long side over short side above which a picture is a panorama: squeezed to a square, its lesion is no shape any more."""
BLACK = 24
"""Grey value (0 to 255) that the lightest hundredth of a photo passes, unless it came out black."""
FLAT = 1.5
"""Standard deviation of grey values that every photo passes, also of plain skin: sensors and JPEG see to that."""


def photo_fault(photo: Image.Image) -> tuple[str, str] | None:
    """What keeps a photo from being used, with the remedy: tiny, a panorama, black or nearly so, of one colour; None where nothing.

    Args:
        photo: RGB, upright.
    """
    width, height = photo.size
    short, long = sorted(photo.size)
    if short < LEAST_SIDE:
        return f"is only {width} x {height} pixels", "Replace the file or remove its row."
    if long > WIDEST * short:
        return (
            f"is a panorama of {width} x {height} pixels, which would be squeezed to a square",
            "Crop it around the lesion, or remove its row.",
        )
    grey = np.asarray(photo.convert("L").reduce(max(1, short // 128)), np.float64)
    if np.quantile(grey, 0.99) < BLACK:
        return (
            "is black or nearly so",
            "Where it looks right elsewhere, save it as 8-bit PNG or JPEG (it may hold 12 bits of 16); else remove its row.",
        )
    if grey.std() < FLAT:
        return "shows one colour only", "Replace the file or remove its row."
    return None


def centre_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Box (left, upper, right, lower) of the central square."""
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def cropped(photo: Image.Image, crop: str) -> Image.Image:
    """The part of a photo that the working size shows: all of it ("resize") or its central square ("square")."""
    return photo.crop(centre_square(*photo.size)) if crop == "square" else photo


def photo_to_size(photo: Image.Image, size: int, crop: str) -> np.ndarray:
    """A photo as (size, size, 3) uint8, by Lanczos resampling of the whole ("resize") or its central square ("square").

    A deviation: the published classifiers resize the original photos bilinearly (antialiased, as Pillow and torchvision do).
    """
    box = centre_square(*photo.size) if crop == "square" else None
    return np.asarray(photo.resize((size, size), Image.Resampling.LANCZOS, box=box))


def same_shape(photo: tuple[int, int], mask: tuple[int, int]) -> bool:
    """Whether a mask of (width, height) has the photo's aspect ratio, within 3%."""
    return abs(photo[0] * mask[1] / (photo[1] * mask[0]) - 1) <= ASPECT_TOLERANCE


def mask_to_size(mask: np.ndarray, photo: tuple[int, int], size: int, crop: str) -> np.ndarray | None:
    """A mask as (size, size) uint8 by nearest-neighbour sampling, or None when it cannot belong to the photo.

    Args:
        mask: (H, W) class ids; a square one covers what `crop` says, one of the photo's shape covers the photo.
        photo: (width, height) of the upright photo.
    """
    height, width = mask.shape
    picture = Image.fromarray(mask)
    if width != height:
        if not same_shape(photo, (width, height)):
            return None
        if crop == "square":
            picture = picture.crop(centre_square(width, height))
    return np.asarray(picture.resize((size, size), Image.Resampling.NEAREST))


def to_photo(mask: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
    """A mask at working size, brought back onto its photo by nearest-neighbour sampling: the inverse of `mask_to_size`.

    Args:
        mask: (size, size) class ids.
        row: the manifest row, with `width`, `height` and `crop`.

    Returns:
        (height, width) uint8; what a square crop cut away is background. `mask_to_size` gives the mask back exactly where the
        photo is nowhere smaller than the working size.
    """
    width, height = row["width"], row["height"]
    if row["crop"] == "resize":
        return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    left, upper, right, lower = centre_square(width, height)
    whole = np.full((height, width), BACKGROUND, np.uint8)
    whole[upper:lower, left:right] = np.asarray(
        Image.fromarray(mask).resize((right - left, lower - upper), Image.Resampling.NEAREST)
    )
    return whole


def shown_side(row: Mapping[str, Any]) -> float | None:
    """Side in px of the photo's file that a square picture of working size shows; the geometric mean where it was squeezed.

    Args:
        row: the photo's manifest row, with `width`, `height` and `crop`; without them the side is not known.
    """
    if "width" not in row:
        return None
    width, height = row["width"], row["height"]
    return float(min(width, height)) if row["crop"] == "square" else (width * height) ** 0.5


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of an (H, W, 3) RGB or (H, W) grey uint8 array: one fixed filter and run-length deflate; lossless.

    On a 256 px photo it takes about a fifth of Pillow's fastest setting and writes no more bytes than zlib's level 6 (photographs
    hold noise, in which the search for repeats that costs zlib its time finds nothing). Masks shrink to some hundred bytes.
    """
    height, width = array.shape[:2]
    pixels = np.ascontiguousarray(array, dtype=np.uint8).reshape(height, -1)
    lines = np.empty((height, pixels.shape[1] + 1), np.uint8)
    lines[:, 0] = 2  # filter type "up" of the PNG specification (section 9.2): each byte less the byte above it
    lines[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=lines[1:, 1:])
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    data = deflate.compress(lines) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if array.ndim == 3 else 0, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(part, zlib.crc32(kind)))
        for kind, part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def decode_png(data: bytes, size: int | None = None) -> np.ndarray:
    """Pixels of PNG bytes: uint8, (H, W, 3) for RGB, (H, W) for a mask; writable.

    Args:
        size: side in px of the square that it is resampled to (Lanczos; one channel: nearest neighbour); None: as it is.
    """
    with Image.open(io.BytesIO(data)) as picture:
        if size is not None and picture.size != (size, size):
            method = Image.Resampling.NEAREST if picture.mode == "L" else Image.Resampling.LANCZOS
            return np.array(picture.resize((size, size), method))
        return np.array(picture)
