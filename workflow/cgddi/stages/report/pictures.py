"""Pictures of the report: contact sheets by concept and tone, and their embedding as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cgddi.core.archive import read_member
from cgddi.core.images import TONES
from cgddi.core.seeds import seed_for

KINDS = {
    "real": "real photos (training)",
    "semantic": "sampled by the adapter",
    "lesion_mapped": "transplanted lesions",
}
"""Kinds on a contact sheet, and what the page calls them."""


def data_uri(picture: np.ndarray | bytes | str | Path, width: int | None = None) -> str:
    """A picture as a PNG data URI.

    Args:
        picture: uint8 RGB (H, W, 3), PNG bytes, or a file.
        width: scale to this many pixels across, keeping the shape.
    """
    if isinstance(picture, str | Path):
        picture = Path(picture).read_bytes()
    if width is not None or isinstance(picture, np.ndarray):
        image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else Image.open(io.BytesIO(picture))
        if width is not None:
            image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        picture = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def draw_rows(table: pd.DataFrame, count: int, seed: int, *names: object) -> pd.DataFrame:
    """Up to `count` rows, drawn by name so that the page shows the same ones each time."""
    if len(table) <= count:
        return table
    order = np.random.default_rng(seed_for(seed, "report", *names)).permutation(len(table))[:count]
    return table.iloc[np.sort(order)]


def contact_sheet(
    index: pd.DataFrame, concept: str, per_cell: int, width: int, seed: int
) -> dict[str, dict[str, list[str]]]:
    """Pictures of one concept: kind -> tone -> data URIs.

    Args:
        index: one split's index.
        concept: slug.
        per_cell: pictures per kind and tone.
        width: their width in pixels.
        seed: the project's seed.
    """
    mine = index[(index["concept"] == concept) & (index["role"] == "train")]
    sheet = {}
    for kind in KINDS:
        cells = {}
        for tone in TONES:
            rows = draw_rows(mine[(mine["kind"] == kind) & (mine["tone"] == tone)], per_cell, seed, concept, kind, tone)
            cells[tone] = [data_uri(read_member(r.archive, r.start, r.size), width) for r in rows.itertuples()]
        sheet[kind] = cells
    return sheet
