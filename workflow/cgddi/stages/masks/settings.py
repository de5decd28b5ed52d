"""Settings of the masks stage."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from cgddi.core.settings import Precision, Settings, setting

REVISION = 3


class Sam3Settings(Settings):
    """Masks by SAM 3's text prompts (cgDDI: "rash" and "skin" at confidence 0.35)."""

    lesion: tuple[str, ...] = setting(("skin lesion", "rash"), "prompts whose instances are lesion", min_length=1)
    skin: tuple[str, ...] = setting(("skin",), "prompts whose instances are skin", min_length=1)
    ruler: tuple[str, ...] = setting((), 'prompts whose instances are ruler, e.g. ["ruler"]; none: not looked for')
    marker: tuple[str, ...] = setting((), 'prompts whose instances are marker, e.g. ["pen marking"]')
    confidence: float = setting(0.35, "instances of a lower score are left out (cgDDI)", gt=0, lt=1)
    batch_size: int = setting(4, "photos encoded together", ge=1, le=64)
    precision: Precision = setting("bf16", "of the model")

    @field_validator("lesion", "skin", "ruler", "marker")
    @classmethod
    def _words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not prompt.strip() for prompt in value):
            raise ValueError("a prompt is empty")
        return value


class MasksSettings(Settings):
    """How photos and masks are read and brought to working size."""

    source: Literal["human", "fedd", "sam3"] = setting(
        "human",
        "where masks come from: the mask files of the image sheet; the segmenter trained on some of them (config "
        "key `fedd`); or SAM 3 (config key `models.sam3`)",
    )
    prefer_human: bool = setting(
        False, "automatic sources: a photo with a mask file keeps that mask, and only the others get an automatic one"
    )
    size: int = setting(512, "working size: photos and masks become this many px square", ge=16, le=4096)
    crop: Literal["resize", "square"] = setting(
        "resize",
        "how the masks were made from the photos: the whole photo resized to a square (as FEDD's code does), "
        "or its central square cut out (as its text says)",
    )
    id_map: dict[str, int] | None = setting(
        None,
        "value in a mask file -> class id (0 background, 1 lesion, 2 marker, 3 ruler, 4 skin): numbers, palette "
        'indices or "#rrggbb" colours, e.g. {"0": 4, "255": 1} for a one-class lesion png; null: the file holds class ids',
    )
    on_healthy: bool = setting(
        False,
        "source sam3: skin is looked for on the kept healthy images too, and lesions are transplanted to where it was "
        "found (cgDDI on Fitzpatrick17k). false: a canvas keeps its photo's mask",
    )
    sam3: Sam3Settings = Sam3Settings()

    @model_validator(mode="after")
    def _of_sam3(self) -> MasksSettings:
        if self.on_healthy and self.source != "sam3":
            raise ValueError("on_healthy is for source sam3")
        return self

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
