"""Transplant one donor's lesion onto every canvas of a cohort, one canvas in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.errors import UserError
from cgddi.core.images import decode_png, encode_png, shown_side
from cgddi.core.labels import labelled, labels_of
from cgddi.core.placement import allowed_positions
from cgddi.core.seeds import seed_for
from cgddi.core.skin import unlike_at_large
from cgddi.stages.lesion_mapped.blend import VALID, Blender
from cgddi.stages.lesion_mapped.donor import NoLesion, study
from cgddi.stages.lesion_mapped.lesion import cut
from cgddi.stages.lesion_mapped.settings import LesionMappedSettings

LEAST_SCALE = 0.05
"""A lesion is scaled by no less, and by no more than the inverse."""


def load_sized(archive: Archive, row: Mapping[str, Any], size: int) -> tuple[np.ndarray, np.ndarray]:
    """A sample's photo (size, size, 3) and mask (size, size), both writable.

    Raises:
        UserError: the sample has no mask.
    """
    if "mask.png" not in row["members"]:
        raise UserError(
            f"{archive.path}: image {row['key']} has no mask. Run the workflow again; it makes what is missing."
        )
    return decode_png(archive.read(row), size), decode_png(archive.read(row, "mask.png"), size)


class Geometry:
    """Scale and rotation of the lesion on each canvas, drawn by name; one cut-out serves all canvases when nothing varies."""

    def __init__(self, photo: np.ndarray, mask: np.ndarray, settings: LesionMappedSettings):
        self._donor, self._settings = study(photo, mask, settings), settings
        self.blender = lru_cache(maxsize=1)(self._blender)

    def draw(self, seed: int) -> tuple[float, float]:
        """(scale, rotation in degrees) of a named seed, each uniform over its range."""
        (low, high), (left, right) = self._settings.scale, self._settings.rotation
        if low == high and left == right:
            return low, left
        rng = np.random.default_rng(seed)
        return float(rng.uniform(low, high)), float(rng.uniform(left, right))

    def _blender(self, scale: float, rotation: float) -> Blender:
        lesion = cut(self._donor, self._settings, scale, rotation)
        return Blender(lesion, self._settings.blending, self._settings.lighting_match)


def map_lesion(
    spec: Mapping[str, Any],
    settings: LesionMappedSettings,
    photos: str | Path,
    canvases: str | Path,
    output: str | Path,
    skin: str | Path | None = None,
) -> None:
    """Write the composites of one donor on all canvases of a cohort.

    Args:
        spec: the job's spec: donor (image id), its concept (in labels), canvas_cohort, seed.
        settings: placement and blending. Where the spec knows millimetres per pixel (`mm_per_px`, by image id) of donor and canvas,
            the lesion is brought to the canvas's scale.
        photos: the masks archive that holds the donor.
        canvases: the cohort's kept canvases.
        output: the archive to write; a sample's key is its canvas, its members are `png` and `mask.png`.
        skin: masks of the canvases in the place of their photos'; a canvas without one is skipped.

    A donor without a usable lesion and a pair without an allowed position are skipped and recorded with the reason.

    Raises:
        UserError: the donor is not in `photos`.
    """
    donors, pool = Archive(photos), Archive(canvases)
    masks = Archive(skin) if skin else pool
    mask_rows = {row["key"]: row for row in masks.rows}
    rows = labelled(donors.rows, labels_of(spec))
    donor = next((row for row in rows if row["key"] == spec["donor"]), None)
    if donor is None:
        raise UserError(f"{photos}: has no image {spec['donor']!r}. Run the workflow again; it makes what is missing.")
    inputs = [pool.record_path, pool.manifest_path, donors.manifest_path, *([masks.manifest_path] if skin else [])]
    with ArchiveWriter(output, spec, inputs) as archive:
        archive.facts["canvases"] = len(pool.rows)
        try:
            if "mask.png" not in donor["members"]:
                raise NoLesion(f"the donor gives no lesion: {donor.get('why_no_mask') or 'it has no mask'}")
            geometry = Geometry(*load_sized(donors, donor, settings.image_size), settings)
        except NoLesion as reason:
            archive.skip(donor["key"], f"{reason}: no composite was made")
            return
        for row in tqdm(pool.rows, desc=f"lesion {donor['key']}", unit="canvas", mininterval=1):
            if row["key"] not in mask_rows:
                archive.skip(row["key"], "no skin was found on the healthy image")
                continue
            mask = decode_png(masks.read(mask_rows[row["key"]], "mask.png"), settings.image_size)
            _compose(
                archive, decode_png(pool.read(row), settings.image_size), mask, row, donor, geometry, spec, settings
            )


def _compose(
    archive: ArchiveWriter,
    pixels: np.ndarray,
    mask: np.ndarray,
    row: Mapping[str, Any],
    donor: Mapping[str, Any],
    geometry: Geometry,
    spec: Mapping[str, Any],
    settings: LesionMappedSettings,
) -> None:
    canvas_id, cohort = row["key"], spec["canvas_cohort"]
    seed = seed_for(spec["seed"], "lesion_mapped", cohort, donor["key"], canvas_id)
    scale, rotation = geometry.draw(seed_for(seed, "geometry"))
    to_scale = scale_between(donor, row, spec.get("mm_per_px", {}))
    try:
        scale *= to_scale or 1
        if not LEAST_SCALE <= scale <= 1 / LEAST_SCALE:
            raise NoLesion(f"the lesion would be scaled by {scale:.3g}; look at mm_per_px in the image sheet")
        blender = geometry.blender(scale, rotation)
    except NoLesion as reason:
        archive.skip(canvas_id, str(reason))
        return
    valid = VALID[mask]
    looked = settings.plain_places and valid.all()
    if looked:
        valid &= ~unlike_at_large(pixels)
    positions = allowed_positions(valid, blender.lesion.runs, settings.padding)
    if not positions.bits:
        archive.skip(canvas_id, _why_not(valid, blender, settings))
        return
    place = positions.draw(np.random.default_rng(seed))
    light = blender.paste(pixels, mask, place)
    archive.add(
        canvas_id,
        {"png": encode_png(pixels), "mask.png": encode_png(mask)},
        {
            "id": f"lesion_mapped/{cohort}/{donor['key']}/{canvas_id}",
            "kind": "lesion_mapped",
            "cohort": cohort,
            "donor_cohort": donor["cohort"],
            "concept": donor["concept"],
            "tone": row["tone"],
            "donor": donor["key"],
            "canvas": canvas_id,
            "generator": None,
            "prompt": None,
            "seed": seed,
            "place": list(place),
            "positions": len(positions),
            "scale": round(scale, 6),
            "rotation": round(rotation, 6),
            "lesion_pixels": int(blender.lesion.shape.sum()),
            "to_scale": to_scale and round(to_scale, 6),
            "light": light,
            "halo": round(blender.lesion.halo, 2),
            "left_behind": blender.lesion.left_behind,
            "avoided": round(1 - float(valid.mean()), 4) if looked else None,
            "donor_touches_border": "touches_border" in donor.get("flags", ()),
        },
    )


def scale_between(donor: Mapping[str, Any], canvas: Mapping[str, Any], known: Mapping[str, float]) -> float | None:
    """Factor that brings a donor's lesion to a canvas's scale; None where the millimetres per pixel of either are not known."""
    mine, theirs = shown_side(donor), canvas.get("shown_side")
    if donor["key"] not in known or canvas["key"] not in known or not mine or not theirs:
        return None
    return known[donor["key"]] * mine / (known[canvas["key"]] * theirs)


def _why_not(valid: np.ndarray, blender: Blender, settings: LesionMappedSettings) -> str:
    """Why a pair has no allowed position."""
    height, width = (side - 2 * blender.lesion.margin for side in blender.lesion.shape.shape)
    if not valid.any():
        return "no allowed position: the canvas has no skin"
    if height + 2 * settings.padding > valid.shape[0] or width + 2 * settings.padding > valid.shape[1]:
        return f"no allowed position: the canvas is smaller than the lesion ({width}x{height} px) with its padding"
    return f"no allowed position: the lesion ({width}x{height} px) fits nowhere {settings.padding} px inside the skin"
