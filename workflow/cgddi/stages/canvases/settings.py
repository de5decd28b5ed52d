"""Settings of the canvases stage."""

from pydantic import Field

from cgddi.core.settings import Settings, setting

REVISION = 2


class TriageSettings(Settings):
    """Thresholds of the four discard criteria (lesion still there, unreal texture, wrong tone, artefacts).

    The healthy stage writes scores; the canvases stage compares them with these, so that another threshold costs no GPU time.
    """

    lesion_contrast: float = setting(
        6.0, "discard above this CIELAB difference between the former lesion and the skin around it", ge=0
    )
    lesion_left: float = setting(
        0.4,
        "discard when the place is still this near the lesion's colour (0 skin, 1 lesion) and visibly so",
        ge=0,
        le=1,
    )
    stain: float = setting(
        3.0, "discard when local colours lie this much further from the skin's than those of the skin around", ge=0
    )
    texture: tuple[float, float] = setting(
        (0.6, 1.5),
        "discard when the spread of the texture of 1, 2, 4 or 8 px (at 512 px) over that of the skin around is outside "
        "this range",
    )
    grain: float = setting(
        1.4, "discard when the finest texture has kept this many times more of its contrast than a coarser one", ge=1
    )
    ita_change: float = setting(12.0, "discard above this change of ITA in degrees against the surrounding skin", ge=0)
    artefacts: float = setting(
        0.05, "discard above this share of pixels in no colour of the surrounding skin", ge=0, le=1
    )
    bitten: float = setting(
        0.01, "discard when more of ruler or cloth was painted over, as a share of the region", ge=0, le=1
    )
    border_step: float = setting(
        3.0, "discard above this CIELAB step at the border, beyond that between skin pixels", ge=0
    )
    seam: float = setting(
        3.0,
        "discard when colours on either side of the border differ by more than in the skin around, by this much",
        ge=0,
    )


class CanvasesSettings(Settings):
    """Which healthy images are kept where no person decided."""

    triage: TriageSettings = Field(default_factory=TriageSettings, description="thresholds of the proposed verdict")
