"""Settings of the canvases stage."""

from __future__ import annotations

from pydantic import Field

from cgddi.core.settings import Settings

REVISION = 1


class TriageSettings(Settings):
    """Thresholds of the four discard criteria (lesion still there, unreal texture, wrong tone, artefacts).

    The healthy stage writes scores; the canvases stage compares them with these, so that another threshold costs no GPU time.
    """

    lesion_contrast: float = Field(
        6.0, ge=0, description="discard above this CIELAB difference between the former lesion and the skin around it"
    )
    lesion_left: float = Field(
        0.4,
        ge=0,
        le=1,
        description="discard when the place is still this near the lesion's colour (0 skin, 1 lesion) and visibly so",
    )
    texture: tuple[float, float] = Field(
        (0.4, 2.5), description="discard when fine texture over that of the surrounding skin is outside this range"
    )
    ita_change: float = Field(
        12.0, ge=0, description="discard above this change of ITA in degrees against the surrounding skin"
    )
    artefacts: float = Field(
        0.05, ge=0, le=1, description="discard above this share of pixels in no colour of the surrounding skin"
    )
    border_step: float = Field(
        3.0, ge=0, description="discard above this CIELAB step at the border, beyond that between skin pixels"
    )


class CanvasesSettings(Settings):
    """Which healthy images are kept where no person decided."""

    triage: TriageSettings = Field(default_factory=TriageSettings, description="thresholds of the proposed verdict")
