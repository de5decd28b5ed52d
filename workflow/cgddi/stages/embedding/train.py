"""Textual inversion of one concept, or of several together: only the new rows of the token table are trained."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgddi.core.archive import installed_versions, record_for, write_record
from cgddi.core.errors import UserError
from cgddi.core.seeds import seed_for
from cgddi.diffusion import jobs
from cgddi.diffusion.backbone import Backbone, Prompts, load
from cgddi.diffusion.batches import Batches, Pool, tone_chances
from cgddi.diffusion.cache import Store
from cgddi.diffusion.checkpoint import Checkpoint, leaving
from cgddi.diffusion.fit import Fit
from cgddi.diffusion.latents import Views
from cgddi.diffusion.objective import Objective
from cgddi.diffusion.photos import Photo, read_photos
from cgddi.diffusion.sheet import write_sheet
from cgddi.diffusion.tokens import start_rows
from cgddi.diffusion.training import common, plan_of, table_of
from cgddi.diffusion.validation import tone_losses
from cgddi.diffusion.weights import write_tensors
from cgddi.stages.embedding.settings import VERSIONS, EmbeddingSettings

FILE = "learned_embeds.safetensors"


@dataclass(frozen=True)
class TokenJob:
    """What one token is made of and where it goes.

    Args:
        spec: concept {slug, name, token}, images (training ids), model, settings, seed.
        photos: masks archives that hold the images.
        output: folder to write to.
    """

    spec: Mapping[str, Any]
    photos: Sequence[Path]
    output: Path

    @property
    def slug(self) -> str:
        """The concept's slug."""
        return self.spec["concept"]["slug"]

    @property
    def token(self) -> str:
        """The token as written in prompts."""
        return self.spec["concept"]["token"]


@leaving()
def train_tokens(
    pack: Sequence[TokenJob],
    state: Path | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    backbone: Backbone | None = None,
    curves: Path | None = None,
    used: MutableMapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Train the tokens of some concepts together, each as it would be alone, and write `learned_embeds.safetensors`,
    `record.json` and `metrics.jsonl` for each.

    Args:
        pack: the jobs; equal settings, model and seed.
        state, cache: folders of checkpoints and of latents.
        device: where to train.
        backbone: a loaded model of the same source without added tokens, else it is loaded.
        curves: name of the files that show the training (see `jobs.Curves`).
        used: gets `steps`, how many were taken now, over all concepts; a resumed run took the others before.

    Returns:
        The records.

    Raises:
        UserError: bad settings, unreadable photos, a loss that is not a number, or a token that stayed where it started.
    """
    settings, model, seed = common(pack, EmbeddingSettings, "embedding")
    photos = [read_photos(job.photos, job.spec["images"]) for job in pack]
    backbone = backbone or load(model, torch.device(device), settings.precision)
    views = Views(settings.hflip > 0, settings.crops, settings.crop_scale)
    every = list({photo.id: photo for some in photos for photo in some}.values())
    table, place = table_of(backbone, Store(cache), every, views, settings), {p.id: n for n, p in enumerate(every)}

    pairs = zip(backbone.tokenizers, backbone.text_encoders, strict=True)
    start = [start_rows(tokenizer, encoder, settings.init_token, settings.vectors) for tokenizer, encoder in pairs]
    for job in pack:
        holders = backbone.add_token(job.token, start)
    rows = [holder.grouped(len(pack)) for holder in holders]
    known, pools = jobs.PromptList(), []
    for job, some in zip(pack, photos, strict=True):
        pools.append(
            Pool(
                seed_for(seed, "embedding", job.slug),
                np.array([place[photo.id] for photo in some]),
                tone_chances(some, settings.tone_exponent),
                _prompts(known, some, settings, job.token),
                settings.batch * settings.accumulation,
            )
        )
    prompts = known.texts
    ids = backbone.tokenize(prompts)

    def encode(wanted: torch.Tensor) -> Prompts:
        if len(prompts) <= len(wanted):  # every prompt once, then looked up: cheaper than one per sample
            return backbone.encode_ids(ids)[wanted]
        return backbone.encode_ids([batch[wanted] for batch in ids])

    single = [[pool] for pool in pools]
    batches = Batches(table, single, views, settings.hflip, backbone.rule.steps, settings.noise_offset)
    objective = Objective(backbone, encode, len(pack), 0.0, 0.0, settings.min_snr)
    facts: list[Any] = [[dict(job.spec) for job in pack], backbone.digest]
    facts += [[[p.facts for p in some] for some in photos], installed_versions(VERSIONS)]
    checkpoint = Checkpoint(state, "embedding", facts)
    one = replace(objective, adapters=1)
    measures = [
        tone_losses(one, table, some, pool, settings.validation_photos, settings.validation_timesteps)
        for some, pool in zip(photos, pools, strict=True)
    ]
    slugs = [job.slug for job in pack]
    live, plan = jobs.Curves(curves, slugs), plan_of(settings, settings.lr, backbone.dtype)

    def preview(step: int) -> None:
        for job in pack:
            write_sheet(live.path(f"{job.slug}-{step:06d}.png"), backbone, job.spec, settings)

    fit = Fit(
        {f"rows.{i}": value for i, value in enumerate(rows)},
        len(pack),
        objective,
        batches,
        plan,
        checkpoint,
        lambda: [measure() for measure in measures],
        live,
        f"token {'+'.join(slugs)}",
    )
    fit.preview = preview if curves else None
    outcome = fit.run()
    live.close()
    if used is not None:
        used["steps"] = len(pack) * (settings.steps - outcome.resumed_at)
    records = []
    for k, job in enumerate(pack):
        learned = [value[k].detach().float().cpu() for value in rows]
        _check_moved(job.slug, learned, start, plan.decay)
        tensors = {job.token: learned[0]} if len(learned) == 1 else {"clip_l": learned[0], "clip_g": learned[1]}
        texts = [prompts[i] for i in sorted(set(pools[k].prompts.flatten().tolist()))]
        facts = {"base_sha256": backbone.digest, "prompts": texts}
        metadata = jobs.header(
            job.spec,
            VERSIONS,
            photos[k],
            images=[[p.id, p.sha256] for p in photos[k]],
            **facts,
        )
        write_tensors(job.output / FILE, tensors, {"token": job.token, **metadata})
        history = outcome.of(k)
        jobs.write_history(job.output, history)
        moved = [float((a - b.cpu()).norm()) for a, b in zip(learned, start, strict=True)]
        record = record_for(
            job.spec,
            job.photos,
            training_images=list(job.spec["images"]),
            moved=[float(f"{value:.6g}") for value in moved],
            last=history[-1] if history else {},
            **facts,
        )
        write_record(job.output / "record.json", record)
        records.append(record)
    checkpoint.remove()
    return records


def _prompts(known: jobs.PromptList, photos: Sequence[Photo], settings: EmbeddingSettings, token: str) -> np.ndarray:
    """Per photo the numbers of the prompts it may be shown with, (n, templates)."""
    return np.array(
        [
            [
                known.number(jobs.fill_prompt(t, token, photo.tone) + jobs.suffix_of(photo, settings))
                for t in settings.prompts
            ]
            for photo in photos
        ]
    )


def _check_moved(slug: str, rows: Sequence[torch.Tensor], start: Sequence[torch.Tensor], decay: float) -> None:
    """Refuse rows that no gradient has moved: those that are their start times `decay`, up to rounding (1e-4 of their length; 500
    roundings of float32 make some 1e-6)."""
    for row, old in zip(rows, start, strict=True):
        if not torch.isfinite(row).all():
            raise UserError(f"concept {slug}: the learned token is not a finite number. Lower the learning rate.")
        old = decay * old.cpu()
        still = (row - old).norm(dim=1) <= 1e-4 * old.norm(dim=1)
        if still.any():
            which = ", ".join(str(n + 1) for n in still.nonzero().flatten().tolist())
            raise UserError(
                f"concept {slug}: the token is still its initial word after training (vector {which} of {len(row)}; weight decay "
                "aside). Raise learning_rate or steps."
            )
