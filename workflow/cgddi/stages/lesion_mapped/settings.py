"""Settings of the lesion mapping stage."""

from typing import Literal

from pydantic import ValidationInfo, field_validator

from cgddi.core.settings import Settings, setting

REVISION = 2


class LesionMappedSettings(Settings):
    """How a donor's lesion is placed and blended onto canvases."""

    image_size: int = setting(256, "side of a composite in px (sDDI masks are 256)", ge=16, le=2048)
    padding: int = setting(
        10,
        "every lesion pixel keeps at least this distance in px (Euclidean) from skin's edge (published: 10)",
        ge=0,
        le=256,
    )
    dilate: int = setting(
        2, "3x3 dilations of the lesion before it is blurred into a paste weight (published: 2)", ge=0, le=20
    )
    blur: float = setting(2.0, "Gaussian sigma in px of the paste weight (published: 2)", ge=0, le=20)
    scale: tuple[float, float] = setting((1.0, 1.0), "range the lesion's scale is drawn from, uniformly (published: 1)")
    rotation: tuple[float, float] = setting(
        (0.0, 0.0), "range the lesion's rotation is drawn from, uniformly, in degrees (published: 0)"
    )
    blending: Literal["alpha", "poisson"] = setting(
        "alpha", "alpha: paste by blurred weight (published); poisson: gradient-domain, seamless at the edge"
    )
    lighting_match: bool = setting(
        True,
        "first bring the lesion into the light of its new place: its skin becomes that skin; blue, black and white "
        "stay what they are (published: no)",
    )
    halo: bool = setting(
        True,
        "redness, scale and pigment beyond the mask fade out as far as they reach, instead of being cut at the mask "
        "(published: no)",
    )
    leave_behind: bool = setting(
        True,
        "ink, rulers, cloth and other lesions beside the lesion stay behind (published: they come along as far as "
        "the paste reaches)",
    )
    plain_places: bool = setting(
        True,
        "where a canvas's mask knows neither background nor ruler, places that do not look like its skin (lips, eyes, "
        "cloth) are avoided (published: no)",
    )

    @field_validator("scale", "rotation")
    @classmethod
    def _range(cls, value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        least, most = {"scale": (0.1, 10), "rotation": (-360, 360)}[info.field_name]
        if not least <= value[0] <= value[1] <= most:
            raise ValueError(f"{info.field_name} is a range (low, high) with {least} <= low <= high <= {most}")
        return value
