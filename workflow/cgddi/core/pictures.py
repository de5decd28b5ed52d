"""Pictures beside a page: WebP files named by their content, so that a page stays small and opens offline."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from cgddi.core.archive import sha256, write_atomic

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
            caption, facts: see `Picture`.
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
