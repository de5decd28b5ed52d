"""Settings of the index stage."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

REVISION = 1


class IndexSettings(BaseModel):
    """What may stand in a split's index."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drop_touching: tuple[Literal["donor", "canvas", "generator", "segmenter"], ...] = Field(
        ("donor", "canvas", "generator", "segmenter"),
        description="Leave a synthetic image out when this ancestor of it is not a training image of the split; segmenter: an "
        "image that taught the segmenter behind a mask it was made with. Leaving `generator` away keeps images of generators "
        "that saw test images, as the published code did; the leakage gate then fails unless `audit.leakage_gate` is "
        "`report`, and every table says so.",
    )
