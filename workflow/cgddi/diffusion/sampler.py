"""Batched sampling: image-to-image and text-to-image with one static batch shape; every image from its own seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cgddi.diffusion import graphs
from cgddi.diffusion.backbone import Backbone, Prompts


@dataclass(frozen=True)
class SampleSettings:
    """How to sample (see `SemanticSettings` for the fields' meaning)."""

    sampler: str = "dpmsolver++"
    steps: int = 20
    strength: float | None = 0.725
    guidance: float = 8.75
    guidance_rescale: float = 0.0


class Sampler:
    """Draws images of one size in batches of one size.

    With the same seeds, diffusers' own img2img and text-to-image pipelines called image by image give the same pictures.

    Args:
        backbone: the model, adapters and tokens in place.
        settings: how to sample; `strength` None is text-to-image.
        size: side of the images in px.
        batch: images per batch; smaller batches are filled up and cut.
        negative: the unconditional prompt, (1, ...).
    """

    def __init__(self, backbone: Backbone, settings: SampleSettings, size: int, batch: int, negative: Prompts):
        self.backbone, self.settings, self.size, self.batch = backbone, settings, size, batch
        self.shape = backbone.latent_shape(size)
        self.negative = negative
        self._graph: graphs.Step | None = None

    def timesteps(self) -> tuple[Any, torch.Tensor]:
        """A fresh solver and the timesteps it will run."""
        return self.backbone.rule.sampling(self.settings.sampler, self.settings.steps, self.settings.strength)

    @torch.inference_mode()
    def draw(
        self, prompts: Prompts, seeds: Sequence[int], mean: torch.Tensor | None, std: torch.Tensor | None
    ) -> torch.Tensor:
        """Images (n, size, size, 3) uint8 on the device, n = len(seeds) <= batch.

        Args:
            prompts: n encoded prompts.
            seeds: one per image; the posterior's noise is drawn first, then the start noise.
            mean, std: (n, C, h, w) latents of the canvases in the denoiser's units; None for text-to-image.
        """
        count, device = len(seeds), self.backbone.device
        fill = [i % count for i in range(self.batch)]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def noise() -> torch.Tensor:
            return torch.stack([torch.randn(self.shape, generator=g) for g in generators])[fill].to(device)

        scheduler, steps = self.timesteps()
        rule = self.backbone.rule
        clean = None if mean is None else mean[fill].to(device) + std[fill].to(device) * noise()
        latents = rule.begin(scheduler, noise(), clean, steps[:1])
        both = Prompts.cat([self.negative[[0] * self.batch].to(device), prompts[fill].to(device)]).to(
            self.backbone.dtype
        )
        for step in steps:
            predicted = self._guided(rule.seen(scheduler, latents, step), step, both)
            latents = scheduler.step(predicted, step, latents, return_dict=False)[0]
        images = self.backbone.decode(latents)
        images[~torch.isfinite(latents).flatten(1).all(dim=1)] = 0  # a failed draw is black all over, see `is_blank`
        return images[:count]

    def _guided(self, latents: torch.Tensor, step: torch.Tensor, both: Prompts) -> torch.Tensor:
        scale = self.settings.guidance
        if scale <= 1:
            return self._denoise(latents, step, both[self.batch :]).float()
        uncond, cond = self._denoise(torch.cat([latents, latents]), step, both).float().chunk(2)
        guided = uncond + scale * (cond - uncond)
        if self.settings.guidance_rescale:
            # Lin et al. 2024, section 3.4, eqs. 14-16.
            dims = (1, 2, 3)
            matched = guided * (cond.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
            guided = self.settings.guidance_rescale * matched + (1 - self.settings.guidance_rescale) * guided
        return guided

    def _denoise(self, latents: torch.Tensor, step: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        if not graphs.wanted(self.backbone.device):
            return self.backbone.denoise(latents, step, prompts)
        batch = {"latents": latents, "step": step, **prompts.tensors()}
        if self._graph is None:

            def denoise(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
                given = Prompts(batch["embeds"], batch.get("pooled"))
                return (self.backbone.denoise(batch["latents"], batch["step"], given),)

            self._graph = graphs.captured(denoise, batch)
        return self._graph(batch)[0]


def is_blank(image: torch.Tensor) -> bool:
    """Whether a (H, W, 3) uint8 image is what a failed draw looks like: black, or one value all over."""
    return int(image.max()) <= 2 or int(image.max()) == int(image.min())
