"""What a toy base model can do, in figures: obeys tones, removes lesions, keeps structure."""

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image
from scipy.ndimage import binary_dilation

from cgddi.core.colour import rgb_to_lab, skin_angle, tone_of_angle
from cgddi.core.images import LESION, SKIN, TONES
from cgddi.toy.corpus import HEALTHY_ON, HEALTHY_PROMPT, NEGATIVE_PROMPT, ON_TONED, draw_example
from cgddi.toy.scene import ITA_CUTS

SAMPLING = {"num_inference_steps": 20, "guidance_scale": 2.5, "guidance_rescale": 0.5}
HELD_OUT_SEED = 987_654_321


def held_out(count: int, lesions_only: bool = False):
    """``count`` corpus examples (photo, lesion, caption) from a seed that training never uses."""
    rng, found = np.random.default_rng(HELD_OUT_SEED), []
    while len(found) < count:
        example = draw_example(rng)
        if example[1] is not None or not lesions_only:
            found.append(example)
    return found


def lesion_contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """CIELAB distance between the median colours of a lesion and of the skin within 6 px of it.

    ``image`` (H, W, 3) uint8, ``mask`` (H, W) with sDDI ids.  Raises ValueError if either has no pixel.
    """
    lesion = mask == LESION
    around = binary_dilation(lesion, iterations=6) & ~binary_dilation(lesion, iterations=1) & (mask == SKIN)
    if not lesion.any() or not around.any():
        raise ValueError("the mask shows no lesion with skin around it")
    lab = rgb_to_lab(image)
    return float(np.linalg.norm(np.median(lab[lesion], axis=0) - np.median(lab[around], axis=0)))


def _arrays(images: list[Image.Image]) -> list[np.ndarray]:
    return [np.asarray(image.convert("RGB")) for image in images]


def _quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tone_accuracy(pipeline: StableDiffusionPipeline, per_cell: int, seed: int = 0) -> dict[str, float]:
    """Share of text-to-image samples whose median ITA falls in the requested tone, by prompt kind and tone."""
    shares = {}
    for kind, form in (("healthy", HEALTHY_ON), ("lesion", ON_TONED)):
        for tone in TONES:
            prompt = form.format(what="a lesion", tone=tone)
            generator = torch.Generator().manual_seed(seed)
            images = _arrays(pipeline([prompt] * per_cell, generator=generator, **SAMPLING).images)
            shares[f"{kind}_{tone}"] = float(
                np.mean([tone_of_angle(skin_angle(image), ITA_CUTS) == tone for image in images])
            )
    return shares


def lesion_removal(pipeline: StableDiffusionInpaintPipeline, count: int, seed: int = 0) -> dict[str, float]:
    """Mean lesion contrast of held-out photos before and after inpainting with the plain healthy prompt."""
    examples = held_out(count, lesions_only=True)
    masks = [binary_dilation(photo.mask == LESION, iterations=2) for photo, _, _ in examples]
    painted = pipeline(
        [HEALTHY_PROMPT] * count,
        negative_prompt=[NEGATIVE_PROMPT] * count,
        image=[Image.fromarray(photo.image) for photo, _, _ in examples],
        mask_image=[Image.fromarray(mask.astype(np.uint8) * 255) for mask in masks],
        height=64,
        width=64,
        strength=1.0,
        num_inference_steps=20,
        guidance_scale=2.5,
        generator=torch.Generator().manual_seed(seed),
    ).images
    before, after = [], []
    for (photo, _, _), image in zip(examples, _arrays(painted), strict=True):
        try:
            contrast = lesion_contrast(photo.image, photo.mask), lesion_contrast(image, photo.mask)
        except ValueError:  # a lesion wholly framed by ink or cloth has no skin to compare with
            continue
        before.append(contrast[0])
        after.append(contrast[1])
    return {"before": float(np.mean(before)), "after": float(np.mean(after)), "photos": len(before)}


def structure_kept(pipeline: StableDiffusionImg2ImgPipeline, count: int, strength: float = 0.5, seed: int = 0) -> float:
    """Mean correlation of lightness between held-out photos and their image-to-image versions under their captions."""
    examples = held_out(count)
    images = pipeline(
        [text for _, _, text in examples],
        image=[Image.fromarray(photo.image) for photo, _, _ in examples],
        strength=strength,
        num_inference_steps=20,
        guidance_scale=2.5,
        generator=torch.Generator().manual_seed(seed),
    ).images
    pictures = ([photo.image for photo, _, _ in examples], _arrays(images))
    before, after = ([rgb_to_lab(picture)[..., 0].ravel() for picture in part] for part in pictures)
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(before, after, strict=True)]))


def measure(pipeline: StableDiffusionPipeline, count: int) -> dict[str, object]:
    """All figures of a base model, ``count`` photos each; they go into its recipe."""
    _quiet(pipeline)
    inpainting = _quiet(StableDiffusionInpaintPipeline(**pipeline.components, requires_safety_checker=False))
    variation = _quiet(StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False))
    return {
        "tone_accuracy": tone_accuracy(pipeline, count),
        "lesion_contrast": lesion_removal(inpainting, count),
        "img2img_lightness_correlation": structure_kept(variation, count),
    }
