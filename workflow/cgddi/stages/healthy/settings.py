"""Settings of the healthy stage."""

from typing import Literal

from cgddi.core.settings import Precision, Settings, located, setting

REVISION = 6


class HealthySettings(Settings):
    """How healthy skin is painted over lesions and markers, and how the result is judged."""

    method: Literal["both", "diffusion", "heal"] = setting(
        "both",
        "diffusion: the model inpaints (published); heal: skin is copied from the same photo, needs no model; both: "
        "the triage picks the better picture of each photo",
    )
    prompt: str = setting(
        "A close-up clinical photograph of healthy, smooth, normal human skin", "prompt (published)", min_length=1
    )
    negative_prompt: str = setting(
        "Bad anatomy, deformed, lesion, ugly, disfigured, illness, hole, transparent, eye",
        "negative prompt (published)",
    )
    steps: int = setting(100, "denoising steps (diffusers' default for Kandinsky 2.2; not published)", ge=1, le=1000)
    guidance: float = setting(4.0, "guidance scale (diffusers' default for Kandinsky 2.2; not published)", ge=0, le=50)
    prior: str = located(
        "kandinsky-community/kandinsky-2-2-prior", "model of the prior, when the model is a Kandinsky 2.2 decoder alone"
    )
    prior_revision: str | None = setting(None, "commit of the prior on the hub")
    prior_steps: int = setting(25, "steps of the Kandinsky prior (diffusers' default)", ge=1, le=1000)
    image_size: int | None = setting(
        None, "side in px at which the pipeline runs; null: the working size of the photos", ge=16, le=2048
    )
    batch_size: int = setting(8, "images per call of the pipeline", ge=1, le=256)
    precision: Precision = setting("fp16", "of the model")
    dilation: int = setting(5, "side in px of the square that dilates lesion and marker (published: 5)", ge=1, le=51)
    blur_sigma: float = setting(2.0, "Gaussian sigma in px of the blending weight (published: 2)", ge=0, le=20)
    full_cover: bool = setting(
        True,
        "raise the weight so that no lesion or marker pixel shines through (the plain blur leaves a fifth of a thin "
        "ink line), and keep it off rulers and cloth (published: no)",
    )
    halo: bool = setting(
        True, "paint over the lesion's halo and shadow too, where the mask leaves them out (published: no)"
    )
    match_border: bool = setting(
        True, "shift the inpainted colours smoothly so that they meet the photo at the border (published: no)"
    )
