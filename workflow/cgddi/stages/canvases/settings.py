"""Settings of the canvases stage."""

from pydantic import Field

from cgddi.core.settings import Settings

REVISION = 2


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
    stain: float = Field(
        3.0,
        ge=0,
        description="discard when local colours lie this much further from the skin's than those of the skin around",
    )
    texture: tuple[float, float] = Field(
        (0.6, 1.5),
        description="discard when the spread of the texture of 1, 2, 4 or 8 px (at 512 px) over that of the skin around is outside "
        "this range",
    )
    grain: float = Field(
        1.4,
        ge=1,
        description="discard when the finest texture has kept this many times more of its contrast than a coarser one",
    )
    ita_change: float = Field(
        12.0, ge=0, description="discard above this change of ITA in degrees against the surrounding skin"
    )
    artefacts: float = Field(
        0.05, ge=0, le=1, description="discard above this share of pixels in no colour of the surrounding skin"
    )
    bitten: float = Field(
        0.01, ge=0, le=1, description="discard when more of ruler or cloth was painted over, as a share of the region"
    )
    border_step: float = Field(
        3.0, ge=0, description="discard above this CIELAB step at the border, beyond that between skin pixels"
    )
    seam: float = Field(
        3.0,
        ge=0,
        description="discard when colours on either side of the border differ by more than in the skin around, by this much",
    )


class CanvasesSettings(Settings):
    """Which healthy images are kept where no person decided."""

    triage: TriageSettings = Field(default_factory=TriageSettings, description="thresholds of the proposed verdict")
