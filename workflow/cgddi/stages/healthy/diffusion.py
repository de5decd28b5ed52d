"""Inpainting by a diffusers pipeline of any family: Kandinsky 2.2, Stable Diffusion (4 or 9 channels) or SDXL."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from cgddi.core.errors import UserError
from cgddi.job.imports import without_gc
from cgddi.job.runtime import torch_dtype
from cgddi.stages.healthy.kandinsky import inpaint_batch
from cgddi.stages.healthy.settings import HealthySettings

COMBINED = "KandinskyV22InpaintCombinedPipeline"


class DiffusionInpainter:
    """Inpaints with a pipeline.

    Args:
        model: {"source": folder or hub id, "revision": commit or None, "variant": e.g. "fp16" or None}.
        settings: prompts, steps, guidance, sizes and precision.
        device: where to run.
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
        skins: Sequence[np.ndarray],
        seeds: Sequence[int],
    ) -> list[np.ndarray | None]:
        """Inpaint each photo (see `stage.Inpainter`); noise is drawn per image on the CPU, whatever the batch or the device."""
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
