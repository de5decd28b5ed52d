"""Settings of the embedding stage. Imports nothing heavy: planning reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cgddi.core.prompts import check_prompt
from cgddi.diffusion import options

REVISION = 1
VERSIONS = ("torch", "diffusers", "transformers", "tokenizers", "pillow", "numpy")
"""Distributions whose version can change the learned token."""


class EmbeddingSettings(BaseModel):
    """Textual inversion (Gal et al. 2023) of one token per concept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: Literal["concept", "all"] = Field(
        "concept",
        description="training images: the concept's own, or all of the split (the published script had no disease filter). "
        "Read by the plan; a job trains on the images its spec lists.",
    )
    init_token: str = Field(
        "skin", min_length=1, description="word whose embedding the new rows start from (published)"
    )
    vectors: int = Field(1, ge=1, le=32, description="rows per token (published: 1)")
    steps: int = Field(500, ge=1, description="optimizer steps (published)")
    batch: int = Field(4, ge=1, description="images per gradient part (published)")
    accumulation: int = Field(
        4, ge=1, description="parts per optimizer step (published); batch 16 x 1 is the same, faster, larger"
    )
    learning_rate: float = Field(5e-4, gt=0, description="learning rate before scaling (published)")
    scale_lr: bool = Field(
        True, description="multiply the learning rate by batch x accumulation (published: 5e-4 x 16 = 8e-3)"
    )
    lr_schedule: options.Schedule = "constant"
    warmup: int = Field(0, ge=0, description="steps of linear warm-up (published: constant schedule, none)")
    weight_decay: options.WeightDecay = 1e-2
    betas: options.Betas = (0.9, 0.999)
    eps: options.Eps = 1e-8
    clip: float = Field(0.0, ge=0, description="largest gradient norm of a token; 0 clips nothing (published)")
    image_size: int = Field(512, ge=16, description="side of the training images in px (published)")
    hflip: float = Field(0.5, ge=0, le=1, description="chance of the mirror image (published)")
    crops: options.Crops = 0
    crop_scale: options.CropScale = 0.8
    prompts: tuple[str, ...] = Field(
        ("An image of {token} on the skin of a {tone}-skinned individual",),
        min_length=1,
        description="training prompts; {token} and {tone} are filled in, one is drawn per image (published: one)",
    )
    suffixes: bool = Field(False, description="add the ruler and marker suffixes from the masks (published: LoRA only)")
    ruler_suffix: options.RulerSuffix = " with a ruler"
    marker_suffix: options.MarkerSuffix = " deliniated with marker"
    both_suffix: options.BothSuffix = " deliniated with marker and a ruler"
    tone_exponent: float = Field(
        1.0,
        ge=0,
        le=2,
        description="tones drawn by frequency ** -x per image: 1 draws tones evenly, 0 images (published: 0)",
    )
    lesion_weight: options.LesionWeight = 1.0
    ignore_mask_classes: options.IgnoredClasses = ()
    min_snr: options.MinSnr = 0.0
    noise_offset: options.NoiseOffset = 0.0
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the moving average of the rows that becomes the result; 0 is off (published)",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="of the frozen denoiser: auto is bf16 on a GPU, fp32 on a CPU (published: fp16)"
    )
    checkpoint_every: options.CheckpointEvery = 100
    log_every: options.LogEvery = 10
    validate_every: options.ValidateEvery = 100
    validation_photos: options.ValidationPhotos = 4
    validation_timesteps: options.ValidationTimesteps = 4
    grid_every: options.GridEvery = 250
    grid_sampler: options.GridSampler = "dpmsolver++"
    grid_steps: options.GridSteps = 20
    grid_guidance: options.GridGuidance = 7.5
    grid_guidance_rescale: options.GridRescale = 0.0
    grid_columns: options.GridColumns = 4

    @field_validator("prompts")
    @classmethod
    def _of_the_concept(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(check_prompt, prompts))

    @property
    def lr(self) -> float:
        """The learning rate in force."""
        return self.learning_rate * (self.batch * self.accumulation if self.scale_lr else 1)

    @property
    def prompt(self) -> str:
        """The prompt of the sample grid."""
        return self.prompts[0]
