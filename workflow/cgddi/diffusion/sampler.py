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
        self.negative = negative.to("cpu")
        self._graph: graphs.Step | None = None

    def timesteps(self) -> tuple[Any, torch.Tensor]:
        """A fresh solver and the timesteps it will run."""
        return self.backbone.rule.sampling(self.settings.sampler, self.settings.steps, self.settings.strength)

    @torch.inference_mode()
    def draw(
        self, prompts: Prompts, seeds: Sequence[int], mean: torch.Tensor | None, std: torch.Tensor | None
    ) -> torch.Tensor:
        """Images (n, size, size, 3) uint8 on the device, n = len(seeds) <= batch.

        With the solver of the default, and inputs on the CPU, a GPU is only given its work here and never waited for: what the
        solver counts with stays on the CPU, and copies go through pinned memory.

        Args:
            prompts: n encoded prompts.
            seeds: one per image; the posterior's noise is drawn first, then the start noise.
            mean, std: (n, C, h, w) latents of the canvases in the denoiser's units; None for text-to-image.
        """
        count = len(seeds)
        fill = [i % count for i in range(self.batch)]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def noise() -> torch.Tensor:
            return torch.stack([torch.randn(self.shape, generator=g) for g in generators])[fill]

        scheduler, steps = self.timesteps()
        rule = self.backbone.rule
        clean = None if mean is None else mean[fill].cpu() + std[fill].cpu() * noise()
        latents = self._send(rule.begin(scheduler, noise(), clean, steps[:1]))
        both = Prompts.cat([self.negative[[0] * self.batch], prompts.to("cpu")[fill]])
        both = Prompts(*(part if part is None else self._send(part) for part in (both.embeds, both.pooled)))
        both = both.to(self.backbone.dtype)
        for step, sent in zip(steps, self._send(steps), strict=True):
            predicted = self._guided(rule.seen(scheduler, latents, step), sent, both)
            latents = scheduler.step(predicted, step, latents, return_dict=False)[0]
        failed = ~torch.isfinite(latents).flatten(1).all(dim=1)
        images = self.backbone.decode(latents).masked_fill(failed[:, None, None, None], 0)  # black, see `is_blank`
        return images[:count]

    def _send(self, value: torch.Tensor) -> torch.Tensor:
        """A tensor on the device, behind the work that the device has already."""
        if self.backbone.device.type == "cuda" and value.device.type == "cpu":
            value = value.pin_memory()
        return value.to(self.backbone.device, non_blocking=True)

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


class Arriving:
    """Images on their way from the device to the CPU; more work can be given to the device before one waits for them.

    Args:
        images: from `Sampler.draw`.
    """

    def __init__(self, images: torch.Tensor):
        self._images, self._event = images, None
        if images.device.type == "cuda":
            self._images = torch.empty(images.shape, dtype=images.dtype, pin_memory=True)
            self._images.copy_(images, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def here(self) -> bool:
        """Whether nothing would have to be waited for."""
        return self._event is None or self._event.query()

    def wait(self) -> torch.Tensor:
        """The images on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._images


def is_blank(image: torch.Tensor) -> bool:
    """Whether a (H, W, 3) uint8 image is what a failed draw looks like: black, or one value all over."""
    return int(image.max()) <= 2 or int(image.max()) == int(image.min())
