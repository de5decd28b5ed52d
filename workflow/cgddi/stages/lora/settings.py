"""Settings of the lora stage. Imports nothing heavy: planning reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cgddi.core.prompts import check_prompt
from cgddi.core.settings import neutral
from cgddi.diffusion.settings import TrainingSettings

REVISION = 1


class LoraSettings(TrainingSettings):
    """LoRA (Hu et al. 2021) on the denoiser, with prior preservation (DreamBooth, Ruiz et al. 2023)."""

    rank: int = Field(8, ge=1, le=512, description="rank of the adapter (published)")
    alpha: float = Field(8, gt=0, description="scale is alpha / rank (published: 8)")
    target_modules: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="ends of the names of the adapted UNet layers (published)",
    )
    steps: int = Field(750, ge=1, description="optimizer steps (published)")
    instances: int = Field(16, ge=1, description="images of the concept per step (published)")
    priors_per_step: int = Field(16, ge=0, description="healthy canvases per step (published); 0 trains without priors")
    accumulation: int = Field(
        1,
        ge=1,
        description="equal parts into which a step is cut to save memory, each with its share of photos and of priors, so"
        " that it divides both counts (published: 1)",
    )
    learning_rate: float = Field(1e-4, gt=0, description="AdamW learning rate (usual for LoRA; published: 5e-6)")
    clip: float = Field(1.0, ge=0, description="largest gradient norm (published); 0 clips nothing")
    prior_weight: float = Field(1.0, ge=0, description="weight of the prior-preservation loss (published)")
    prior_per_tone: int = Field(96, ge=1, description="canvases per tone to draw priors from (published)")
    priors: Literal["balanced", "published"] = Field(
        "balanced",
        description="balanced: tones evenly. published: the first `prior_per_tone` of all canvases, light ones before others, "
        "and of them as many as the concept has photos",
    )
    prior_tone_exponent: float = Field(
        1.0,
        ge=0,
        le=2,
        description="priors drawn by their tone's frequency ** -x: 1 draws tones evenly, as the photos are, so that no "
        "tone is better preserved than another; 0 canvases (published: light ones only)",
    )
    image_size: int = Field(256, ge=16, description="side of the training images in px (published)")
    hflip: float = Field(
        0.5,
        ge=0,
        le=1,
        description="chance of the mirror image (as in textual inversion; lesions have no side; published: 0)",
    )
    prompt: str = Field(
        "An image of {token} on the skin of a {tone}-skinned individual", description="instance prompt (published)"
    )
    class_prompt: str = Field(
        "An image of healthy skin on a {tone}-skinned individual", description="prior prompt (published)"
    )
    tone_exponent: float = Field(
        1.0,
        ge=0,
        le=2,
        description="tones drawn by frequency ** -x per image: 1 draws tones evenly (published), 0 images",
    )
    validate_every: int = neutral(
        150, ge=0, description="steps between losses by tone on training photos, as in `embedding`. 0 is off"
    )

    @field_validator("prompt")
    @classmethod
    def _of_the_concept(cls, prompt: str) -> str:
        return check_prompt(prompt)

    @field_validator("class_prompt")
    @classmethod
    def _of_healthy_skin(cls, prompt: str) -> str:
        return check_prompt(prompt, token=False)

    @model_validator(mode="after")
    def _whole_parts(self) -> LoraSettings:
        parts = self.accumulation * self.num_processes
        if self.instances % parts or self.priors_per_step % parts:
            raise ValueError(
                f"accumulation {self.accumulation} x num_processes {self.num_processes} must divide instances ({self.instances}) "
                f"and priors_per_step ({self.priors_per_step}): parts of another make-up would change the loss"
            )
        return self
