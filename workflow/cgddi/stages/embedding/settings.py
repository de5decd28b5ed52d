"""Settings of the embedding stage. Imports nothing heavy: planning reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from cgddi.core.prompts import check_prompt
from cgddi.core.settings import setting
from cgddi.diffusion.settings import TrainingSettings

REVISION = 2


class EmbeddingSettings(TrainingSettings):
    """Textual inversion (Gal et al. 2023) of one token per concept."""

    images: Literal["concept", "all"] = setting(
        "concept",
        "training images: the concept's own, or all of the split (the published script had no disease filter). "
        "Read by the plan; a job trains on the images its spec lists.",
    )
    init_token: str = setting("skin", "word whose embedding the new rows start from (published)", min_length=1)
    vectors: int = setting(1, "rows per token (published: 1)", ge=1, le=32)
    batch: int = setting(
        16,
        "images per gradient part (published: 4, in 4 parts: the same step, slower; 16 of 512 px need 18 GB of a GPU)",
        ge=1,
    )
    accumulation: int = setting(1, "parts per optimizer step (published: 4, of 4 images)", ge=1)
    learning_rate: float = setting(5e-4, "AdamW learning rate before scaling (published)", gt=0)
    scale_lr: bool = setting(True, "multiply the learning rate by batch x accumulation (published: 5e-4 x 16 = 8e-3)")
    clip: float = setting(0.0, "largest gradient norm of a token; 0 clips nothing (published)", ge=0)
    hflip: float = setting(0.5, "chance of the mirror image (published)", ge=0, le=1)
    tone_exponent: float = setting(
        1.0, "tones drawn by frequency ** -x per image: 1 draws tones evenly, 0 images (published: 0)", ge=0, le=2
    )
    suffixes: bool = setting(False, "add the ruler and marker suffixes from the masks (published: LoRA only)")
    prompts: tuple[str, ...] = setting(
        ("An image of {token} on the skin of a {tone}-skinned individual",),
        "training prompts; {token} and {tone} are filled in, one is drawn per image (published: one)",
        min_length=1,
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
