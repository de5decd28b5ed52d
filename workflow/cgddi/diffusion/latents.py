"""Latents of photos in all their declared views (flips, crops), computed once per photo and backbone, and loss weights beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cgddi.core.images import CLASSES, LESION
from cgddi.core.seeds import seed_for
from cgddi.diffusion.backbone import Backbone, Prompts
from cgddi.diffusion.cache import Store
from cgddi.diffusion.photos import Photo, fit_square


@dataclass(frozen=True)
class Views:
    """The augmentations whose latents are kept: every photo as it is, mirrored, and in random square crops.

    Args:
        flip: also the mirror image of each view.
        crops: random square crops besides the full frame, fixed by the photo's hash.
        crop_scale: smallest side of a crop as a share of the full side.
    """

    flip: bool = True
    crops: int = 0
    crop_scale: float = 0.8

    @property
    def count(self) -> int:
        """Views per photo."""
        return (1 + self.crops) * (2 if self.flip else 1)

    def of(self, photo: Photo, size: int, mask: bool = False) -> np.ndarray:
        """All views of a photo (or of its mask): (count, size, size[, 3]) uint8; mirrored ones in the second half."""
        full = photo.mask if mask else photo.pixels
        frames = [fit_square(full, size, mask)]
        for number in range(self.crops):
            draw = np.random.default_rng(seed_for(0, "crop", photo.sha256, number))
            share, y, x = draw.uniform(self.crop_scale, 1), draw.random(), draw.random()
            height, width = full.shape[:2]
            side = max(1, int(share * min(height, width)))
            top, left = int(y * (height - side + 1)), int(x * (width - side + 1))
            frames.append(fit_square(full[top : top + side, left : left + side], size, mask))
        if self.flip:
            frames += [frame[:, ::-1] for frame in frames]
        return np.stack(frames)


def latents_of(
    backbone: Backbone, store: Store, photos: Sequence[Photo], size: int, views: Views
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior mean and standard deviation of every view of every photo, from the cache or encoded now.

    Each photo is encoded by itself, so that its latents do not depend on which others were cached already.

    Returns:
        Two float32 tensors (photos, views, C, h, w) on the CPU, in the denoiser's units.
    """
    means, deviations = [], []
    for photo in photos:
        facts = [backbone.digests["vae"], photo.sha256, size, views.flip, views.crops, views.crop_scale]
        facts += [str(backbone.vae.dtype), backbone.device.type]

        def compute(photo: Photo = photo) -> dict[str, torch.Tensor]:
            mean, deviation = backbone.encode_images(views.of(photo, size))
            return {"mean": mean, "std": deviation}

        kept = store.get("latents", facts, compute)
        means.append(kept["mean"])
        deviations.append(kept["std"])
    return torch.stack(means), torch.stack(deviations)


def loss_weights(
    photos: Sequence[Photo], size: int, cells: int, views: Views, lesion_weight: float, ignore: Sequence[str]
) -> torch.Tensor:
    """Per-cell loss weights from the masks: `lesion_weight` on lesion, 0 on ignored classes, 1 elsewhere and without a mask.

    A cell that holds several classes gets their mean by area. Each view is scaled to mean 1 so that the learning rate keeps its
    meaning; a view that would be ignored entirely keeps weight 1 everywhere.

    Args:
        size: side of the image in px.
        cells: side of the latents.
        ignore: class names.

    Returns:
        (photos, views, 1, cells, cells) float32.
    """
    weights = torch.ones(len(photos), views.count, 1, cells, cells)
    values = np.ones(256, np.float32)
    values[LESION] = lesion_weight
    values[[CLASSES[name] for name in ignore]] = 0
    for number, photo in enumerate(photos):
        if photo.mask is None:
            continue
        weight = torch.from_numpy(values[views.of(photo, size, mask=True)])[:, None]
        weight = torch.nn.functional.adaptive_avg_pool2d(weight, cells)
        mean = weight.mean(dim=(1, 2, 3), keepdim=True)
        weights[number] = torch.where(mean > 1e-3, weight / mean.clamp(min=1e-3), torch.ones_like(weight))
    return weights


def prompts_of(backbone: Backbone, store: Store, prompts: Sequence[str]) -> Prompts:
    """Encode prompts through the cache; float32 on the backbone's device."""
    parts = []
    for prompt in prompts:
        kept = store.get(
            "prompts",
            backbone.prompt_facts(prompt),
            lambda prompt=prompt: {k: v.cpu() for k, v in backbone.encode_prompts([prompt]).tensors().items()},
        )
        parts.append(Prompts(kept["embeds"], kept.get("pooled")))
    return Prompts.cat(parts).to(backbone.device)
