"""Inpainting by a diffusers pipeline of any family: Kandinsky 2.2, Stable Diffusion (4 or 9 channels) or SDXL."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch.nn import functional

from cgddi.core.errors import UserError
from cgddi.job.imports import without_gc
from cgddi.job.runtime import torch_dtype
from cgddi.stages.healthy.settings import HealthySettings

COMBINED = "KandinskyV22InpaintCombinedPipeline"


class DiffusionInpainter:
    """Inpaints with a pipeline.

    Args:
        model: {"source": folder or hub id, "revision": commit or None, "variant": e.g. "fp16" or None}.
        settings: prompts, steps, guidance, sizes and precision.
    """

    name = "diffusion"

    def __init__(self, model: Mapping[str, Any], settings: HealthySettings, device: torch.device):
        self.settings, self.device = settings, device
        self.pipeline = load_pipeline(model, settings, torch_dtype(settings.precision)).to(device)
        for part in ("prior_pipe", "decoder_pipe"):
            if hasattr(self.pipeline, part):
                getattr(self.pipeline, part).set_progress_bar_config(disable=True)
        DiffusionPipeline.set_progress_bar_config(self.pipeline, disable=True)
        self.decoder = getattr(self.pipeline, "decoder_pipe", self.pipeline)
        self.cell = getattr(self.decoder, "movq_scale_factor", None) or self.decoder.vae_scale_factor

    def inpaint(
        self,
        photos: Sequence[np.ndarray],
        regions: Sequence[np.ndarray],
        seeds: Sequence[int],
    ) -> list[np.ndarray | None]:
        """Inpaint each photo; noise is drawn per image on the CPU, whatever the batch or the device.

        Args:
            photos: (H, W, 3) uint8, of one size.
            regions: (H, W) uint8 weights; where above 0 the photo is unknown.
            seeds: one per photo; a result depends on its own photo and seed alone.

        Returns:
            (H, W, 3) uint8 per photo, or None where the model gave NaN or black.
        """
        height, width = photos[0].shape[:2]
        side = self.settings.image_size
        run_width, run_height = (width, height) if side is None else (side, side)
        if run_width % self.cell or run_height % self.cell:
            raise UserError(
                f"healthy.image_size: {run_width}x{run_height} px is no multiple of {self.cell}, which this model needs."
            )
        size = (run_width, run_height)
        pictures = [Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS) for photo in photos]
        masks = [Image.fromarray(whole_cells(region > 0, size, self.cell)) for region in regions]
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with torch.no_grad(), np.errstate(invalid="ignore"):
            images = self._images(pictures, masks, generators)
        return [finished(np.asarray(image, dtype=np.float32), (width, height)) for image in images]

    def _images(
        self, pictures: list[Image.Image], masks: list[Image.Image], generators: list[torch.Generator]
    ) -> Sequence[np.ndarray]:
        settings = self.settings
        if hasattr(self.pipeline, "prior_pipe"):
            prompts = settings.prompt, settings.negative_prompt
            options = settings.steps, settings.prior_steps, settings.guidance
            return inpaint_batch(self.decoder, self.pipeline.prior_pipe, pictures, masks, prompts, *options, generators)
        call = {"width": pictures[0].width, "height": pictures[0].height, "output_type": "np"}
        if "strength" in inspect.signature(self.pipeline.__call__).parameters:
            call["strength"] = 1.0  # start anew
        return self.pipeline(
            prompt=[settings.prompt] * len(pictures),
            negative_prompt=[settings.negative_prompt] * len(pictures),
            image=pictures,
            mask_image=masks,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=generators,
            **call,
        ).images


def finished(image: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """A pipeline's (h, w, 3) float image, 0 to 1, as uint8 of `size` (width, height); None when it is NaN or black."""
    if not np.isfinite(image).all() or image.max() < 1 / 255:
        return None
    picture = Image.fromarray(np.rint(image.clip(0, 1) * 255).astype(np.uint8))
    return np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS))


def whole_cells(region: np.ndarray, size: tuple[int, int], cell: int) -> np.ndarray:
    """The region as a (h, w) uint8 mask, 255 inside, grown to whole latent cells.

    Pipelines shrink masks by picking one pixel per cell; a thin ink line would fall between. Here a cell is painted when any of
    its pixels is.

    Args:
        region: (H, W) bool.
        size: (width, height) at which the pipeline runs, multiples of `cell`.
        cell: px per latent cell.
    """
    width, height = size
    ys, xs = np.nonzero(region)
    cells = np.zeros((height // cell, width // cell), bool)
    rows = (
        (ys * (height / region.shape[0]) / cell).astype(int),
        ((ys + 1) * (height / region.shape[0]) / cell - 1e-9).astype(int),
    )
    columns = (
        (xs * (width / region.shape[1]) / cell).astype(int),
        ((xs + 1) * (width / region.shape[1]) / cell - 1e-9).astype(int),
    )
    for row in rows:
        for column in columns:
            cells[row, column] = True
    return np.repeat(np.repeat(cells, cell, 0), cell, 1).astype(np.uint8) * 255


def load_pipeline(model: Mapping[str, Any], settings: HealthySettings, dtype: torch.dtype):
    """The inpainting pipeline of a model, from safetensors only.

    `AutoPipelineForInpainting` picks the class. A Kandinsky 2.2 decoder lies on the hub apart from its prior: both are loaded, each
    at its pinned revision, and combined. Safety checkers are left out: they are trained to censor photographs of bare skin, which
    every image here is, and would replace results by black pictures; the triage and the review decide instead.

    Raises:
        UserError: the model cannot be found or loaded, or has no inpainting pipeline.
    """
    with without_gc():
        from diffusers import AutoPipelineForInpainting

    source = model["source"]
    place = {"revision": model.get("revision"), "local_files_only": Path(source).is_dir()}
    try:
        config = DiffusionPipeline.load_config(source, **place)
        options = {"dtype": dtype, "use_safetensors": True, "variant": model.get("variant"), **place}
        if config["_class_name"].startswith("KandinskyV22") and config["_class_name"] != COMBINED:
            return _combined_kandinsky(source, settings, options)
        for part in ("safety_checker", "feature_extractor", "image_encoder"):
            if part in config:
                options[part] = None
        if "requires_safety_checker" in config:
            options["requires_safety_checker"] = False
        return AutoPipelineForInpainting.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"healthy model {source!r} (revision {model.get('revision')}): {str(error).strip().splitlines()[0]} Give a diffusers "
            "folder or hub id with safetensors weights that has an inpainting pipeline, or set healthy.method: heal."
        ) from error


def _combined_kandinsky(source: str, settings: HealthySettings, options: Mapping[str, Any]):
    from diffusers import KandinskyV22InpaintCombinedPipeline, KandinskyV22InpaintPipeline, KandinskyV22PriorPipeline

    decoder = KandinskyV22InpaintPipeline.from_pretrained(source, **options)
    place = {"revision": settings.prior_revision, "local_files_only": Path(settings.prior).is_dir()}
    prior = KandinskyV22PriorPipeline.from_pretrained(settings.prior, **{**options, **place})
    parts = {f"prior_{name}": part for name, part in prior.components.items()}
    return KandinskyV22InpaintCombinedPipeline(**decoder.components, **parts)


def inpaint_batch(
    decoder,
    prior,
    photos: Sequence[Image.Image],
    masks: Sequence[Image.Image],
    prompts: tuple[str, str],
    steps: int,
    prior_steps: int,
    guidance: float,
    generators: Sequence[torch.Generator],
) -> np.ndarray:
    """Inpaint several different photos in one batch by Kandinsky 2.2.

    diffusers' own pipeline (0.42) takes a batch, but restores the known area of its first photo, by its first mask, in every photo
    of the batch (`image[:1]`, `mask_image[:1]`). This is the same loop with each photo's own; for one photo the two agree bit for
    bit.

    Args:
        decoder, prior: `KandinskyV22InpaintPipeline` and `KandinskyV22PriorPipeline`.
        photos: RGB, all of one size.
        masks: grey, 255 where the model paints.
        prompts: prompt and negative prompt.
        steps, prior_steps: denoising steps of decoder and prior.
        generators: one per photo; each photo draws from its own stream only.

    Returns:
        (n, h, w, 3) float32, 0 to 1.
    """
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_inpainting import (
        downscale_height_and_width,
        prepare_mask,
        prepare_mask_and_masked_image,
    )

    count, (width, height) = len(photos), photos[0].size
    generators = list(generators)
    # the prior's batch is the prompts, then the negative prompts: each stream is drawn from twice, in that order
    embeds = prior(
        [prompts[0]] * count, [prompts[1]] * count, num_inference_steps=prior_steps, generator=generators * 2
    )
    dtype, device = decoder.unet.dtype, decoder.device
    guided = guidance > 1
    condition = embeds.image_embeds
    if guided:
        condition = torch.cat([embeds.negative_image_embeds, condition])
    condition = {"image_embeds": condition.to(dtype=dtype, device=device)}
    known, picture = prepare_mask_and_masked_image(list(photos), list(masks), height, width)
    known_latents = decoder.movq.encode(picture.to(dtype=dtype, device=device))["latents"]
    known = functional.interpolate(known, known_latents.shape[-2:], mode="nearest")
    known = prepare_mask(known).to(dtype=dtype, device=device)
    hint = torch.cat([known_latents * known, known], dim=1)
    hint = torch.cat([hint, hint]) if guided else hint
    scheduler = decoder.scheduler
    scheduler.set_timesteps(steps)  # on the CPU, where the solver reads them without waiting for the device
    rows, columns = downscale_height_and_width(height, width, decoder.movq_scale_factor)
    shape = (count, decoder.movq.config.latent_channels, rows, columns)
    latents = noise = decoder.prepare_latents(shape, dtype, device, generators, None, scheduler)
    times = scheduler.timesteps
    sent = times.to(device)
    for number, time in enumerate(times):
        doubled = torch.cat([latents, latents]) if guided else latents
        model_input = torch.cat([doubled, hint], dim=1)
        predicted = decoder.unet(model_input, sent[number], None, added_cond_kwargs=condition, return_dict=False)[0]
        if guided:
            predicted, variance = predicted.split(latents.shape[1], dim=1)
            plain, prompted = predicted.chunk(2)
            predicted = torch.cat([plain + guidance * (prompted - plain), variance.chunk(2)[1]], dim=1)
        if scheduler.config.get("variance_type") not in ("learned", "learned_range"):
            predicted, _ = predicted.split(latents.shape[1], dim=1)
        latents = scheduler.step(predicted, time, latents, generator=generators)[0]
        kept = known_latents
        if number + 1 < len(times):
            kept = scheduler.add_noise(known_latents, noise, sent[number + 1 : number + 2])
        latents = known * kept + (1 - known) * latents
    images = decoder.movq.decode(latents, force_not_quantize=True)["sample"]
    return (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
