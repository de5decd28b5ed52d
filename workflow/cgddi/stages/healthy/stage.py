"""Paint healthy skin over the lesions and markers of one batch of photos, and score the results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from cgddi.core.archive import Archive, ArchiveWriter, sha256
from cgddi.core.errors import UserError
from cgddi.core.heal import heal
from cgddi.core.images import SKIN, decode_png, encode_png, shown_side
from cgddi.core.labels import labelled, labels_of
from cgddi.core.membrane import blend, match_border
from cgddi.core.seeds import seed_for
from cgddi.core.triage import scores_of
from cgddi.job.store import MadeStore
from cgddi.stages.healthy.region import halo, healthy_mask, painted_region, why_unpaintable
from cgddi.stages.healthy.settings import HealthySettings

if TYPE_CHECKING:
    from cgddi.stages.healthy.diffusion import DiffusionInpainter

RETRIES = 3
"""New seeds to try after a NaN or black result, before the photo is skipped."""


@dataclass
class Job:
    """One photo on its way to a canvas; `drawn` is the model's picture and the seed it was drawn with."""

    row: Mapping[str, Any]
    photo: np.ndarray
    mask: np.ndarray
    region: np.ndarray
    drawn: tuple[np.ndarray, int] | None = None
    failed_seeds: list[int] = field(default_factory=list)


def inpaint_batch(
    spec: Mapping[str, Any],
    settings: HealthySettings,
    photos: str | Path,
    output: str | Path,
    open_inpainter: Callable[[], "DiffusionInpainter"],
    kept: MadeStore | None = None,
) -> int:
    """Write the healthy images of one batch.

    Args:
        spec: the job's spec: cohort, batch, images (ids with a mask), their labels (concept, tone, group), seed.
        output: the archive to write; samples hold `png`, `before.png` (the photo), `region.png` and `mask.png` (of the result), and
            with method `both` `heal.png` too. A row's `candidates` name the member, the scores and the making of each picture.
        open_inpainter: loads the model; called only when there is something for it to inpaint.
        kept: what was inpainted before, photo by photo: a killed job goes on, and a corrected mask costs its own photo.

    Returns:
        How many images it wrote. A photo that cannot become a canvas is skipped and recorded with the reason.

    Raises:
        UserError: an image of the spec is not in `photos`.
    """
    source = Archive(photos)
    rows = {row["key"]: row for row in labelled(source.rows, labels_of(spec))}
    absent = [image for image in spec["images"] if image not in rows]
    if absent:
        raise UserError(
            f"{photos}: lacks image(s) {', '.join(absent[:10])}. Run the workflow again; it makes what is missing."
        )
    inpainter: DiffusionInpainter | None = None
    kept = kept or MadeStore(None, "healthy", None)
    with ArchiveWriter(output, spec, [source.path, source.manifest_path]) as archive:
        jobs = _paintable(source, [rows[image] for image in spec["images"]], archive, settings)
        progress = tqdm(total=len(spec["images"]), desc=f"healthy {spec['cohort']}/{spec['batch']}", unit="image")
        for group in groups_of(jobs, settings.batch_size):
            # A list: each is looked for, also after one that is not there.
            if settings.method != "heal" and not all([_take(job, len(group), kept) for job in group]):
                inpainter = inpainter or open_inpainter()
                _inpaint_group(group, inpainter, spec["seed"], kept)
            for job in group:
                _write(archive, job, settings, spec["cohort"])
            progress.update(len(group))
        progress.close()
        return len(archive)


def groups_of(jobs: Iterator[Job], size: int) -> Iterator[list[Job]]:
    """Jobs in lists of `size`, the last one shorter; photos of different size never share a list."""
    group: list[Job] = []
    for job in jobs:
        if group and (len(group) == size or group[0].photo.shape != job.photo.shape):
            yield group
            group = []
        group.append(job)
    if group:
        yield group


def _paintable(
    source: Archive, rows: Sequence[Mapping[str, Any]], archive: ArchiveWriter, settings: HealthySettings
) -> Iterator[Job]:
    for row in rows:
        if "mask.png" not in row["members"]:
            archive.skip(row["key"], row.get("why_no_mask") or "it has no mask")
            continue
        photo, mask = decode_png(source.read(row)), decode_png(source.read(row, "mask.png"))
        more = halo(photo, mask) if settings.halo else False
        region = painted_region(mask, settings.dilation, settings.blur_sigma, settings.full_cover, more)
        if reason := why_unpaintable(mask, region):
            archive.skip(row["key"], reason)
        else:
            yield Job(row, photo, mask, region)


def _item(job: Job, size: int) -> list[Any]:
    """What a photo's result depends on: what the model sees of it, its seed's name, and, by rounding, the size of its group."""
    seen = [sha256(part.tobytes()) for part in (job.photo, job.region, job.mask == SKIN)]
    return [job.row["key"], list(job.photo.shape), *seen, size]


def _take(job: Job, size: int, kept: MadeStore) -> bool:
    """Take a photo's result from what was inpainted before; whether there is one."""
    made = kept.get(_item(job, size))
    if made is not None:
        job.drawn = decode_png(made.files["png"]), made.facts["seed"]
    return made is not None


def _inpaint_group(group: Sequence[Job], inpainter: "DiffusionInpainter", project_seed: int, kept: MadeStore) -> None:
    """Inpaint those of a group that have no result; a NaN or black one is tried again with a new, recorded seed.

    The group is filled up with the same photos, so that a result is the same to the bit whether or not others were there before.
    """
    for attempt in range(RETRIES + 1):
        jobs = [job for job in group if job.drawn is None]
        if not jobs:
            return
        fill = [jobs[i % len(jobs)] for i in range(len(group) if attempt == 0 else len(jobs))]
        seeds = [seed_for(project_seed, "healthy", job.row["key"], attempt) for job in fill]
        pictures = inpainter.inpaint([job.photo for job in fill], [job.region for job in fill], seeds)
        for job, picture, seed in zip(jobs, pictures, seeds, strict=False):
            if picture is None:
                job.failed_seeds.append(seed)
                continue
            job.drawn = picture, seed
            if attempt == 0:  # a further attempt depends on how many of the group failed
                kept.put({"png": encode_png(picture)}, {"seed": seed}, _item(job, len(group)))


def _candidates(job: Job, settings: HealthySettings) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    """(method, picture, how it was made) of each picture of a photo."""
    if job.drawn is not None:
        picture, seed = job.drawn
        if settings.match_border:
            picture = match_border(job.photo, picture, job.region)
        making = {"seed": seed, "failed_seeds": job.failed_seeds, "prompt": settings.prompt}
        yield "diffusion", blend(job.photo, picture, job.region), making
    if settings.method != "diffusion":
        healed = heal(job.photo, job.region, job.mask == SKIN)
        yield "heal", healed.picture, {"pieces": healed.pieces, "smooth": round(healed.smooth, 4)}


def _write(archive: ArchiveWriter, job: Job, settings: HealthySettings, cohort: str) -> None:
    """Score a photo's pictures and write them; a photo without any is skipped."""
    row, key = job.row, job.row["key"]
    members = {"before.png": job.photo, "region.png": job.region, "mask.png": healthy_mask(job.mask)}
    candidates: dict[str, dict[str, Any]] = {}
    for method, picture, making in _candidates(job, settings):
        member = f"{method}.png" if candidates else "png"
        members[member] = picture
        scores = scores_of(job.photo, picture, job.region, job.mask)
        candidates[method] = {"member": member, **making, "triage": scores}
    if not candidates:
        seeds = ", ".join(map(str, job.failed_seeds))
        archive.skip(key, f"every result was NaN or black (seeds {seeds}). Try healthy.precision: fp32.")
        return
    archive.add(
        key,
        {suffix: encode_png(member) for suffix, member in members.items()},
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
            "candidates": candidates,
            "painted": round(float((job.region > 0).mean()), 6),
            "shown_side": shown_side(row),
            "flags": row.get("flags", []),
            "mask_source": row.get("mask_source"),
        },
    )
