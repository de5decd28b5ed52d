"""Settings of the embedding stage. Imports nothing heavy: planning reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cgddi.core.prompts import check_prompt
from cgddi.diffusion.settings import TrainingSettings

REVISION = 2


class EmbeddingSettings(TrainingSettings):
    """Textual inversion (Gal et al. 2023) of one token per concept."""

    images: Literal["concept", "all"] = Field(
        "concept",
        description="training images: the concept's own, or all of the split (the published script had no disease filter). "
        "Read by the plan; a job trains on the images its spec lists.",
    )
    init_token: str = Field(
        "skin", min_length=1, description="word whose embedding the new rows start from (published)"
    )
    vectors: int = Field(1, ge=1, le=32, description="rows per token (published: 1)")
    batch: int = Field(
        16,
        ge=1,
        description="images per gradient part (published: 4, in 4 parts: the same step, slower; 16 of 512 px need 18 GB of a GPU)",
    )
    accumulation: int = Field(1, ge=1, description="parts per optimizer step (published: 4, of 4 images)")
    learning_rate: float = Field(5e-4, gt=0, description="AdamW learning rate before scaling (published)")
    scale_lr: bool = Field(
        True, description="multiply the learning rate by batch x accumulation (published: 5e-4 x 16 = 8e-3)"
    )
    clip: float = Field(0.0, ge=0, description="largest gradient norm of a token; 0 clips nothing (published)")
    hflip: float = Field(0.5, ge=0, le=1, description="chance of the mirror image (published)")
    tone_exponent: float = Field(
        1.0,
        ge=0,
        le=2,
        description="tones drawn by frequency ** -x per image: 1 draws tones evenly, 0 images (published: 0)",
    )
    suffixes: bool = Field(False, description="add the ruler and marker suffixes from the masks (published: LoRA only)")
    prompts: tuple[str, ...] = Field(
        ("An image of {token} on the skin of a {tone}-skinned individual",),
        min_length=1,
        description="training prompts; {token} and {tone} are filled in, one is drawn per image (published: one)",
    )

    @field_validator("prompts")
    @classmethod
    def _of_the_concept(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(check_prompt, prompts))

    @model_validator(mode="after")
    def _whole_shares(self) -> EmbeddingSettings:
        if self.batch % self.num_processes:
            raise ValueError(f"num_processes {self.num_processes} must divide batch ({self.batch})")
        return self

    @property
    def lr(self) -> float:
        """The learning rate in force."""
        return self.learning_rate * (self.batch * self.accumulation if self.scale_lr else 1)
