"""Settings of the canvases stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from cgddi.stages.healthy.settings import TriageSettings

REVISION = 1


class CanvasesSettings(BaseModel):
    """Which healthy images are kept where no person decided, and what is pooled beside them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sizes: tuple[Annotated[int, Field(ge=16, le=2048)], ...] = Field(
        (256,),
        description="smaller sizes in px at which a raw copy of every canvas is kept too, so that lesion mapping need not "
        "decode and shrink it once per donor (list lesion_mapped.image_size; sizes not below the working size are left out)",
    )
    triage: TriageSettings = Field(default_factory=TriageSettings, description="thresholds of the proposed verdict")
