"""Settings of the healthy stage."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

REVISION = 1


class TriageSettings(BaseModel):
    """Thresholds of the four discard criteria (lesion still there, unreal texture, wrong tone, artefacts).

    The healthy stage writes scores; the canvases stage and the review page compare them with these, so that another threshold
    costs no GPU time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lesion_contrast: float = Field(
        6.0, ge=0, description="discard above this CIELAB difference between the former lesion and the skin around it"
    )
    lesion_left: float = Field(
        0.4,
        ge=0,
        le=1,
        description="discard when the place is still this near the lesion's colour (0 skin, 1 lesion) and visibly so",
    )
    visible: float = Field(2.3, ge=0, description="smallest visible CIELAB difference (Mahy et al. 1994: 2.3)")
    texture: tuple[float, float] = Field(
        (0.4, 2.5), description="discard when fine texture over that of the surrounding skin is outside this range"
    )
    ita_change: float = Field(
        12.0, ge=0, description="discard above this change of ITA in degrees against the surrounding skin"
    )
    artefacts: float = Field(
        0.05, ge=0, le=1, description="discard above this share of pixels in no colour of the surrounding skin"
    )
    border_step: float = Field(
        3.0, ge=0, description="discard above this CIELAB step at the border, beyond that between skin pixels"
    )


class HealthySettings(BaseModel):
    """How healthy skin is painted over lesions and markers, and how the result is judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["diffusion", "biharmonic"] = Field(
        "diffusion",
        description="diffusion: the model inpaints (published); biharmonic: classical, for machines without a model",
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
    strength: float = Field(
        1.0, gt=0, le=1, description="how far the region is noised, for pipelines that have it: 1 starts anew"
    )
    prior: str = Field(
        "kandinsky-community/kandinsky-2-2-prior",
        description="model of the prior, when the model is a Kandinsky 2.2 decoder alone",
    )
    prior_revision: str | None = Field(None, description="commit of the prior on the hub")
    prior_steps: int = Field(25, ge=1, le=1000, description="steps of the Kandinsky prior (diffusers' default)")
    image_size: int | None = Field(
        None, ge=16, le=2048, description="side in px at which the pipeline runs; null: the working size of the photos"
    )
    batch_size: int = Field(8, ge=1, le=256, description="images per call of the pipeline")
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", description="precision on a GPU; a CPU always uses float32"
    )
    candidates: int = Field(
        1, ge=1, le=16, description="results per photo, of which the one with the fewest faults is taken"
    )
    retries: int = Field(
        3, ge=0, le=20, description="new seeds to try after a NaN or black result, before the photo is skipped"
    )
    dilation: int = Field(
        5, ge=1, le=51, description="side in px of the square that dilates lesion and marker (published: 5)"
    )
    blur_sigma: float = Field(
        2.0, ge=0, le=20, description="Gaussian sigma in px of the blending weight (published: 2)"
    )
    full_cover: bool = Field(
        True,
        description="raise the weight so that no lesion or marker pixel shines through; the plain blur leaves a fifth of thin ink "
        "line (published: no)",
    )
    match_border: bool = Field(
        True,
        description="shift the inpainted colours smoothly so that they meet the photo at the border (published: no)",
    )
    grain: bool = Field(True, description="biharmonic only: add the fine texture of a nearby place of skin")
    max_region: float = Field(
        0.6, gt=0, le=1, description="skip a photo when more than this share of it would be painted"
    )
    min_skin: float = Field(
        0.02, ge=0, le=1, description="skip a photo when less than this share of it is skin to go on"
    )
