"""Settings of the masks stage."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

VERSIONS = ("numpy", "pillow")
"""Distributions whose pinned version matters for the result."""


class MasksSettings(BaseModel):
    """How photos and masks are read and brought to working size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["human"] = Field("human", description="where masks come from: the mask files of the image sheet")
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
    png_compress_level: int = Field(
        1, ge=0, le=9, description="zlib level of the written png files (1: fast, little larger)"
    )

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
