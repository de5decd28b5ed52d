"""Kandinsky 2.2 inpainting of several different photos in one batch.

diffusers' own pipeline (0.42) takes a batch, but restores the known area of its first photo, by its first mask, in every photo of
the batch (`image[:1]`, `mask_image[:1]`). This is the same loop with each photo's own; for one photo the two agree bit for bit.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional


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
    """Inpaint a batch.

    Args:
        decoder, prior: `KandinskyV22InpaintPipeline` and `KandinskyV22PriorPipeline`.
        photos: RGB, all of one size.
        masks: grey, 255 where the model paints.
        prompts: prompt and negative prompt.
        steps, prior_steps: denoising steps of decoder and prior.
        guidance: guidance scale.
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
