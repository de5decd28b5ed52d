"""Batched sampling: image-to-image and text-to-image with one static batch shape; every image from its own seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgddi.core.archive import write_atomic
from cgddi.core.images import TONES, encode_png
from cgddi.core.seeds import seed_for
from cgddi.diffusion.backbone import Backbone, Prompts
from cgddi.diffusion.schedule import initial_latents
from cgddi.diffusion.settings import TrainingSettings
from cgddi.job.gpu import send


@dataclass(frozen=True)
class SampleSettings:
    """How to sample (see `SemanticSettings` for the fields' meaning); `strength` None is text-to-image."""

    sampler: str = "dpmsolver++"
    steps: int = 20
    strength: float | None = 0.725
    guidance: float = 8.75
    guidance_rescale: float = 0.0


class Sampler:
    """Draws images of one size in batches of one size.

    With the same seeds, diffusers' own img2img and text-to-image pipelines called image by image give the same pictures; but
    for img2img by DPM-Solver++ (the default), which starts exactly at `strength`: 15 calls from t=724, diffusers' 14 from 699.

    Args:
        backbone: the model, adapters and tokens in place.
        size: side of the images in px.
        batch: images per batch; smaller batches are filled up and cut.
        negative: what guidance leads away from, (1, ...); `draw` may be given one for each image instead.
    """

    def __init__(self, backbone: Backbone, settings: SampleSettings, size: int, batch: int, negative: Prompts):
        self.backbone, self.settings, self.size, self.batch = backbone, settings, size, batch
        self.shape = backbone.latent_shape(size)
        self.negative = negative.to("cpu")

    def timesteps(self) -> tuple[Any, torch.Tensor]:
        """A fresh solver and the timesteps it will run."""
        return self.backbone.schedule.sampling(self.settings.sampler, self.settings.steps, self.settings.strength)

    @torch.inference_mode()
    def draw(
        self,
        prompts: Prompts,
        seeds: Sequence[int],
        mean: torch.Tensor | None,
        std: torch.Tensor | None,
        negatives: Prompts | None = None,
    ) -> torch.Tensor:
        """Images (n, size, size, 3) uint8 on the device, n = len(seeds) <= batch.

        With the solver of the default, and inputs on the CPU, a GPU is only given its work here and never waited for: what the
        solver counts with stays on the CPU, and copies go through pinned memory.

        Args:
            seeds: one per image; the posterior's noise is drawn first, then the start noise.
            mean, std: (n, C, h, w) latents of the canvases in the denoiser's units; None for text-to-image.
            negatives: n encoded prompts that guidance leads away from; None: the sampler's own for all.
        """
        count = len(seeds)
        fill = [i % count for i in range(self.batch)]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def noise() -> torch.Tensor:
            return torch.stack([torch.randn(self.shape, generator=g) for g in generators])[fill]

        scheduler, steps = self.timesteps()
        clean = None if mean is None else mean[fill].cpu() + std[fill].cpu() * noise()
        latents = send(initial_latents(scheduler, noise(), clean, steps[:1]), self.backbone.device)
        away = self.negative[[0] * self.batch] if negatives is None else negatives.to("cpu")[fill]
        both = Prompts.cat([away, prompts.to("cpu")[fill]])
        both = Prompts(
            *(part if part is None else send(part, self.backbone.device) for part in (both.embeds, both.pooled))
        )
        both = both.to(self.backbone.dtype)
        for step, sent in zip(steps, send(steps, self.backbone.device), strict=True):
            predicted = self._guided(scheduler.scale_model_input(latents, step), sent, both)
            latents = scheduler.step(predicted, step, latents, return_dict=False)[0]
        failed = ~torch.isfinite(latents).flatten(1).all(dim=1)
        images = self.backbone.decode(latents).masked_fill(failed[:, None, None, None], 0)  # black, see `is_blank`
        return images[:count]

    def _guided(self, latents: torch.Tensor, step: torch.Tensor, both: Prompts) -> torch.Tensor:
        """Prediction with classifier-free guidance (Ho & Salimans 2022), rescaled (Lin et al. 2024, section 3.4, eqs. 14-16)."""
        scale, rescale = self.settings.guidance, self.settings.guidance_rescale
        if scale <= 1:
            return self.backbone.denoise(latents, step, both[self.batch :]).float()
        uncond, cond = self.backbone.denoise(torch.cat([latents, latents]), step, both).float().chunk(2)
        guided = uncond + scale * (cond - uncond)
        if rescale:
            dims = (1, 2, 3)
            matched = guided * (cond.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
            guided = rescale * matched + (1 - rescale) * guided
        return guided


class PendingImages:
    """Images on their way from the device to the CPU; more work can be given to the device before one waits for them."""

    def __init__(self, images: torch.Tensor):
        self._images, self._event = images, None
        if images.device.type == "cuda":
            self._images = torch.empty(images.shape, dtype=images.dtype, pin_memory=True)
            self._images.copy_(images, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def ready(self) -> bool:
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


def tile(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Images (n, H, W, 3) uint8 row by row on one white sheet."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_grid(
    path: Path, backbone: Backbone, spec: Mapping[str, Any], settings: TrainingSettings, prompt: str
) -> None:
    """Sample a concept from noise as the model stands now, tones as rows, the same noise in each, and write the grid.

    Args:
        spec: the job's; its concept's token and its seed are read.
        settings: image_size and what starts with `grid_`. Guidance is rescaled by half where the model's last timestep is pure
            noise: such models overshoot (Lin et al. 2024, section 3.4).
    """
    how = SampleSettings(
        steps=settings.grid_steps,
        strength=None,
        guidance=settings.grid_guidance,
        guidance_rescale=0.5 if backbone.schedule.ends_in_noise else 0.0,
    )
    columns = settings.grid_columns
    sampler = Sampler(backbone, how, settings.image_size, columns * len(TONES), backbone.empty_negative(""))
    texts = [prompt.format(token=spec["concept"]["token"], tone=tone) for tone in TONES]
    prompts = backbone.encode_prompts(texts).to("cpu")
    seeds = [seed_for(spec["seed"], "grid", column) for column in range(columns)]
    rows = [number for number in range(len(TONES)) for _ in range(columns)]
    images = sampler.draw(prompts[rows], seeds * len(TONES), None, None)
    write_atomic(path, encode_png(tile(images.cpu().numpy(), columns)))
