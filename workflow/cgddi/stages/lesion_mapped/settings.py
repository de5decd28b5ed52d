"""Settings of the lesion mapping stage."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from cgddi.core.settings import Settings

REVISION = 2


class LesionMappedSettings(Settings):
    """How a donor's lesion is placed and blended onto canvases."""

    image_size: int = Field(256, ge=16, le=2048, description="side of a composite in px (sDDI masks are 256)")
    padding: int = Field(
        10,
        ge=0,
        le=256,
        description="every lesion pixel keeps at least this distance in px (Euclidean) from skin's edge (published: 10)",
    )
    dilate: int = Field(
        2,
        ge=0,
        le=20,
        description="3x3 dilations of the lesion before it is blurred into a paste weight (published: 2)",
    )
    blur: float = Field(2.0, ge=0, le=20, description="Gaussian sigma in px of the paste weight (published: 2)")
    scale: tuple[float, float] = Field(
        (1.0, 1.0), description="range the lesion's scale is drawn from, uniformly (published: 1)"
    )
    rotation: tuple[float, float] = Field(
        (0.0, 0.0), description="range the lesion's rotation is drawn from, uniformly, in degrees (published: 0)"
    )
    blending: Literal["alpha", "poisson"] = Field(
        "alpha",
        description="alpha: paste by blurred weight (published); poisson: gradient-domain, seamless at the edge",
    )
    lighting_match: bool = Field(
        True,
        description="first bring the lesion into the light of its new place: its skin becomes that skin; blue, black and white "
        "stay what they are (published: no)",
    )
    halo: bool = Field(
        True,
        description="redness, scale and pigment beyond the mask fade out as far as they reach, instead of being cut at the mask "
        "(published: no)",
    )
    leave_behind: bool = Field(
        True,
        description="ink, rulers, cloth and other lesions beside the lesion stay behind (published: they come along as far as "
        "the paste reaches)",
    )
    plain_places: bool = Field(
        True,
        description="where a canvas's mask knows neither background nor ruler, places that do not look like its skin (lips, eyes, "
        "cloth) are avoided (published: no)",
    )

    @field_validator("scale", "rotation")
    @classmethod
    def _range(cls, value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        least, most = {"scale": (0.1, 10), "rotation": (-360, 360)}[info.field_name]
        if not least <= value[0] <= value[1] <= most:
            raise ValueError(f"{info.field_name} is a range (low, high) with {least} <= low <= high <= {most}")
        return value
