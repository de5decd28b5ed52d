"""Settings of the semantic stage. Imports nothing heavy: planning reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cgddi.core.prompts import check_prompt
from cgddi.core.settings import Precision, Settings

REVISION = 3


class SemanticSettings(Settings):
    """Image-to-image samples (SDEdit, Meng et al. 2022) of a concept on healthy canvases, in three tones."""

    strength: float = Field(
        0.725, gt=0, le=1, description="share of the noise schedule that is run on a canvas (published)"
    )
    guidance: float = Field(8.75, ge=1, description="classifier-free guidance (published)")
    guidance_rescale: float = Field(
        0.0, ge=0, le=1, description="rescaling of guidance (Lin et al. 2024, section 3.4); 0 is off"
    )
    sampler: Literal["dpmsolver++", "ddim", "pndm"] = Field(
        "dpmsolver++",
        description="solver (published: PNDM with 100 steps; DPM-Solver++ 2M needs 20-25, Lu et al. 2022)",
    )
    steps: int = Field(
        20,
        ge=2,
        le=1000,
        description="solver steps of the full schedule, of which `strength` is run (published: 100). On the toy's model, its "
        "canvases or plain ones, 20 is 5 or 14 times nearer to 150 steps than another seed is. No full-size model was"
        " at hand: ask the benchmark `sampling_quality` of yours",
    )
    prompt: str = Field("An image of {token} on a {tone}-toned individual", description="prompt (published)")
    negative_prompt: str = Field(
        "",
        description="what guidance leads away from (published: nothing). With {tone} it is the same tone's: `lora.class_prompt`, "
        "that is healthy skin, makes guidance a contrast of lesion against healthy skin, where an empty one, with the "
        "adapter at work in it too, leaves little to contrast; take a guidance of about 1.5 then. Tried on the toy's model only",
    )
    check: bool = Field(
        True,
        description="whether each image must show a lesion that its canvas has not, in the tone asked for, without faults of "
        "drawing, and be no copy of a photo learnt from, by limits from the run's own photos (section `calibration`). What fails "
        "stays in the archive with the reason, but nothing learns from it (published: no check)",
    )
    redraws: int = Field(
        4,
        ge=0,
        description="most further draws, each with a seed of its own, of an image that fails its check; where all of them fail, "
        "the concept stays that image short in that tone",
    )
    canvas_tones: Literal["any", "same"] = Field(
        "any",
        description="canvases a tone is drawn on: any (published), or those of the same tone, from which a sample's skin comes out "
        "in that tone more often",
    )
    repeats: int = Field(5, ge=1, description="images per canvas and tone (published)")
    per_tone: int | None = Field(
        None,
        ge=1,
        description="most images per requested tone, for a trial or a cheaper run; null is no limit (published)",
    )
    max_canvases: int | None = Field(
        None,
        ge=1,
        description="most canvases, drawn evenly over tones by a named seed, for a trial or a cheaper run; null is all "
        "(published)",
    )
    image_size: int = Field(512, ge=16, description="side of the images in px (published)")
    batch: int = Field(
        16,
        ge=1,
        description="images per batch, the last one filled up, so that shapes never change; 16 of 512 px are enough work for a "
        "large GPU in one step; take fewer where memory is short (published: 1). On one CPU thread an image is the "
        "same to the bit whatever else is in its batch; another batch size, more threads or a GPU round differently, "
        "by a grey level at most on the toy's model",
    )
    precision: Precision = Field(
        "bf16",
        description="of the base model: bf16 (as fast as fp16, and no black images), fp16 (published; a GPU only) or fp32",
    )
    retries: int = Field(
        3,
        ge=0,
        description="redraws with a new seed of an image that came out black or not a number: what a fourth draw does not"
        " fix is a fault of the model or its precision. No safety checker runs: it flags "
        "clinical photographs of skin as nudity and blackens them",
    )

    @model_validator(mode="after")
    def _some_step(self) -> SemanticSettings:
        if self.sampler != "dpmsolver++" and int(self.steps * self.strength) < 1:
            raise ValueError(
                f"steps {self.steps} x strength {self.strength:g} leaves sampler {self.sampler} no step at all: raise steps or "
                "strength, or use sampler dpmsolver++"
            )
        return self

    @field_validator("negative_prompt")
    @classmethod
    def _of_no_concept(cls, prompt: str) -> str:
        return check_prompt(prompt, token=False)

    @field_validator("prompt")
    @classmethod
    def _of_the_concept(cls, prompt: str) -> str:
        return check_prompt(prompt)
