"""Which image, view, timestep, prompt and noise each training step sees: all from counters, so a restart sees the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cgddi.core.images import TONES
from cgddi.core.seeds import seed_for
from cgddi.diffusion.latents import Views
from cgddi.diffusion.photos import Photo


@dataclass(frozen=True)
class Pool:
    """Images that one adapter draws from at each step.

    Args:
        seed: seed of these draws (from names, see `seed_for`).
        images: (n,) numbers of the images in the `Table`.
        chances: (n,) probabilities, summing to 1.
        prompts: (n, p) prompt numbers; one of the p is drawn.
        count: images per step.
    """

    seed: int
    images: np.ndarray
    chances: np.ndarray
    prompts: np.ndarray
    count: int


def tone_chances(photos: Sequence[Photo], exponent: float) -> np.ndarray:
    """Probability of each photo: a tone's frequency ** -exponent for each of its photos.

    Args:
        exponent: 0 draws photos evenly, 1 draws tones evenly (those present), .5 is in between.
    """
    counts = {tone: sum(photo.tone == tone for photo in photos) for tone in TONES}
    weights = np.array([counts[photo.tone] ** -exponent for photo in photos], np.float64)
    return weights / weights.sum()


@dataclass(frozen=True)
class Table:
    """Latents of all images of a job on the device.

    Args:
        mean, std: (N, V, C, h, w).
        weights: (N, V, 1, h, w) loss weights, or None for 1 everywhere.
        names: the N image ids, for messages.
    """

    mean: torch.Tensor
    std: torch.Tensor
    weights: torch.Tensor | None
    names: Sequence[str]


class Batches:
    """The batch of every step, for K adapters with equally many images each.

    Args:
        table: the latents.
        pools: per adapter its pools (instances first, then priors).
        views: how the views of the table are laid out.
        flip_chance: probability of the mirrored view.
        timesteps: the noise schedule's length.
        noise_offset: strength of a constant added to each channel's noise (0 none).
    """

    def __init__(
        self,
        table: Table,
        pools: Sequence[Sequence[Pool]],
        views: Views,
        flip_chance: float,
        timesteps: int,
        noise_offset: float = 0,
    ):
        self.table, self.pools, self.views, self.flip_chance = table, pools, views, flip_chance
        self.timesteps, self.noise_offset = timesteps, noise_offset
        self.shape = tuple(table.mean.shape[2:])
        self.device = table.mean.device
        self.random_latents = bool((table.std > 1e-4).any())

    def numbers(self, step: int) -> dict[str, np.ndarray]:
        """Image, view, timestep and prompt numbers of a step, each (K * n,) int64."""
        parts: dict[str, list[np.ndarray]] = {"image": [], "view": [], "steps": [], "prompt": []}
        for pools in self.pools:
            for pool in pools:
                draw = np.random.Generator(np.random.Philox(key=pool.seed, counter=step))
                u = draw.random((5, pool.count))
                chosen = np.searchsorted(np.cumsum(pool.chances)[:-1], u[0], side="right")
                flip = (u[1] < self.flip_chance) & self.views.flip
                frames = 1 + self.views.crops
                parts["image"].append(pool.images[chosen])
                parts["view"].append((u[2] * frames).astype(np.int64) + flip * frames)
                parts["steps"].append((u[3] * self.timesteps).astype(np.int64))
                parts["prompt"].append(pool.prompts[chosen, (u[4] * pool.prompts.shape[1]).astype(np.int64)])
        return {name: np.concatenate(values).astype(np.int64) for name, values in parts.items()}

    def noise(self, step: int, name: str) -> torch.Tensor:
        """Standard normal noise of a step, (K * n, C, h, w), drawn on the CPU so that every device sees the same."""
        return torch.cat(
            [normal(seed_for(p.seed, name, step), (p.count, *self.shape)) for ps in self.pools for p in ps]
        )

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """The batch of a step on the device: latents, noise, steps, prompt[, weights]."""
        numbers = self.numbers(step)
        noise = self.noise(step, "noise")
        if self.noise_offset:
            extra = [
                normal(seed_for(p.seed, "offset", step), (p.count, self.shape[0], 1, 1))
                for ps in self.pools
                for p in ps
            ]
            noise = noise + self.noise_offset * torch.cat(extra)
        fixed = torch.from_numpy(np.stack([numbers[name] for name in ("image", "view", "steps", "prompt")]))
        image, view, steps, prompt = self._move(fixed)
        latents = self.table.mean[image, view]
        if self.random_latents:
            latents = latents + self.table.std[image, view] * self._move(self.noise(step, "posterior"))
        batch = {"latents": latents, "noise": self._move(noise), "steps": steps, "prompt": prompt}
        if self.table.weights is not None:
            batch["weights"] = self.table.weights[image, view]
        return batch

    @property
    def counts(self) -> list[int]:
        """Samples of each kind in a group: instances, then priors."""
        return [pool.count for pool in self.pools[0]]

    def images_of(self, step: int) -> list[str]:
        """Names of the images of a step, (K * n) long."""
        return [self.table.names[number] for number in self.numbers(step)["image"]]

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)


def normal(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise of a seed, float32 on the CPU."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def columns_of(counts: Sequence[int], parts: int) -> torch.Tensor:
    """Which samples of a group go into which part (gradient accumulation), each part with the same make-up as the whole.

    Args:
        counts: samples of each kind in a group (photos, then priors); `parts` divides each.

    Returns:
        (parts, n / parts) int64.
    """
    kinds = torch.arange(sum(counts)).split(list(counts))
    return torch.cat([kind.reshape(parts, -1) for kind in kinds], dim=1)


def split_batch(
    batch: Mapping[str, torch.Tensor], adapters: int, columns: torch.Tensor | None
) -> list[dict[str, torch.Tensor]]:
    """Cut a batch of K groups into batches of K smaller groups, one per row of `columns` (see `columns_of`); None: as it is."""
    if columns is None:
        return [dict(batch)]
    grouped = {name: value.reshape(adapters, -1, *value.shape[1:]) for name, value in batch.items()}
    return [{name: value[:, part].flatten(0, 1) for name, value in grouped.items()} for part in columns]
