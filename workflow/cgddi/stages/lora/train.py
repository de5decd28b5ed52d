"""Train a concept's LoRA adapter, DreamBooth style: its photos, and healthy canvases as priors."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cgddi.core.archive import file_sha256, record_for, write_record
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.core.labels import labels_of
from cgddi.core.seeds import seed_for
from cgddi.diffusion import adapters
from cgddi.diffusion.backbone import Backbone, load
from cgddi.diffusion.cache import Store
from cgddi.diffusion.data import (
    ImageStream,
    Photo,
    TrainingData,
    caption,
    prompts_of,
    read_canvases,
    read_photos,
    training_facts,
)
from cgddi.diffusion.log import TrainingLog, header, write_history
from cgddi.diffusion.sample import write_grid
from cgddi.diffusion.tokens import read_embedding
from cgddi.diffusion.train import Trainer, new_accelerator, training_job
from cgddi.diffusion.weights import write_tensors
from cgddi.job.checkpoint import Checkpoint, exit_on_sigterm
from cgddi.job.store import Made, MadeStore
from cgddi.stages.lora.settings import LoraSettings

GRID = "samples.png"


@dataclass(frozen=True)
class LoraJob:
    """What one adapter is made of and where it goes.

    Args:
        spec: concept {slug, name, token}, images (training ids), labels (their tones), model, settings, seed.
        photos: masks archives with the training images.
        canvases: archives of healthy canvases.
        split: csv (image_id, role); canvases that are not role train are no priors. None uses every canvas.
        embedding: the concept's `learned_embeds.safetensors`.
        output: folder to write to.
    """

    spec: Mapping[str, Any]
    photos: Sequence[Path]
    canvases: Sequence[Path]
    split: Path | None
    embedding: Path
    output: Path


@exit_on_sigterm()
def train_lora(
    job: LoraJob,
    state: Path | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    backbone: Backbone | None = None,
    logs: Path | None = None,
    used: MutableMapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a concept's adapter and write `pytorch_lora_weights.safetensors`, `samples.png`, `record.json` and `metrics.jsonl`.

    Args:
        job: what and where.
        state, cache: folders of checkpoints and of latents.
        device: where to train.
        backbone: a loaded model of the same source without this token, else it is loaded.
        logs: name of the files that show the training (see `TrainingLog`).
        used: gets `steps`, how many were taken now; a resumed run took the others before.

    Returns:
        The record.

    Raises:
        UserError: bad settings, unreadable photos, a loss that is not a number, an adapter that did not move.
    """
    settings, key = training_job(LoraSettings, job.spec)
    slug, seed = job.spec["concept"]["slug"], job.spec["seed"]
    photos = read_photos(job.photos, job.spec["images"], labels_of(job.spec))
    priors = choose_priors(read_canvases(job.canvases, job.split), settings, seed, len(photos))
    accelerator = new_accelerator(settings, device, logs)
    backbone = backbone or load(job.spec["model"], accelerator.device, settings.precision)
    token, rows = read_embedding(job.embedding, job.spec["concept"]["token"], backbone.digest)
    backbone.add_token(token, rows)
    data_facts = training_facts([*photos, *priors], settings)
    made_from = [*key, backbone.digest, file_sha256(job.embedding), data_facts]
    kept = MadeStore(cache, "lora", made_from, backbone.device.type)
    if (made := kept.get()) is not None:
        if used is not None:
            used.update(steps=0, reused=1)
        return _write_made(job, priors, made) if accelerator.is_main_process else {}

    captions = [[caption(settings.prompt, photo, settings, token)] for photo in photos]
    streams = [ImageStream(seed_for(seed, "lora", slug), photos, captions, settings.tone_exponent, settings.instances)]
    if priors:
        # A ruler is named as in a photo's caption (the published script did so too), else it would be taught as part of healthy
        # skin; a marker was painted over.
        captions = [[caption(settings.class_prompt, photo, settings)] for photo in priors]
        streams += [
            ImageStream(
                seed_for(seed, "lora", slug, "prior"),
                priors,
                captions,
                settings.prior_tone_exponent,
                settings.priors_per_step,
                settings.prior_weight,
            )
        ]
    store = Store(cache)
    data = TrainingData(backbone, store, streams, settings, settings.accumulation * accelerator.num_processes)
    encoded = prompts_of(backbone, store, data.prompts)
    parameters = adapters.add_lora(
        backbone.denoiser, settings.target_modules, settings.rank, settings.alpha, slug, seed
    )
    checkpoint = Checkpoint(state, "lora", made_from)

    def preview(step: int) -> None:
        if step < settings.steps:  # the finished adapter gets its picture below
            write_grid(log.path(f"{step:06d}.png"), backbone, job.spec, settings, settings.prompt)

    log = TrainingLog(accelerator, logs)
    trainer = Trainer(
        accelerator,
        backbone,
        data,
        encoded.__getitem__,
        parameters,
        settings,
        settings.learning_rate,
        checkpoint,
        log,
        f"lora {slug}",
        preview if logs else None,
    )
    try:
        history = trainer.run()
        tensors = adapters.lora_tensors(backbone.denoiser, backbone.part, settings.alpha / settings.rank)
    finally:
        adapters.remove_peft(backbone, "default")
    log.close()
    if used is not None:
        used["steps"] = settings.steps - history.resumed_at
    unmoved = unmoved_layers(slug, tensors)
    if not accelerator.is_main_process:
        return {}
    metadata = header(
        job.spec,
        data_facts,
        base_sha256=backbone.digest,
        prompts=data.prompts,
        images=[[p.id, p.sha256] for p in photos],
        priors=[[p.id, p.sha256] for p in priors],
    )
    write_tensors(job.output / adapters.FILE, tensors, metadata)
    write_history(job.output, history.lines)
    applied = adapters.apply(backbone, adapters.read_adapter(job.output / adapters.FILE))
    try:
        write_grid(job.output / GRID, backbone, job.spec, settings, settings.prompt)
    finally:
        applied.remove()
    parameters = sum(value.numel() for value in tensors.values())
    facts = {"base_sha256": backbone.digest, "parameters": parameters, "unmoved_layers": unmoved}
    files = {name: (job.output / name).read_bytes() for name in (adapters.FILE, GRID, "metrics.jsonl")}
    record = _write_made(job, priors, kept.put(files, facts))
    checkpoint.remove()
    return record


def _write_made(job: LoraJob, priors: Sequence[Photo], made: Made) -> dict[str, Any]:
    """Write an adapter's files and its record, and give that."""
    made.write(job.output)
    record = record_for(
        job.spec,
        [*job.photos, *job.canvases, *([job.split] if job.split else []), job.embedding],
        training_images=list(job.spec["images"]),
        prior_images=[p.id for p in priors],
        **made.facts,
    )
    write_record(job.output / "record.json", record, [job.output / name for name in (adapters.FILE, GRID)])
    return record


def choose_priors(canvases: Sequence[Photo], settings: LoraSettings, seed: int, photos: int) -> list[Photo]:
    """The canvases that serve as priors: at most `prior_per_tone` of each tone, drawn by a seed that names no concept, so that all
    adapters of a project share them (and their latents).

    `priors: published` does as the published script: the three tones' canvases in one list, light ones first, cut to
    `prior_per_tone` in all (97 light ones were there, so no other tone was left), and of these as many as the concept has photos,
    since one index, drawn below the number of photos, chose both.

    Args:
        photos: number of training photos of the concept.

    Raises:
        UserError: priors are asked for and there is no canvas.
    """
    if not settings.priors_per_step or not settings.prior_weight:
        return []
    if not canvases:
        raise UserError(
            "lora: no healthy canvas to draw priors from. Keep some in review.csv, or set lora.priors_per_step to 0."
        )
    by_tone = [[photo for photo in canvases if photo.tone == tone] for tone in TONES]
    if settings.priors == "published":
        return [photo for of_tone in by_tone for photo in of_tone][: settings.prior_per_tone][:photos]
    chosen = []
    for of_tone in by_tone:
        ranked = sorted(of_tone, key=lambda photo: seed_for(seed, "prior", photo.id))
        chosen += sorted(ranked[: settings.prior_per_tone], key=lambda photo: photo.id)
    return chosen


STILL = 1e-7
"""Root mean square of B below which a layer counts as unmoved. AdamW moves each number by about the learning rate a step: by 1e-4
in one step of the default, 3e-3 in a published run. With A's numbers near 1 / rank, a B of 1e-7 changes weights of some 0.02 by
less than 1e-5 of themselves: nothing, in any precision a picture is drawn in."""


def unmoved_layers(slug: str, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Layers whose B did not move. A few are no fault (queries and keys of an attention over a single cell have no gradient); half
    of them are.

    Raises:
        UserError: half of the layers or more did not move, or a number is not finite.
    """
    parts = {n.removesuffix(".lora_B.weight"): v for n, v in tensors.items() if n.endswith(".lora_B.weight")}
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise UserError(f"concept {slug}: the adapter holds numbers that are not finite. Lower the learning rate.")
    still = [name for name, value in parts.items() if float(value.square().mean().sqrt()) < STILL]
    if 2 * len(still) >= len(parts):
        raise UserError(
            f"concept {slug}: the adapter did not move: B is below {STILL:g} in {len(still)} of {len(parts)} layers, "
            f"{still[0]} first. Raise learning_rate or steps."
        )
    return still
