"""Which real images a synthetic one descends from: its donor, its canvas, its generator's photos and its mask's segmenter's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgddi.core.archive import Archive
from cgddi.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("real", "healthy", "lesion_mapped", "semantic")
"""Kinds of image, and the sources of those that are the run's own; images that others generated have their set's name as source."""


def lineage(row: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, list[str]]:
    """The real images a synthetic image was made from, by the way they entered it.

    Args:
        row: manifest row of a healthy, lesion-mapped or semantic image.
        record: the record of its archive; a semantic one names its generator's training and prior images, one of given images
            those of every generator. What is not known (see `unknown_ways`) is an empty list.

    Returns:
        donor, canvas and generator, each a list of image ids.
    """
    canvas = row.get("canvas") or (row.get("image_id") or row["key"] if row["kind"] == "healthy" else None)
    canvas = None if "canvas" in unknown_ways(row) else canvas
    found = {"donor": [row["donor"]] if row.get("donor") else [], "canvas": [canvas] if canvas else [], "generator": []}
    if row.get("generator") and "generator" not in unknown_ways(row):
        if row["generator"] in record.get("generators", {}):
            found["generator"] = list(record["generators"][row["generator"]])
            return found
        if "generator_images" not in record:
            raise UserError(
                f"the record of generator {row['generator']} names no training images (`generator_images`), so leakage "
                "cannot be ruled out. Make its semantic images again."
            )
        found["generator"] = list(record["generator_images"]) + list(record.get("prior_images") or [])
    return found


def unknown_ways(row: Mapping[str, Any]) -> list[str]:
    """Those of donor, canvas and generator of which nobody knows what they were, in a manifest row of given images or of samples
    that a given adapter drew."""
    return list(row.get("unknown") or [])


def is_waived(row: Mapping[str, Any], source: str, waived: Iterable[str]) -> bool:
    """Whether the config takes an image of unknown lineage as clean.

    Args:
        source: the set of given images it is of, or its kind.
        waived: names of such sets, and `adapters.<concept>`.
    """
    name = f"adapters.{row['concept']}" if source == row["kind"] else source
    return name in waived


def segmenter_images(
    photos: Iterable[str | Path | Archive], wanted: Callable[[str], bool] = lambda image: True
) -> dict[str, list[str]]:
    """Photos whose mask a trained segmenter made, and the images it learnt from.

    Args:
        photos: archives of photos (stage masks).
        wanted: which images the segmenter learnt from are asked for; photos whose segmenter saw none of these are left out.

    Returns:
        image id -> ids, sorted; photos of one archive share one list.

    Raises:
        UserError: an archive with such masks does not say what its segmenter learnt from.
    """
    found: dict[str, list[str]] = {}
    for path in photos:
        archive = path if isinstance(path, Archive) else Archive(path)
        made = [row["image_id"] for row in archive.rows if row.get("has_mask") and row.get("mask_source") == "fedd"]
        if not made:
            continue
        if not archive.record.get("segmenter_images"):
            raise UserError(
                f"the record of {archive.path} does not name the images its segmenter learnt from (`segmenter_images`), so "
                "leakage cannot be ruled out. Make its masks again."
            )
        seen = sorted(image for image in archive.record["segmenter_images"] if wanted(image))
        if seen:
            found.update(dict.fromkeys(made, seen))
    return found


def generator_images(rows: pd.DataFrame) -> dict[str, set[str]]:
    """Generator -> the real images it was trained on (its priors' photos among them), from the records of its archives.

    Args:
        rows: index rows; those without a generator do not count.
    """
    found: dict[str, set[str]] = {}
    made = rows[rows["generator"].notna()].drop_duplicates(["archive", "generator"])
    for archive, generator in zip(made["archive"], made["generator"], strict=True):
        row = {"kind": "semantic", "key": "", "generator": generator}
        record = Archive(archive).record
        if generator in record.get("unknown_generators", ()):
            row["unknown"] = ["generator"]
        found.setdefault(generator, set()).update(lineage(row, record)["generator"])
    return found


def real_lineage(rows: pd.DataFrame) -> set[str]:
    """Ids of the real images that index rows are, or descend from as donor, canvas or generator image."""
    own = rows.loc[rows["kind"] == "real", "image_id"]
    ids = {*own, *rows["donor"].dropna(), *rows["canvas"].dropna()}
    return ids.union(*generator_images(rows).values())
