"""Write one batch of photos and masks at working size."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cgddi.core.archive import ArchiveWriter
from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.core.images import (
    LESION,
    MARKER,
    RULER,
    TONES,
    encode_png,
    mask_to_size,
    photo_to_size,
    read_mask,
    read_photo,
    same_shape,
)
from cgddi.stages.masks.fit import explained_variance, swapped, thumbnails
from cgddi.stages.masks.flags import class_shares, despeckled, mask_flags
from cgddi.stages.masks.found import Finder, Found
from cgddi.stages.masks.settings import MasksSettings

CHUNK = 16
"""Photos held at full size at once where no finder says how many."""


@dataclass
class Sample:
    """One photo on its way into the archive."""

    row: Mapping[str, Any]
    members: dict[str, bytes]
    facts: dict[str, Any]
    flags: list[str]
    pixels: np.ndarray | None
    photo: Image.Image | None
    mask: np.ndarray | None = None
    source: str | None = None
    small: tuple[np.ndarray, np.ndarray] | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.row["image_id"]


def write_batch(
    spec: Mapping[str, Any],
    settings: MasksSettings,
    output: str | Path,
    open_finder: Callable[[], Finder] | None = None,
    inputs: Sequence[str | Path] = (),
) -> int:
    """Read every photo of the batch, read or find its mask, and write the archive.

    Args:
        spec: the job's spec: rows (image_id, file, mask, concept, skin_tone, malignant, group) and cohort.
        settings: source, working size, crop, id map, flags.
        output: the archive to write; samples hold `png`, `mask.png` where masked, `rejected.mask.png` where an automatic mask is
            not used (see settings.flags.reject), and `uncertainty.png` where the source has it. Its record counts flags and
            sources, names what an automatic source was trained on (`segmenter_images`), and gives the reason for every photo
            without mask.
        open_finder: loads the automatic source; called only when a photo needs it.
        inputs: further files the job reads, for the record.

    Returns:
        How many photos have a mask.

    Raises:
        InvalidInput: unreadable photos, and with `bad_masks: error` unusable masks; all of them in one report.
    """
    rows: Sequence[Mapping[str, Any]] = spec["rows"]
    files = [path for row in rows for path in (row["file"], row.get("mask")) if path and Path(path).is_file()]
    problems: list[Problem] = []
    samples: list[Sample] = []
    finder: Finder | None = None
    with ArchiveWriter(output, spec, [*files, *inputs]) as archive:
        step = settings.sam3.batch_size if settings.source == "sam3" else CHUNK
        progress = tqdm(total=len(rows), desc=f"masks {spec['cohort']}/{spec['batch']}", unit="image")
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            opened = [sample for row in chunk if (sample := _opened(row, settings, problems)) is not None]
            wanting = [sample for sample in opened if settings.source != "human" and sample.mask is None]
            if wanting and open_finder is None:
                raise UserError(f"masks.source is {settings.source}, and nothing finds masks. Give the stage a finder.")
            if wanting:
                finder = finder or open_finder()
                found = finder.find([(sample.key, sample.photo) for sample in wanting])
                for sample, result in zip(wanting, found, strict=True):
                    _take(sample, result, settings)
            for sample in opened:
                _finish(sample, settings)
            samples += opened
            progress.update(len(chunk))
        progress.close()
        if problems:
            raise InvalidInput(problems)
        _flag_swapped(samples, settings)
        for sample in samples:
            archive.add(sample.key, sample.members, _entry(sample, spec["cohort"]))
            for reason in sample.reasons:
                archive.skip(sample.key, reason)
        archive.facts.update({"segmenter_images": [], **(finder.facts if finder else {})}, **_counts(samples))
        used = archive.facts["masked"]
        if settings.source != "human" and not used:
            _say(
                f"{spec['cohort']}/{spec['batch']}: no automatic mask of {len(samples)} photo(s) can be used "
                f"({_listed(archive.facts['flags'])}); none of them becomes a donor or a canvas"
            )
        return used


def _opened(row: Mapping[str, Any], settings: MasksSettings, problems: list[Problem]) -> Sample | None:
    """The photo and its human mask, where it keeps one; None, and a problem noted, when the files do not do."""
    try:
        if row["skin_tone"] not in TONES:
            raise UserError(f"skin_tone is {row['skin_tone']!r}. Give one of {', '.join(TONES)}.")
        photo, flags = read_photo(row["file"])
        pixels = photo_to_size(photo, settings.size, settings.crop)
        facts = {"width": photo.width, "height": photo.height, "crop": settings.crop, "size": settings.size}
        members = {"png": encode_png(pixels)}
        sample = Sample(row, members, facts, flags, pixels, photo)
        if row.get("mask") and (settings.source == "human" or settings.prefer_human):
            _read_human(sample, settings)
        return sample
    except UserError as error:
        message, _, remedy = str(error).rpartition(". ") if ". " in str(error) else (str(error), "", "")
        problems.append(Problem(f"image {row['image_id']}", message, remedy or "Mend or remove its row."))
        return None


def _read_human(sample: Sample, settings: MasksSettings) -> None:
    """The human mask at working size; one that cannot be used is flagged, with the reason (or raised: `bad_masks`)."""
    path, photo = sample.row["mask"], sample.photo
    try:
        raw = read_mask(path, settings.id_map)
    except UserError as error:
        if settings.bad_masks == "error":
            raise
        sample.flags.append("mask_unreadable")
        sample.reasons.append(f"mask left out: {error}")
        _say(f"{sample.key}: mask left out: {error}")
        return
    height, width = raw.shape
    sample.facts["mask_width"], sample.facts["mask_height"] = width, height
    mask = mask_to_size(raw, photo.size, settings.size, settings.crop)
    if mask is None:
        reason = (
            f"it is {width}x{height} px and neither square nor of the photo's shape ({photo.width}x{photo.height}). "
            "Give the mask of this photo, of the same shape or square."
        )
        if settings.bad_masks == "error":
            raise UserError(f"{path}: {reason}")
        sample.flags.append("mask_mismatch")
        sample.reasons.append(f"mask left out: {reason}")
        return
    sample.mask, sample.source = mask, "human"
    sample.flags += mask_flags(mask, settings.flags) + _fit_flags(sample, raw, settings)
    sample.small = thumbnails(sample.pixels, mask)


def _take(sample: Sample, result: Found | str, settings: MasksSettings) -> None:
    """An automatic mask: flagged, and used unless one of its flags says no."""
    if isinstance(result, str):
        sample.flags.append("mask_failed")
        sample.reasons.append(f"no mask by {settings.source}: {result}")
        _say(f"{sample.key}: no mask by {settings.source}: {result}")
        return
    mask = despeckled(result.mask, settings.despeckle)
    flags = mask_flags(mask, settings.flags)
    sample.flags += flags
    sample.source = settings.source
    if result.uncertainty is not None:
        sample.members["uncertainty.png"] = encode_png(result.uncertainty)
        sample.facts["uncertainty"] = round(float(result.uncertainty.mean()) / 255, 4)
        if (mask == LESION).any():
            lesion = result.uncertainty[mask == LESION]
            sample.facts["lesion_uncertainty"] = round(float(lesion.mean()) / 255, 4)
    against = [flag for flag in flags if flag in settings.flags.reject]
    if against:
        sample.facts["shares"] = class_shares(mask)
        sample.members["rejected.mask.png"] = encode_png(mask)
        sample.reasons.append(f"mask by {settings.source} not used: {', '.join(against)}")
    else:
        sample.mask = mask


def _finish(sample: Sample, settings: MasksSettings) -> None:
    """Encode the used mask, and let go of what is large."""
    if sample.mask is not None:
        sample.members["mask.png"] = encode_png(sample.mask)
        sample.facts["shares"] = class_shares(sample.mask)
        sample.facts["has_ruler"] = bool((sample.mask == RULER).any())
        sample.facts["has_marker"] = bool((sample.mask == MARKER).any())
    sample.photo = sample.pixels = None


def _entry(sample: Sample, cohort: str) -> dict[str, Any]:
    row = sample.row
    return {
        "id": f"real/{cohort}/{sample.key}",
        "kind": "real",
        "image_id": sample.key,
        "cohort": cohort,
        "group": row.get("group"),
        "concept": row["concept"],
        "tone": row["skin_tone"],
        "malignant": row["malignant"],
        "donor": None,
        "canvas": None,
        "generator": None,
        "prompt": None,
        "seed": None,
        "has_mask": sample.mask is not None,
        "mask_source": sample.source,
        "has_ruler": False,
        "has_marker": False,
        "flags": sample.flags,
        **sample.facts,
    }


def _counts(samples: Sequence[Sample]) -> dict[str, Any]:
    flags = Counter(flag for sample in samples for flag in sample.flags)
    sources = Counter(sample.source for sample in samples if sample.mask is not None)
    return {
        "flags": dict(sorted(flags.items())),
        "sources": dict(sorted(sources.items())),
        "masked": sum(sample.mask is not None for sample in samples),
        "rejected": sum("rejected.mask.png" in sample.members for sample in samples),
    }


def _flag_swapped(samples: Sequence[Sample], settings: MasksSettings) -> None:
    """Say so when masks of the batch would fit clearly better on each other's photos."""
    read = [sample for sample in samples if sample.small is not None]
    places = swapped([s.small[0] for s in read], [s.small[1] for s in read], settings.fit_margin)
    for number, better in places.items():
        read[number].flags.append("mask_swapped")
        read[number].facts["mask_fits"] = read[better].key
        _say(f"{read[number].key}: the mask of {read[better].key} fits this photo better; were their names swapped?")


def _fit_flags(sample: Sample, raw: np.ndarray, settings: MasksSettings) -> list[str]:
    """Say so when photo and mask were brought together, or when the other crop fits clearly better."""
    flags, photo = [], sample.photo
    height, width = raw.shape
    if (width, height) != photo.size:
        flags.append("mask_resized" if same_shape(photo.size, (width, height)) else "mask_stretched")
    if width == height and not same_shape(photo.size, (1, 1)):
        other = "square" if settings.crop == "resize" else "resize"
        size = min(settings.size, 256)
        mask = mask_to_size(raw, photo.size, settings.size, settings.crop)
        ours = explained_variance(sample.pixels, mask)
        theirs = explained_variance(photo_to_size(photo, size, other), mask_to_size(raw, photo.size, size, other))
        if theirs - ours > settings.fit_margin:
            flags.append("crop_doubtful")
            _say(
                f"{sample.key}: the mask fits better with masks.crop: {other} (explains {theirs:.2f} of the photo's colours, "
                f"now {ours:.2f})"
            )
    return flags


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "no flags"


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
