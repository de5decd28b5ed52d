"""Write one batch of photos and masks at working size."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from cgddi.core.archive import ArchiveWriter
from cgddi.core.errors import Problem, UserError, refuse
from cgddi.core.images import LESION, MARKER, RULER, encode_png, mask_to_size, photo_to_size, read_photo, same_shape
from cgddi.core.masks import read_mask
from cgddi.stages.masks.quality import (
    FIT_MARGIN,
    UNUSABLE,
    class_shares,
    despeckled,
    explained_variance,
    mask_flags,
    swapped,
    thumbnails,
)
from cgddi.stages.masks.settings import MasksSettings

CHUNK = 16
"""Photos held at full size at once."""

FIT_SIDE = 256
"""Side in px, at most, at which the two crops are compared."""


@dataclass(frozen=True)
class PredictedMask:
    """An automatic mask.

    Args:
        mask: (size, size) uint8 class ids, `size` being the masks' working size.
        uncertainty: (size, size) uint8, 0 certain to 255 not at all; None where the source has none.
    """

    mask: np.ndarray
    uncertainty: np.ndarray | None = None


class MaskPredictor(Protocol):
    """An automatic source: see `fedd.FeddPredictor` and `sam3.Sam3Predictor`.

    `provenance` goes into the archive's record; in it `segmenter_images`, the photos the source was trained on.
    """

    provenance: dict[str, Any]

    def predict(self, photos: Sequence[tuple[str, Image.Image]]) -> list[PredictedMask | str]:
        """The masks of (image id, upright photo) pairs, in their order; a text says why a photo has none."""
        ...


def as_bytes(uncertainty: np.ndarray) -> np.ndarray:
    """Uncertainty of 0 to 1 as uint8, 255 being the least certain."""
    return np.rint(np.clip(uncertainty, 0, 1) * 255).astype(np.uint8)


@dataclass
class Sample:
    """One photo on its way into the archive: its row of the spec, members, manifest entries and flags."""

    row: Mapping[str, Any]
    members: dict[str, bytes]
    entries: dict[str, Any]
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
    open_predictor: Callable[[], MaskPredictor] | None = None,
    inputs: Sequence[str | Path] = (),
) -> int:
    """Read every photo of the batch, read or predict its mask, and write the archive.

    Args:
        spec: the job's spec: rows (image_id, file, mask), cohort and batch. Labels are none of its business (`core.labels`).
        settings: source, working size, crop, id map.
        output: the archive to write; samples hold `png`, `mask.png` where masked, `rejected.mask.png` where an automatic mask is
            not used (`quality.UNUSABLE`), and `uncertainty.png` where the source has it. A row without a mask says why in
            `why_no_mask`. The record counts flags and sources, names what an automatic source was trained on
            (`segmenter_images`), and gives the reason for every photo without mask.
        open_predictor: loads the automatic source; called only when a photo needs it.
        inputs: further files the job reads, for the record.

    Returns:
        How many photos have a mask.

    Raises:
        InvalidInput: unreadable photos, all of them in one report.
    """
    rows: Sequence[Mapping[str, Any]] = spec["rows"]
    files = [path for row in rows for path in (row["file"], row.get("mask")) if path and Path(path).is_file()]
    problems: list[Problem] = []
    samples: list[Sample] = []
    predictor: MaskPredictor | None = None
    with ArchiveWriter(output, spec, [*files, *inputs]) as archive:
        progress = tqdm(total=len(rows), desc=f"masks {spec['cohort']}/{spec['batch']}", unit="image")
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            opened = [sample for row in chunk if (sample := _opened(row, settings, problems)) is not None]
            wanting = [sample for sample in opened if settings.source != "human" and sample.mask is None]
            if wanting:
                if open_predictor is None:
                    raise UserError(f"masks.source is {settings.source}. Give the stage its predictor.")
                predictor = predictor or open_predictor()
                results = predictor.predict([(sample.key, sample.photo) for sample in wanting])
                for sample, result in zip(wanting, results, strict=True):
                    _take(sample, result, settings)
            for sample in opened:
                _finish(sample)
            samples += opened
            progress.update(len(chunk))
        progress.close()
        refuse(problems)
        _flag_swapped(samples)
        for sample in samples:
            archive.add(sample.key, sample.members, _manifest_row(sample, spec["cohort"]))
            for reason in sample.reasons:
                archive.skip(sample.key, reason)
        archive.facts.update(
            {"segmenter_images": [], **(predictor.provenance if predictor else {})}, **_counts(samples)
        )
        masked = archive.facts["masked"]
        if settings.source != "human" and not masked:
            flags = ", ".join(f"{count} {name}" for name, count in archive.facts["flags"].items()) or "no flags"
            _say(
                f"{spec['cohort']}/{spec['batch']}: no automatic mask of {len(samples)} photo(s) can be used ({flags}); "
                "none of them becomes a donor or a canvas"
            )
        return masked


def _opened(row: Mapping[str, Any], settings: MasksSettings, problems: list[Problem]) -> Sample | None:
    """The photo and its human mask, where it keeps one; None, and a problem noted, when the photo cannot be read."""
    try:
        photo, flags = read_photo(row["file"])
    except UserError as error:
        message, _, remedy = str(error).rpartition(". ") if ". " in str(error) else (str(error), "", "")
        problems.append(Problem(f"image {row['image_id']}", message, remedy or "Fix or remove its row."))
        return None
    pixels = photo_to_size(photo, settings.size, settings.crop)
    if min(photo.size) < settings.size:
        flags.append("enlarged")
    entries = {"width": photo.width, "height": photo.height, "crop": settings.crop, "size": settings.size}
    sample = Sample(row, {"png": encode_png(pixels)}, entries, flags, pixels, photo)
    if row.get("mask") and (settings.source == "human" or settings.prefer_human):
        _read_human(sample, settings)
    return sample


def _read_human(sample: Sample, settings: MasksSettings) -> None:
    """The human mask at working size; one that cannot be used is flagged, with the reason."""
    photo = sample.photo
    try:
        raw = read_mask(sample.row["mask"], settings.id_map)
    except UserError as error:
        _leave_out(sample, "mask_unreadable", f"mask left out: {error}")
        return
    height, width = raw.shape
    sample.entries["mask_width"], sample.entries["mask_height"] = width, height
    mask = mask_to_size(raw, photo.size, settings.size, settings.crop)
    if mask is None:
        reason = (
            f"mask left out: it is {width}x{height} px and neither square nor of the photo's shape "
            f"({photo.width}x{photo.height}). Give the mask of this photo, of the same shape or square."
        )
        _leave_out(sample, "mask_mismatch", reason)
        return
    sample.mask, sample.source = mask, "human"
    sample.flags += mask_flags(mask) + _fit_flags(sample, raw, settings)
    sample.small = thumbnails(sample.pixels, mask)


def _take(sample: Sample, result: PredictedMask | str, settings: MasksSettings) -> None:
    """An automatic mask: flagged, and used unless one of its flags says no."""
    if isinstance(result, str):
        _leave_out(sample, "mask_failed", f"no mask by {settings.source}: {result}")
        return
    mask = despeckled(result.mask)
    flags = mask_flags(mask)
    sample.flags += flags
    sample.source = settings.source
    sample.entries["shares"] = class_shares(mask)
    if result.uncertainty is not None:
        sample.members["uncertainty.png"] = encode_png(result.uncertainty)
        sample.entries["uncertainty"] = round(float(result.uncertainty.mean()) / 255, 4)
        if (mask == LESION).any():
            sample.entries["lesion_uncertainty"] = round(float(result.uncertainty[mask == LESION].mean()) / 255, 4)
    if against := [flag for flag in flags if flag in UNUSABLE]:
        sample.members["rejected.mask.png"] = encode_png(mask)
        sample.reasons.append(f"mask by {settings.source} not used: {', '.join(against)}")
    else:
        sample.mask = mask


def _leave_out(sample: Sample, flag: str, reason: str) -> None:
    """Flag a photo that goes on without this mask, and say why."""
    sample.flags.append(flag)
    sample.reasons.append(reason)
    _say(f"{sample.key}: {reason}")


def _finish(sample: Sample) -> None:
    """Encode the used mask, and let go of what is large."""
    if sample.mask is not None:
        sample.members["mask.png"] = encode_png(sample.mask)
        sample.entries["shares"] = class_shares(sample.mask)
        sample.entries["has_ruler"] = bool((sample.mask == RULER).any())
        sample.entries["has_marker"] = bool((sample.mask == MARKER).any())
    sample.photo = sample.pixels = None


def _manifest_row(sample: Sample, cohort: str) -> dict[str, Any]:
    return {
        "id": f"real/{cohort}/{sample.key}",
        "kind": "real",
        "image_id": sample.key,
        "cohort": cohort,
        "donor": None,
        "canvas": None,
        "generator": None,
        "prompt": None,
        "seed": None,
        "has_mask": sample.mask is not None,
        "why_no_mask": _why_no_mask(sample),
        "mask_source": sample.source,
        "has_ruler": False,
        "has_marker": False,
        "flags": sample.flags,
        **sample.entries,
    }


def _why_no_mask(sample: Sample) -> str | None:
    """Why a photo goes on without a mask, in the words of the later stages' records; None where it has one."""
    if sample.mask is not None:
        return None
    flags = ", ".join(sample.flags)
    if "rejected.mask.png" in sample.members:
        return f"its mask by {sample.source} is not used ({flags})"
    return f"it has no mask ({flags})" if flags else "it has no mask"


def _counts(samples: Sequence[Sample]) -> dict[str, Any]:
    flags = Counter(flag for sample in samples for flag in sample.flags)
    sources = Counter(sample.source for sample in samples if sample.mask is not None)
    return {
        "flags": dict(sorted(flags.items())),
        "sources": dict(sorted(sources.items())),
        "masked": sum(sample.mask is not None for sample in samples),
        "rejected": sum("rejected.mask.png" in sample.members for sample in samples),
    }


def _flag_swapped(samples: Sequence[Sample]) -> None:
    """Say so when masks of the batch would fit clearly better on each other's photos."""
    human = [sample for sample in samples if sample.small is not None]
    for number, better in swapped([s.small[0] for s in human], [s.small[1] for s in human]).items():
        human[number].flags.append("mask_swapped")
        human[number].entries["mask_fits"] = human[better].key
        _say(f"{human[number].key}: the mask of {human[better].key} fits this photo better; were their names swapped?")


def _fit_flags(sample: Sample, raw: np.ndarray, settings: MasksSettings) -> list[str]:
    """Say so when photo and mask were brought together, or when the other crop fits clearly better."""
    flags, photo = [], sample.photo
    height, width = raw.shape
    if (width, height) != photo.size:
        flags.append("mask_resized" if same_shape(photo.size, (width, height)) else "mask_stretched")
    if width == height and not same_shape(photo.size, (1, 1)):
        other = "square" if settings.crop == "resize" else "resize"
        size = min(settings.size, FIT_SIDE)
        ours = explained_variance(sample.pixels, sample.mask)
        theirs = explained_variance(photo_to_size(photo, size, other), mask_to_size(raw, photo.size, size, other))
        if theirs - ours > FIT_MARGIN:
            flags.append("crop_doubtful")
            _say(
                f"{sample.key}: the mask fits better with masks.crop: {other} (explains {theirs:.2f} of the photo's colours, "
                f"now {ours:.2f})"
            )
    return flags


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
