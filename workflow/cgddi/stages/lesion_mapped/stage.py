"""Transplant the lesion of each donor of a batch onto every canvas of a cohort, one donor and one canvas in memory at a time."""

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


class Canvases:
    """A cohort's kept canvases, one in memory at a time.

    Args:
        skin: masks of them in the place of their photos'; None: the pool's own.
        settings: the side of a composite, and whether places that do not look like skin are avoided.
    """

    def __init__(self, pool: Archive, skin: Archive | None, settings: LesionMappedSettings):
        self.rows, self._pool, self._masks, self._settings = pool.rows, pool, skin or pool, settings
        self._mask_rows = {row["key"]: row for row in self._masks.rows}
        self._plain: dict[str, np.ndarray] = {}
        """Key -> bits of the pixels that look like skin: a look costs more than a paste, and every donor asks for the same."""

    def read(self, row: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
        """A canvas (size, size, 3) and its mask (size, size), both writable; None where it has no mask."""
        if row["key"] not in self._mask_rows:
            return None
        mask = self._masks.read(self._mask_rows[row["key"]], "mask.png")
        return tuple(decode_png(png, self._settings.image_size) for png in (self._pool.read(row), mask))

    def valid(self, row: Mapping[str, Any], pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, bool]:
        """Where a canvas may be pasted on (size, size) bool, and whether its looks were asked for that."""
        valid = VALID[mask]
        if not (self._settings.plain_places and valid.all()):
            return valid, False
        if row["key"] not in self._plain:
            self._plain[row["key"]] = np.packbits(~unlike_at_large(pixels))
        return np.unpackbits(self._plain[row["key"]], count=mask.size).reshape(mask.shape).view(bool), True


def map_lesions(
    spec: Mapping[str, Any],
    settings: LesionMappedSettings,
    photos: str | Path,
    canvases: str | Path,
    output: str | Path,
    skin: str | Path | None = None,
) -> None:
    """Write the composites of some donors on all canvases of a cohort.

    Args:
        spec: the job's spec: images (ids of the donors), their concept (in labels), canvas_cohort, seed.
        settings: placement and blending. Where the spec knows millimetres per pixel (`mm_per_px`, by image id) of donor and canvas,
            the lesion is brought to the canvas's scale.
        photos: the masks archive that holds the donors.
        output: the archive to write; a sample's key is `<donor>/<canvas>`, its members are `png` and `mask.png`.
        skin: masks of the canvases in the place of their photos'; a canvas without one is skipped.

    A donor without a usable lesion and a pair without an allowed position are skipped and recorded, by the donor's id and the
    pair's key, with the reason.

    Raises:
        UserError: a donor is not in `photos`.
    """
    source, pool = Archive(photos), Archive(canvases)
    masks = Archive(skin) if skin else None
    rows = {row["key"]: row for row in labelled(source.rows, labels_of(spec))}
    if absent := [image for image in spec["images"] if image not in rows]:
        raise UserError(
            f"{photos}: lacks image(s) {', '.join(absent[:10])}. Run the workflow again; it makes what is missing."
        )
    inputs = [pool.record_path, pool.manifest_path, source.manifest_path, *([masks.manifest_path] if masks else [])]
    onto = Canvases(pool, masks, settings)
    with ArchiveWriter(output, spec, inputs) as archive:
        for donor in tqdm([rows[image] for image in spec["images"]], desc="lesions", unit="donor", mininterval=1):
            try:
                if "mask.png" not in donor["members"]:
                    raise NoLesion(f"the donor gives no lesion: {donor.get('why_no_mask') or 'it has no mask'}")
                geometry = Geometry(*load_sized(source, donor, settings.image_size), settings)
            except NoLesion as reason:
                archive.skip(donor["key"], f"{reason}: no composite was made")
                continue
            for row in onto.rows:
                _compose(archive, onto, row, donor, geometry, spec, settings)


def _compose(
    archive: ArchiveWriter,
    onto: Canvases,
    row: Mapping[str, Any],
    donor: Mapping[str, Any],
    geometry: Geometry,
    spec: Mapping[str, Any],
    settings: LesionMappedSettings,
) -> None:
    canvas_id, cohort = row["key"], spec["canvas_cohort"]
    key = f"{donor['key']}/{canvas_id}"
    if (canvas := onto.read(row)) is None:
        archive.skip(key, "no skin was found on the healthy image")
        return
    pixels, mask = canvas
    seed = seed_for(spec["seed"], "lesion_mapped", cohort, donor["key"], canvas_id)
    scale, rotation = geometry.draw(seed_for(seed, "geometry"))
    to_scale = scale_between(donor, row, spec.get("mm_per_px", {}))
    try:
        scale *= to_scale or 1
        if not LEAST_SCALE <= scale <= 1 / LEAST_SCALE:
            raise NoLesion(f"the lesion would be scaled by {scale:.3g}; look at mm_per_px in the image sheet")
        blender = geometry.blender(scale, rotation)
    except NoLesion as reason:
        archive.skip(key, str(reason))
        return
    valid, looked = onto.valid(row, pixels, mask)
    positions = allowed_positions(valid, blender.lesion.runs, settings.padding)
    if not positions.bits:
        archive.skip(key, _why_not(valid, blender, settings))
        return
    place = positions.draw(np.random.default_rng(seed))
    light = blender.paste(pixels, mask, place)
    archive.add(
        key,
        {"png": encode_png(pixels), "mask.png": encode_png(mask)},
        {
            "id": f"lesion_mapped/{cohort}/{key}",
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
