"""Settings of the masks stage."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

REVISION = 1

SOURCE_MODULES = {"fedd": "cgddi.stages.masks.source_fedd", "sam3": "cgddi.stages.masks.source_sam3"}
"""Automatic source -> module with its `open_finder`. By name, so that planning imports none of them."""

Flag = Literal["no_lesion", "no_skin", "lesion_over_half", "lesion_covers_image", "several_parts", "touches_border"]
Drawn = Literal["lesion", "marker", "ruler", "skin"]


class FlagSettings(BaseModel):
    """When a mask is flagged, and which flags make an automatic mask unusable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least_lesion: float = Field(
        0, ge=0, lt=1, description="no_lesion: the lesion's share of the image is not above this (0: no pixel)"
    )
    least_skin: float = Field(0, ge=0, lt=1, description="no_skin: the skin's share is not above this (0: no pixel)")
    large_lesion: float = Field(0.5, gt=0, le=1, description="lesion_over_half: the lesion's share is above this")
    least_part: float = Field(
        0, ge=0, lt=1, description="several_parts: lesion parts (8-connected) not above this share do not count"
    )
    border: int = Field(1, ge=1, le=64, description="touches_border: lesion within this many px of the image's edge")
    reject: tuple[Flag, ...] = Field(
        ("no_lesion", "no_skin"),
        description="an automatic mask with one of these flags is not used: its photo becomes neither donor nor canvas, and is "
        "recorded with the flag. Human masks are used whatever their flags",
    )


class Sam3Settings(BaseModel):
    """Masks by SAM 3's text prompts (cgDDI: "rash" and "skin" at confidence 0.35)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lesion: tuple[str, ...] = Field(
        ("skin lesion", "rash"), min_length=1, description="prompts whose instances are lesion"
    )
    skin: tuple[str, ...] = Field(("skin",), min_length=1, description="prompts whose instances are skin")
    ruler: tuple[str, ...] = Field(
        (), description='prompts whose instances are ruler, e.g. ["ruler"]; none: not looked for'
    )
    marker: tuple[str, ...] = Field((), description='prompts whose instances are marker, e.g. ["pen marking"]')
    confidence: float = Field(0.35, gt=0, lt=1, description="instances of a lower score are left out (cgDDI)")
    mask_threshold: float = Field(0.5, gt=0, lt=1, description="a pixel of higher probability belongs to an instance")
    precedence: tuple[Drawn, ...] = Field(
        ("ruler", "marker", "lesion", "skin"),
        description="which class a pixel takes where instances overlap, first to last: what lies on top hides what is below",
    )
    batch_size: int = Field(4, ge=1, le=64, description="photos encoded together")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="precision on a GPU; a CPU always uses float32"
    )

    @field_validator("lesion", "skin", "ruler", "marker")
    @classmethod
    def _words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not prompt.strip() for prompt in value):
            raise ValueError("a prompt is empty")
        return value

    @field_validator("precedence")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if sorted(value) != ["lesion", "marker", "ruler", "skin"]:
            raise ValueError("name each of ruler, marker, lesion and skin once")
        return value


class MasksSettings(BaseModel):
    """How photos and masks are read and brought to working size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["human", "fedd", "sam3"] = Field(
        "human",
        description="where masks come from: the mask files of the image sheet; the segmenter trained on some of them (config "
        "key `fedd`); or SAM 3 (config key `models.sam3`)",
    )
    prefer_human: bool = Field(
        False,
        description="automatic sources: a photo with a mask file keeps that mask, and only the others get an automatic one",
    )
    size: int = Field(512, ge=16, le=4096, description="working size: photos and masks become this many px square")
    crop: Literal["resize", "square"] = Field(
        "resize",
        description="how the masks were made from the photos: the whole photo resized to a square (as FEDD's code does), "
        "or its central square cut out (as its text says)",
    )
    id_map: dict[str, int] | None = Field(
        None,
        description="value in a mask file -> class id (0 background, 1 lesion, 2 marker, 3 ruler, 4 skin): numbers, palette "
        'indices or "#rrggbb" colours, e.g. {"0": 4, "255": 1} for a one-class lesion png; null: the file holds class ids',
    )
    fit_margin: float = Field(
        0.15,
        ge=0,
        le=1,
        description="flag crop_doubtful when the other crop lets the mask explain this much more of the photo's colour variance",
    )
    bad_masks: Literal["flag", "error"] = Field(
        "flag",
        description="a mask file that cannot be used: leave it out, flag its photo mask_unreadable or mask_mismatch and go on; "
        "or stop the job",
    )
    flags: FlagSettings = FlagSettings()
    despeckle: float = Field(
        0.0001,
        ge=0,
        lt=0.1,
        description="automatic masks: parts of lesion, marker or ruler below this share of the image go to the class around "
        "them (the smallest lesion of sDDI is 0.00024)",
    )
    sam3: Sam3Settings = Sam3Settings()

    @field_validator("id_map")
    @classmethod
    def _known_ids(cls, value: dict[str, int] | None) -> dict[str, int] | None:
        for key, class_id in (value or {}).items():
            digits = key[1:] if key.startswith("#") else key
            if not (len(digits) == 6 and all(c in "0123456789abcdefABCDEF" for c in digits)) and not key.isdigit():
                raise ValueError(f"id_map key {key!r} is neither a number nor a #rrggbb colour")
            if class_id not in range(5):
                raise ValueError(f"id_map gives {key!r} the class {class_id}; classes are 0 to 4")
        return value
