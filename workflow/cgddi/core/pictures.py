"""Pictures beside a page, as WebP files named by their content, so that a page stays small and opens offline; and masks and their
uncertainty drawn over a photo, for a person to judge."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgddi.core.archive import sha256, write_atomic
from cgddi.core.images import BACKGROUND, CLASS_COLOURS

LARGEST, QUALITY = 512, 82
"""Longer side in px of photographs beside a page, and their WebP quality."""


@dataclass(frozen=True)
class Picture:
    """A picture as a page shows it.

    Args:
        source: its file, relative to the page.
        width, height: of the file, in px.
        facts: what is known of it by name, shown beside it when it is opened large.
    """

    source: str
    width: int
    height: int
    caption: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class PictureFolder:
    """The folder `pictures` beside a page. A picture that lies there already is not written again."""

    def __init__(self, page: str | Path):
        self.page = Path(page)
        self.folder = self.page.parent / "pictures"
        self.named: set[str] = set()

    def add(
        self,
        data: bytes | str | Path | Callable[[], Image.Image],
        caption: str = "",
        facts: dict[str, Any] | None = None,
        side: int | None = LARGEST,
        square: bool = False,
        key: str = "",
    ) -> Picture:
        """Write a picture and name it.

        Args:
            data: an image file's bytes, or its path; or a function that draws it, called only if it does not lie there.
            side: longer side in px that it is shrunk to; None: drawn pictures (plots), which are kept without loss.
            square: resampled to side x side, also where it is smaller.
            key: what a drawn picture is made from, in the place of its bytes.
        """
        if not callable(data):
            data = data if isinstance(data, bytes) else Path(data).read_bytes()
        content = key.encode() if callable(data) else data
        name = f"{sha256(content + f'{side} {square} {QUALITY}'.encode())[:16]}.webp"
        file = self.folder / name
        self.named.add(name)
        if file.is_file():
            with Image.open(file) as known:
                return Picture(f"pictures/{name}", *known.size, caption, facts or {})
        with data() if callable(data) else Image.open(io.BytesIO(data)) as image:
            picture = image.convert("RGB")
        if square:
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        elif side is not None:
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", lossless=side is None, quality=QUALITY, method=4)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, buffer.getvalue())
        return Picture(f"pictures/{name}", *picture.size, caption, facts or {})

    def sweep(self) -> None:
        """Delete what an earlier page showed and this one does not."""
        for file in self.folder.glob("*.webp"):
            if file.name not in self.named:
                file.unlink()


def overlay(photo: np.ndarray, mask: np.ndarray, fill: float = 0.22) -> np.ndarray:
    """The photo with every class but the background tinted, and outlined where it meets another.

    Args:
        photo: (H, W, 3) uint8.
        mask: (H, W) uint8 class ids.
        fill: weight of the tint, 0 to 1.

    Returns:
        (H, W, 3) uint8.
    """
    palette = np.array(list(CLASS_COLOURS.values()), float)
    weights = np.full(len(palette), fill)
    weights[BACKGROUND] = 0
    weight = np.where(_outline(mask) & (weights[mask] > 0), 1.0, weights[mask])[..., None]
    return np.rint(photo * (1 - weight) + palette[mask] * weight).astype(np.uint8)


def heat(photo: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """The photo in grey, with magenta where the mask is uncertain.

    Args:
        photo: (H, W, 3) uint8.
        uncertainty: (H, W) uint8, 255 the least certain.
    """
    grey = np.repeat(photo.mean(-1, keepdims=True) * 0.7, 3, -1)
    weight = uncertainty[..., None] / 255
    return np.rint(grey * (1 - weight) + np.array([255, 0, 200]) * weight).astype(np.uint8)


def _outline(mask: np.ndarray) -> np.ndarray:
    edge = np.zeros(mask.shape, bool)
    edge[1:] |= mask[1:] != mask[:-1]
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    return edge
