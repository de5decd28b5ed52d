"""Paint healthy skin over the lesions and markers of one batch of photos, and triage the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.errors import UserError
from cgddi.core.images import SKIN, decode_png, encode_png
from cgddi.core.seeds import seed_for
from cgddi.core.triage import judge, scores_of
from cgddi.stages.healthy.region import blend, healthy_mask, match_border, painted_region, why_unpaintable
from cgddi.stages.healthy.settings import HealthySettings, TriageSettings
from cgddi.stages.masks.reasons import why_unmasked


class Painter(Protocol):
    """What paints: see `DiffusionPainter.paint` and `BiharmonicPainter.paint`."""

    name: str

    def paint(
        self, photos: Sequence, regions: Sequence, skins: Sequence, seeds: Sequence[int]
    ) -> list[np.ndarray | None]: ...


@dataclass
class Job:
    """One photo on its way to a canvas."""

    row: Mapping[str, Any]
    photo: np.ndarray
    mask: np.ndarray
    region: np.ndarray
    uncertainty: bytes | None = None
    results: list[tuple[np.ndarray, dict[str, Any], int, int]] = field(default_factory=list)
    failed_seeds: list[int] = field(default_factory=list)


def paint_batch(
    spec: Mapping[str, Any],
    settings: HealthySettings,
    photos: str | Path,
    output: str | Path,
    make_painter: Callable[[], Painter],
) -> int:
    """Write the healthy images of one batch.

    Args:
        spec: the job's spec: cohort, batch, images (ids with a mask), seed.
        settings: the stage's settings.
        photos: the batch's masks archive.
        output: the archive to write; samples hold `png`, `before.png`, `region.png`, `mask.png` (of the result), `before.mask.png`
            (of the photo) and, where the mask's source has it, `uncertainty.png`.
        make_painter: loads the model; called only when there is something to paint.

    Returns:
        How many images were painted. A photo that cannot become a canvas is skipped and recorded with the reason.

    Raises:
        UserError: an image of the spec is not in `photos`.
    """
    source = Archive(photos)
    rows = {row["key"]: row for row in source.rows}
    absent = [image for image in spec["images"] if image not in rows]
    if absent:
        raise UserError(
            f"{photos}: lacks image(s) {', '.join(absent[:10])}. Run the workflow again; it makes what is missing."
        )
    painter: Painter | None = None
    with ArchiveWriter(output, spec, [source.path, source.manifest_path]) as archive:
        jobs = _paintable(source, [rows[image] for image in spec["images"]], archive, settings)
        progress = tqdm(total=len(spec["images"]), desc=f"healthy {spec['cohort']}/{spec['batch']}", unit="image")
        per_round = max(1, settings.batch_size // settings.candidates)
        for group in chunks(jobs, per_round):
            painter = painter or make_painter()
            _paint_group(group, painter, settings, spec["seed"])
            for job in group:
                _keep_best(archive, job, painter, settings, spec["cohort"])
            progress.update(len(group))
        progress.close()
        return len(archive)


def chunks(items: Iterator[Job], size: int) -> Iterator[list[Job]]:
    """Items in lists of `size`, the last one shorter; photos of different size never share a list."""
    group: list[Job] = []
    for item in items:
        if group and (len(group) == size or group[0].photo.shape != item.photo.shape):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _paintable(
    source: Archive, rows: Sequence[Mapping[str, Any]], archive: ArchiveWriter, settings: HealthySettings
) -> Iterator[Job]:
    for row in rows:
        if "mask.png" not in row["members"]:
            archive.skip(row["key"], why_unmasked(row))
            continue
        photo, mask = decode_png(source.read(row)), decode_png(source.read(row, "mask.png"))
        region = painted_region(mask, settings.dilation, settings.blur_sigma, settings.full_cover)
        reason = why_unpaintable(mask, region, settings.max_region, settings.min_skin)
        if reason:
            archive.skip(row["key"], reason)
            continue
        doubt = source.read(row, "uncertainty.png") if "uncertainty.png" in row["members"] else None
        yield Job(row, photo, mask, region, doubt)


def _paint_group(group: Sequence[Job], painter: Painter, settings: HealthySettings, project_seed: int) -> None:
    """Paint all candidates of a group; a NaN or black result is tried again with a new, recorded seed."""
    open_tasks = [(job, candidate) for job in group for candidate in range(settings.candidates)]
    for attempt in range(settings.retries + 1):
        failed = []
        for start in range(0, len(open_tasks), settings.batch_size):
            tasks = open_tasks[start : start + settings.batch_size]
            seeds = [
                seed_for(project_seed, "healthy", job.row["key"], candidate, *(("retry", attempt) if attempt else ()))
                for job, candidate in tasks
            ]
            painted = painter.paint(
                [job.photo for job, _ in tasks],
                [job.region for job, _ in tasks],
                [job.mask == SKIN for job, _ in tasks],
                seeds,
            )
            for (job, candidate), picture, seed in zip(tasks, painted, seeds, strict=True):
                if picture is None:
                    job.failed_seeds.append(seed)
                    failed.append((job, candidate))
                else:
                    job.results.append((*_finish(job, picture, settings), candidate, seed))
        open_tasks = failed
        if not open_tasks:
            return


def _finish(job: Job, picture: np.ndarray, settings: HealthySettings) -> tuple[np.ndarray, dict[str, Any]]:
    if settings.match_border:
        picture = match_border(job.photo, picture, job.region)
    result = blend(job.photo, picture, job.region)
    return result, scores_of(job.photo, result, job.region, job.mask)


def _keep_best(archive: ArchiveWriter, job: Job, painter: Painter, settings: HealthySettings, cohort: str) -> None:
    """Write the candidate with the fewest faults, then the least contrast; skip a photo that has none.

    Faults are those of the default thresholds: the run's own come later, so that another threshold paints nothing again.
    """
    row, key = job.row, job.row["key"]
    if not job.results:
        archive.skip(
            key,
            f"every result was NaN or black (seeds {', '.join(map(str, job.failed_seeds))}). Try healthy.dtype: float32.",
        )
        return
    best = min(
        job.results, key=lambda each: (len(judge(each[1], TriageSettings())), each[1]["lesion_contrast"], each[2])
    )
    result, scores, candidate, seed = best
    pictures = {"png": result, "before.png": job.photo, "region.png": job.region, "mask.png": healthy_mask(job.mask)}
    pictures["before.mask.png"] = job.mask
    members = {suffix: encode_png(picture) for suffix, picture in pictures.items()}
    if job.uncertainty is not None:
        members["uncertainty.png"] = job.uncertainty
    diffusion = painter.name == "diffusion"
    archive.add(
        key,
        members,
        {
            "id": f"healthy/{cohort}/{key}",
            "kind": "healthy",
            "image_id": key,
            "cohort": cohort,
            "group": row.get("group"),
            "concept": "healthy",
            "disease": row["concept"],
            "tone": row["tone"],
            "malignant": None,
            "donor": None,
            "canvas": key,
            "generator": None,
            "prompt": settings.prompt if diffusion else None,
            "method": painter.name,
            "seed": seed,
            "candidate": candidate,
            "failed_seeds": job.failed_seeds,
            "painted": round(float((job.region > 0).mean()), 6),
            "flags": row.get("flags", []),
            "mask_source": row.get("mask_source"),
            "uncertainty": row.get("uncertainty"),
            "lesion_uncertainty": row.get("lesion_uncertainty"),
            "triage": scores,
        },
    )
