"""What training of tokens and of adapters shares: the settings of a pack, the table of its latents, the plan of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from pydantic import BaseModel

from cgddi.core.archive import canonical
from cgddi.core.errors import UserError
from cgddi.diffusion.backbone import Backbone
from cgddi.diffusion.batches import Table
from cgddi.diffusion.cache import Store
from cgddi.diffusion.latents import Views, latents_of, loss_weights
from cgddi.diffusion.optimise import Plan, loss_scale
from cgddi.diffusion.photos import Photo
from cgddi.job.spec import need, settings_of

Settings = TypeVar("Settings", bound=BaseModel)


class Job(Protocol):
    """A job of a pack: its spec, and its concept's slug."""

    @property
    def spec(self) -> Mapping[str, Any]: ...

    @property
    def slug(self) -> str: ...


def common(pack: Sequence[Job], model: type[Settings], stage: str) -> tuple[Settings, Mapping[str, Any], int]:
    """Settings, diffusion model and seed of jobs that are trained together.

    Raises:
        UserError: a job without images or with a spec that lacks keys, or jobs that differ in any of the three.
        InvalidInput: settings that the stage's model refuses.
    """
    for job in pack:
        need(job.spec, "concept", "images", "model", "seed")
        if not job.spec["images"]:
            raise UserError(f"concept {job.slug}: no training image. Give it one, or leave the concept out.")
    if len({canonical([job.spec.get("settings", {}), job.spec["model"], job.spec["seed"]]) for job in pack}) != 1:
        raise UserError(
            f"{stage}: concepts trained together must have equal settings, model and seed. Train them one at a time."
        )
    spec = pack[0].spec
    return settings_of(model, spec), spec["model"], spec["seed"]


def table_of(backbone: Backbone, store: Store, photos: Sequence[Photo], views: Views, settings: Any) -> Table:
    """Latents of photos in their order, on the backbone's device, with loss weights where the settings ask for them.

    Args:
        settings: image_size, lesion_weight and ignore_mask_classes are read.
    """
    size, move = settings.image_size, backbone.device
    cells = backbone.latent_shape(size)[1]
    mean, std = latents_of(backbone, store, photos, size, views)
    weights = None
    if settings.lesion_weight != 1 or settings.ignore_mask_classes:
        weights = loss_weights(photos, size, cells, views, settings.lesion_weight, settings.ignore_mask_classes)
        weights = weights.to(move)
    return Table(mean.to(move), std.to(move), weights, [photo.id for photo in photos])


def plan_of(settings: Any, lr: float, dtype: torch.dtype) -> Plan:
    """The plan of a stage's settings.

    Args:
        settings: those of the embedding or lora stage. lr: learning rate in force. dtype: of the frozen model.
    """
    return Plan(
        steps=settings.steps,
        lr=lr,
        schedule=settings.lr_schedule,
        warmup=settings.warmup,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        ema=settings.ema,
        accumulation=settings.accumulation,
        loss_scale=loss_scale(dtype),
        checkpoint_every=settings.checkpoint_every,
        log_every=settings.log_every,
        validate_every=settings.validate_every,
        preview_every=settings.grid_every,
    )
