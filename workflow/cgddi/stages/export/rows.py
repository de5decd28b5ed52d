"""What the data set says of each image: the rows of an index, with what their archives' manifests add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cgddi.core.archive import Archive, canonical, read_member, sha256
from cgddi.core.errors import UserError
from cgddi.core.images import TONES

if TYPE_CHECKING:
    import pandas as pd

FIELDS = {
    "id": ("string", "unique over all configs"),
    "image": ("image", "PNG"),
    "mask": (
        "image",
        "PNG of one channel: 0 background, 1 lesion, 2 marker, 3 ruler, 4 skin; null for samples, and photos that have none",
    ),
    "kind": (
        "string",
        "real, healthy (lesion painted over), lesion_mapped (a donor's lesion on a canvas) or semantic (drawn by an adapter)",
    ),
    "disease": ("string", "name of the disease; `healthy` where none is shown"),
    "concept": ("string", "the disease's name in files: lowercase, joined by hyphens"),
    "tone": ("string", f"skin tone: {', '.join(TONES)}"),
    "malignant": ("bool", "true or false; null where it is not known, and for healthy skin"),
    "donor": ("string", "photo whose lesion was transplanted"),
    "canvas": ("string", "photo whose healthy skin lies below"),
    "cohort": ("string", "the set of photos it belongs to, or whose canvas it was made on"),
    "generator": ("string", "scope and concept of the adapter that drew it"),
    "prompt": ("string", "text it was drawn by"),
    "seed": ("int64", "seed of its noise, or of its place on the canvas"),
    "scores": (
        "string",
        "JSON: what checked it (of samples presence, likeness, strangeness and tone angle; of healthy skin the triage; of "
        "transplants place, scale, rotation and light)",
    ),
    "sha256": ("string", "of the PNG"),
}
"""Column -> type, in the hub's words, and meaning; every value but id, image, kind, disease, concept, cohort and sha256 may be
null."""
COLUMNS = {name: kind for name, (kind, _) in FIELDS.items()}
MEANING = {name: meaning for name, (_, meaning) in FIELDS.items()}
PLACED = ("place", "scale", "rotation", "light", "lesion_pixels", "avoided", "left_behind", "halo")
"""What the manifest of a composite says of how it was made."""
IMAGES = [name for name, kind in COLUMNS.items() if kind == "image"]


@dataclass(frozen=True)
class ExportedImage:
    """One image: its facts (every column but the images; None where there is none) and where its bytes lie."""

    facts: Mapping[str, Any]
    archive: str
    png: tuple[int, int]
    mask_png: tuple[int, int] | None

    def bytes(self) -> dict[str, bytes | None]:
        """Image and mask, as PNG.

        Raises:
            UserError: the image is not what the index says.
        """
        png = read_member(self.archive, *self.png)
        if sha256(png) != self.facts["sha256"]:
            raise UserError(
                f"{self.archive}: image {self.facts['id']} does not match the index (sha256). Delete the archive and run again."
            )
        return {"image": png, "mask": read_member(self.archive, *self.mask_png) if self.mask_png else None}


def exported(index: pd.DataFrame, names: Mapping[str, str]) -> Iterator[tuple[str, str, list[ExportedImage]]]:
    """Kind, role and images, in an order that ids draw: shards then hold all diseases, and equal indexes give equal shards.

    Args:
        names: concept -> name of the disease.
    """
    manifest = lru_cache(maxsize=None)(_manifest)
    for (kind, role), rows in index.groupby(["kind", "role"], sort=True):
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
        images = [_image(row, manifest(row["archive"]).get(row["start"], {}), names) for row in rows]
        yield str(kind), str(role), sorted(images, key=lambda image: sha256(image.facts["id"]))


def _image(row: Mapping[str, Any], more: Mapping[str, Any], names: Mapping[str, str]) -> ExportedImage:
    facts = {name: row.get(name, more.get(name)) for name in COLUMNS if name not in IMAGES}
    scores = more.get("scores") or more.get("triage") or {name: more[name] for name in PLACED if name in more}
    facts |= {
        "disease": "healthy" if row["kind"] == "healthy" else names.get(row["concept"], row["concept"]),
        "malignant": None if row["malignant"] is None else bool(row["malignant"]),
        "scores": canonical(scores) if scores else None,
    }
    mask = more.get("mask")
    return ExportedImage(facts, row["archive"], (row["start"], row["size"]), tuple(mask) if mask else None)


def _manifest(path: str) -> dict[int, dict[str, Any]]:
    """Place of an image in an archive -> what its manifest says of it, as far as it is exported."""
    kept = ("prompt", "seed", "scores", "triage", *PLACED)
    return {
        row["members"]["png"][0]: {name: row[name] for name in kept if name in row}
        | {"mask": row["members"].get("mask.png")}
        for row in Archive(path).rows
    }


def counted(images: Sequence[ExportedImage]) -> dict[tuple[str, str], int]:
    """(disease, tone) -> images."""
    counts: dict[tuple[str, str], int] = {}
    for image in images:
        place = image.facts["disease"], image.facts["tone"] or "unknown"
        counts[place] = counts.get(place, 0) + 1
    return counts
