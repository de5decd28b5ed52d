"""Train LoRA adapters: one concept, or several together over one frozen base (each as it would be alone)."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgddi.core.archive import file_sha256, installed_versions, record_for, write_record
from cgddi.core.errors import UserError
from cgddi.core.seeds import seed_for
from cgddi.diffusion import adapters, jobs
from cgddi.diffusion.backbone import Backbone, load
from cgddi.diffusion.batches import Batches, Pool, Table, tone_chances
from cgddi.diffusion.cache import Store
from cgddi.diffusion.checkpoint import Checkpoint, leaving
from cgddi.diffusion.fit import Fit
from cgddi.diffusion.latents import Views, prompts_of
from cgddi.diffusion.objective import Objective
from cgddi.diffusion.photos import Photo, read_photos
from cgddi.diffusion.tokens import read_embedding
from cgddi.diffusion.training import common, plan_of, table_of
from cgddi.diffusion.validation import tone_losses
from cgddi.stages.lora import data, grid
from cgddi.stages.lora.data import LoraJob
from cgddi.stages.lora.layers import OwnLayers, PeftLayers
from cgddi.stages.lora.settings import VERSIONS, LoraSettings


@leaving()
def train_lora(
    pack: Sequence[LoraJob],
    state: Path | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    backbone: Backbone | None = None,
    curves: Path | None = None,
    used: MutableMapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Train the adapters of a pack and write, per job, `pytorch_lora_weights.safetensors`, `record.json` and `metrics.jsonl`.

    Args:
        pack: the jobs; equal settings, model and seed.
        state, cache: folders of checkpoints and of latents.
        device: where to train.
        backbone: a loaded model of the same source without this pack's tokens, else it is loaded.
        curves: name of the files that show the training (see `jobs.Curves`).
        used: gets `steps`, how many were taken now, over all concepts; a resumed run took the others before.

    Returns:
        The records.

    Raises:
        UserError: bad settings, unreadable photos, a loss that is not a number, an adapter that did not move.
    """
    settings, model, seed = common(pack, LoraSettings, "lora")
    backbone = backbone or load(model, torch.device(device), settings.precision)
    store = Store(cache)
    views = Views(settings.hflip > 0, settings.crops, settings.crop_scale)

    instances = [read_photos(job.photos, job.spec["images"]) for job in pack]
    places = [(tuple(job.canvases), job.split) for job in pack]
    canvases_at = {
        place: data.read_canvases(*place) for place in dict.fromkeys(places)
    }  # most packs have but one place
    priors = [
        data.choose_priors(canvases_at[place], settings, seed, len(photos))
        for place, photos in zip(places, instances, strict=True)
    ]
    table, order = _table(backbone, store, instances, priors, views, settings)
    prompts, pools = jobs.PromptList(), []
    for job, photos, canvases in zip(pack, instances, priors, strict=True):
        token, rows = read_embedding(job.embedding, job.spec["concept"]["token"], backbone.digest)
        backbone.add_token(token, rows)
        captions = [[prompts.number(data.instance_prompt(p, settings, token))] for p in photos]
        kinds = [
            Pool(
                seed_for(seed, "lora", job.slug),
                data.numbers_of(photos, order, "photo"),
                tone_chances(photos, settings.tone_exponent),
                np.array(captions),
                settings.instances,
            )
        ]
        if canvases:
            captions = [[prompts.number(data.prior_prompt(p, settings))] for p in canvases]
            numbers = data.numbers_of(canvases, order, "canvas")
            chances = tone_chances(canvases, settings.prior_tone_exponent)
            kinds.append(
                Pool(
                    seed_for(seed, "lora", job.slug, "prior"),
                    numbers,
                    chances,
                    np.array(captions),
                    settings.priors_per_step,
                )
            )
        pools.append(kinds)
    count, plain = len(pack), not (settings.use_dora or settings.text_encoder_rank)
    slugs = [job.slug for job in pack]
    if settings.text_encoder_rank:
        ids = backbone.tokenize(prompts.texts)
        encode = lambda wanted: backbone.encode_ids([batch[wanted] for batch in ids])  # noqa: E731
    else:
        encode = prompts_of(backbone, store, prompts.texts).__getitem__
    layers = OwnLayers(backbone, settings, slugs, seed) if plain else PeftLayers(backbone, settings, slugs[0], seed)
    batches = Batches(table, pools, views, settings.hflip, backbone.rule.steps, settings.noise_offset)
    share = settings.priors_per_step / (settings.instances + settings.priors_per_step) if len(pools[0]) == 2 else 0.0
    objective = Objective(backbone, encode, count, share, settings.prior_weight, settings.min_snr)
    one = replace(objective, adapters=1)
    measures = [
        tone_losses(one, table, photos, pool[0], settings.validation_photos, settings.validation_timesteps)
        for photos, pool in zip(instances, pools, strict=True)
    ]

    def validate() -> list[dict[str, float]]:
        found = []
        for k, measure in enumerate(measures):
            with layers.only(k):
                found.append(measure())
        return found

    facts = [[dict(job.spec) for job in pack], backbone.digest, [file_sha256(job.embedding) for job in pack]]
    facts += [[[p.facts for p in photos] for photos in (*instances, *priors)], installed_versions(VERSIONS)]
    checkpoint = Checkpoint(state, "lora", facts)
    live = jobs.Curves(curves, slugs)

    def preview(step: int) -> None:
        for k, job in enumerate(pack):
            with layers.only(k):
                grid.write_sheet(live.path(f"{job.slug}-{step:06d}.png"), backbone, job.spec, settings)

    fit = Fit(
        layers.parameters,
        count,
        objective,
        batches,
        plan_of(settings, settings.learning_rate, backbone.dtype),
        checkpoint,
        validate,
        live,
        f"lora {'+'.join(slugs)}",
    )
    fit.preview = preview if curves else None
    try:
        outcome = fit.run()
        live.close()
        if used is not None:
            used["steps"] = count * (settings.steps - outcome.resumed_at)
        tensors = [layers.export(k) for k in range(count)]
    finally:
        layers.remove()
    records = []
    for k, job in enumerate(pack):
        unmoved = _unmoved(job.slug, tensors[k])
        metadata = jobs.header(
            job.spec,
            VERSIONS,
            [*instances[k], *priors[k]],
            base_sha256=backbone.digest,
            prompts=[prompts.texts[i] for i in sorted({int(n) for pool in pools[k] for n in pool.prompts.flatten()})],
            images=[[p.id, p.sha256] for p in instances[k]],
            priors=[[p.id, p.sha256] for p in priors[k]],
        )
        adapters.write_adapter(job.output / adapters.FILE, tensors[k], metadata)
        history = outcome.of(k)
        jobs.write_history(job.output, history)
        grid.write_grid(backbone, job, settings)
        files = [*job.photos, *job.canvases, *([job.split] if job.split else []), job.embedding]
        record = record_for(
            job.spec,
            files,
            training_images=list(job.spec["images"]),
            prior_images=[p.id for p in priors[k]],
            base_sha256=backbone.digest,
            parameters=sum(t.numel() for t in tensors[k].values()),
            unmoved_layers=unmoved,
            last=history[-1] if history else {},
        )
        write_record(job.output / "record.json", record)
        records.append(record)
    checkpoint.remove()
    return records


def _table(
    backbone: Backbone,
    store: Store,
    instances: Sequence[Sequence[Photo]],
    priors: Sequence[Sequence[Photo]],
    views: Views,
    settings: LoraSettings,
) -> tuple[Table, dict[tuple[str, str], int]]:
    """Latents of every image of the pack, each once, and where it stands."""
    found: dict[tuple[str, str], Photo] = {}
    for photos in instances:
        found |= {("photo", photo.id): photo for photo in photos}
    for photos in priors:
        found |= {("canvas", photo.id): photo for photo in photos}
    table = table_of(backbone, store, list(found.values()), views, settings)
    return table, {key: number for number, key in enumerate(found)}


STILL = 1e-7
"""Root mean square of B below which a layer counts as unmoved. AdamW moves each number by about the learning rate a step: by 1e-4
in one step of the default, 3e-3 in a published run. With A's numbers near 1 / rank, a B of 1e-7 changes weights of some 0.02 by
less than 1e-5 of themselves: nothing, in any precision a picture is drawn in."""


def _unmoved(slug: str, tensors: Mapping[str, torch.Tensor]) -> list[str]:
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
