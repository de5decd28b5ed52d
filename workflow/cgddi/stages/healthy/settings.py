"""Settings of the healthy stage."""

from typing import Literal

from pydantic import Field

from cgddi.core.settings import Precision, Settings, located

REVISION = 6


class HealthySettings(Settings):
    """How healthy skin is painted over lesions and markers, and how the result is judged."""

    method: Literal["both", "diffusion", "heal"] = Field(
        "both",
        description="diffusion: the model inpaints (published); heal: skin is copied from the same photo, needs no model; both: "
        "the triage picks the better picture of each photo",
    )
    prompt: str = Field(
        "A close-up clinical photograph of healthy, smooth, normal human skin",
        min_length=1,
        description="prompt (published)",
    )
    negative_prompt: str = Field(
        "Bad anatomy, deformed, lesion, ugly, disfigured, illness, hole, transparent, eye",
        description="negative prompt (published)",
    )
    steps: int = Field(
        100, ge=1, le=1000, description="denoising steps (diffusers' default for Kandinsky 2.2; not published)"
    )
    guidance: float = Field(
        4.0, ge=0, le=50, description="guidance scale (diffusers' default for Kandinsky 2.2; not published)"
    )
    prior: str = located(
        "kandinsky-community/kandinsky-2-2-prior",
        description="model of the prior, when the model is a Kandinsky 2.2 decoder alone",
    )
    prior_revision: str | None = Field(None, description="commit of the prior on the hub")
    prior_steps: int = Field(25, ge=1, le=1000, description="steps of the Kandinsky prior (diffusers' default)")
    image_size: int | None = Field(
        None, ge=16, le=2048, description="side in px at which the pipeline runs; null: the working size of the photos"
    )
    batch_size: int = Field(8, ge=1, le=256, description="images per call of the pipeline")
    precision: Precision = Field("fp16", description="of the model")
    dilation: int = Field(
        5, ge=1, le=51, description="side in px of the square that dilates lesion and marker (published: 5)"
    )
    blur_sigma: float = Field(
        2.0, ge=0, le=20, description="Gaussian sigma in px of the blending weight (published: 2)"
    )
    full_cover: bool = Field(
        True,
        description="raise the weight so that no lesion or marker pixel shines through (the plain blur leaves a fifth of a thin "
        "ink line), and keep it off rulers and cloth (published: no)",
    )
    halo: bool = Field(
        True, description="paint over the lesion's halo and shadow too, where the mask leaves them out (published: no)"
    )
    match_border: bool = Field(
        True,
        description="shift the inpainted colours smoothly so that they meet the photo at the border (published: no)",
    )
