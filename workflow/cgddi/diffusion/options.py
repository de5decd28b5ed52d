"""Options that training of tokens and of adapters shares, as types: each stage names them in its own order, with its default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Schedule = Annotated[Literal["constant", "linear", "cosine"], Field(description="learning-rate schedule (published)")]
WeightDecay = Annotated[float, Field(ge=0, description="AdamW weight decay (diffusers example's default)")]
Crops = Annotated[
    int, Field(ge=0, le=16, description="random square crops per image besides the full frame (published: none)")
]
CropScale = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="smallest side of a crop as a share of the full side (0.8: as in the published classifiers' crops)",
    ),
]
RulerSuffix = Annotated[str, Field(description="suffix where the mask shows a ruler and no marker (published)")]
MarkerSuffix = Annotated[str, Field(description="suffix where it shows a marker and no ruler (published spelling)")]
BothSuffix = Annotated[str, Field(description="suffix where it shows both (published spelling)")]
LesionWeight = Annotated[float, Field(ge=0, description="loss weight on lesion cells, from the mask (published: 1)")]
IgnoredClasses = Annotated[
    tuple[Literal["background", "marker", "ruler", "skin"], ...],
    Field(description="mask classes without loss (published: none)"),
]
MinSnr = Annotated[
    float, Field(ge=0, description="gamma of min-SNR weighting (Hang et al. 2023 use 5); 0 is off (published)")
]
NoiseOffset = Annotated[
    float,
    Field(
        ge=0,
        description='noise offset (Guttenberg 2023, "Diffusion with Offset Noise"; 0.1 there); 0 is off (published)',
    ),
]
