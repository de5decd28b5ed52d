"""Textual inversion of one concept: only the new rows of the token table are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgddi.artefacts import installed_versions, record_for, write_record
from cgddi.diffusion import jobs
from cgddi.diffusion.backbone import Backbone, Prompts, load
from cgddi.diffusion.batches import Batches, Pool, Table, tone_chances
from cgddi.diffusion.cache import Store
from cgddi.diffusion.checkpoint import Checkpoint
from cgddi.diffusion.fit import Fit, Plan
from cgddi.diffusion.latents import Views, latents_of, loss_weights
from cgddi.diffusion.objective import Objective
from cgddi.diffusion.photos import Photo, read_photos
from cgddi.diffusion.tokens import start_rows
from cgddi.diffusion.validation import tone_losses
from cgddi.diffusion.weights import write_tensors
from cgddi.embedding.settings import VERSIONS, EmbeddingSettings
from cgddi.errors import UserError
from cgddi.seeds import seed_for

FILE = "learned_embeds.safetensors"


def train_embedding(
    spec: Mapping[str, Any],
    archives: Sequence[Path],
    output: Path,
    state: Path | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    backbone: Backbone | None = None,
) -> dict[str, Any]:
    """Train a concept's token and write `learned_embeds.safetensors`, `record.json` and `metrics.jsonl`.

    Args:
        spec: concept {slug, name, token}, images (training ids), model, settings, seed.
        archives: masks archives that hold the images.
        output: folder to write to.
        state, cache: folders of checkpoints and of latents.
        device: where to train.
        backbone: a loaded model of the same source, else it is loaded.

    Returns:
        The record.

    Raises:
        UserError: bad settings, unreadable photos, a loss that is not a number, or a token that stayed where it started.
    """
    settings = jobs.settings_of(spec, EmbeddingSettings)
    concept, images, model, seed = jobs.need(spec, "concept", "images", "model", "seed")
    if not images:
        raise UserError(f"concept {concept['slug']}: no training image. Give it one, or leave the concept out.")
    photos = read_photos(archives, images)
    backbone = backbone or load(model, torch.device(device), settings.precision)
    size, token = settings.image_size, concept["token"]
    cells = backbone.latent_shape(size)[1]
    views = Views(settings.hflip > 0, settings.crops, settings.crop_scale)
    mean, std = latents_of(backbone, Store(cache), photos, size, views)
    weights = None
    if settings.lesion_weight != 1 or settings.ignore_mask_classes:
        weights = loss_weights(photos, size, cells, views, settings.lesion_weight, settings.ignore_mask_classes)
    move = backbone.device
    table = Table(mean.to(move), std.to(move), None if weights is None else weights.to(move), [p.id for p in photos])

    pairs = zip(backbone.tokenizers, backbone.text_encoders, strict=True)
    start = [start_rows(tokenizer, encoder, settings.init_token, settings.vectors) for tokenizer, encoder in pairs]
    rows = [holder.rows for holder in backbone.add_token(token, start)]
    prompts, numbers = _prompts(photos, settings, token)
    ids = backbone.tokenize(prompts)

    def encode(wanted: torch.Tensor) -> Prompts:
        if len(prompts) <= len(wanted):  # every prompt once, then looked up: cheaper than one per sample
            return backbone.encode_ids(ids)[wanted]
        return backbone.encode_ids([batch[wanted] for batch in ids])

    pool = Pool(
        seed_for(seed, "embedding", concept["slug"]),
        np.arange(len(photos)),
        tone_chances(photos, settings.tone_exponent),
        numbers,
        settings.batch * settings.accumulation,
    )
    batches = Batches(table, [[pool]], views, settings.hflip, backbone.rule.steps, settings.noise_offset)
    objective = Objective(backbone, encode, 1, 0.0, 0.0, settings.min_snr)
    facts = [dict(spec), backbone.digest, [p.sha256 for p in photos], installed_versions(VERSIONS)]
    checkpoint = Checkpoint(state, "embedding", facts)
    live = jobs.MetricsFile(state, "embedding")
    fit = Fit(
        {f"rows.{i}": value for i, value in enumerate(rows)},
        1,
        objective,
        batches,
        _plan(settings),
        checkpoint,
        tone_losses(objective, table, photos, numbers[:, 0], backbone.rule.steps, pool.seed)
        if settings.validate_every
        else None,
        live,
        f"token {concept['slug']}",
    )
    outcome = fit.run()
    live.close()
    _check_moved(concept["slug"], rows, start)
    learned = [value.detach().float().cpu() for value in rows]
    tensors = {token: learned[0]} if len(learned) == 1 else {"clip_l": learned[0], "clip_g": learned[1]}
    metadata = jobs.header(
        spec,
        concept=concept,
        model=model,
        base_sha256=backbone.digest,
        prompts=prompts,
        images=[[p.id, p.sha256] for p in photos],
    )
    write_tensors(output / FILE, tensors, {"token": token, **metadata})
    jobs.write_history(output, outcome.history)
    moved = [float((a - b.cpu()).norm()) for a, b in zip(learned, start, strict=True)]
    record = record_for(
        spec,
        archives,
        training_images=list(images),
        base_sha256=backbone.digest,
        prompts=prompts,
        moved=[float(f"{value:.6g}") for value in moved],
        last=outcome.history[-1] if outcome.history else {},
    )
    write_record(output / "record.json", record)
    checkpoint.remove()
    return record


def _plan(settings: EmbeddingSettings) -> Plan:
    return Plan(
        steps=settings.steps,
        lr=settings.lr,
        schedule=settings.lr_schedule,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        ema=settings.ema,
        accumulation=settings.accumulation,
        checkpoint_every=settings.checkpoint_every,
        log_every=settings.log_every,
        validate_every=settings.validate_every,
    )


def _prompts(photos: Sequence[Photo], settings: EmbeddingSettings, token: str) -> tuple[list[str], np.ndarray]:
    """All prompts, and per photo the numbers of those it may be shown with, (n, templates)."""
    known = jobs.PromptList()
    numbers = [
        [
            known.number(jobs.fill_prompt(t, token, photo.tone) + jobs.suffix_of(photo, settings))
            for t in settings.prompts
        ]
        for photo in photos
    ]
    return known.texts, np.array(numbers)


def _check_moved(slug: str, rows: Sequence[torch.Tensor], start: Sequence[torch.Tensor]) -> None:
    for row, old in zip(rows, start, strict=True):
        if not torch.isfinite(row).all():
            raise UserError(f"concept {slug}: the learned token is not a finite number. Lower the learning rate.")
        if float((row.detach().cpu() - old.cpu()).norm()) <= 1e-6 * float(old.norm()):
            raise UserError(
                f"concept {slug}: the token is still its initial word after training. Raise learning_rate or steps."
            )
