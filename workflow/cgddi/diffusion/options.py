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
Share = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[
    tuple[Share, Share],
    Field(description="decay of AdamW's two averages (published, and AdamW's own default: Loshchilov & Hutter 2019)"),
]
Eps = Annotated[float, Field(gt=0, description="AdamW's epsilon (published, and AdamW's own default)")]
CheckpointEvery = Annotated[
    int,
    Field(
        ge=1,
        description="steps between checkpoints: what a kill costs at most. A checkpoint holds the trained numbers three "
        "times (20 MB for an adapter of rank 8), so that writing one costs little beside 100 steps "
        "(published: 250 for LoRA)",
    ),
]
LogEvery = Annotated[
    int,
    Field(
        ge=1, description="steps between metric lines, each the mean since the last: the device is waited for only then"
    ),
]
ValidateEvery = Annotated[
    int,
    Field(
        ge=0,
        description="steps between losses by tone on training photos with fixed noise and timesteps, also taken at the "
        "end (of the average, where there is one): they show that a tone is learnt, not that it generalises. "
        "0 is off",
    ),
]
ValidationPhotos = Annotated[
    int,
    Field(
        ge=1,
        description="photos per tone in that loss, the first ones: 4 x 4 timesteps x 3 tones are 48 forward passes, 0.3% "
        "(lora) to 1.4% (embedding) of the work between two",
    ),
]
ValidationTimesteps = Annotated[
    int, Field(ge=1, description="timesteps per photo in that loss, spread evenly over the noise schedule")
]
GridEvery = Annotated[
    int,
    Field(
        ge=0,
        description="steps between sample grids (tones as rows) beside the run's logs, the last of them at the end; a grid of "
        "4 columns is the work of 8 (lora) to 15 (embedding) steps. 0 makes none",
    ),
]
GridSampler = Annotated[
    Literal["dpmsolver++", "ddim", "pndm", "unipc", "model"],
    Field(description="solver of the sample grid (as semantic)"),
]
GridSteps = Annotated[int, Field(ge=2, description="solver steps of the sample grid (as semantic)")]
GridGuidance = Annotated[float, Field(ge=1, description="guidance of the sample grid (diffusers' default)")]
GridRescale = Annotated[
    float,
    Field(
        ge=0, le=1, description="rescaling of the sample grid's guidance (Lin et al. 2024, section 3.4; as semantic: 0)"
    ),
]
GridColumns = Annotated[
    int, Field(ge=1, le=16, description="samples per tone in the grid: 4 show whether they differ, and fit on a page")
]
