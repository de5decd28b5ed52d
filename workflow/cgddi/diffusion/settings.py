"""Settings that the training of tokens and of adapters share. Imports nothing heavy: planning reads it."""

from typing import Literal

from pydantic import Field

from cgddi.core.settings import Precision, Settings, neutral


class TrainingSettings(Settings):
    """How something new is trained on a frozen base model. The stages name what they set otherwise."""

    steps: int = Field(500, ge=1, description="optimizer steps (published)")
    accumulation: int = Field(1, ge=1, description="equal parts into which a step is cut to save memory")
    num_processes: int = Field(
        1,
        ge=1,
        description="GPUs of one node that train one token or adapter together, each on its share of every part",
    )
    learning_rate: float = Field(1e-4, gt=0, description="AdamW learning rate")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="learning-rate schedule (published: constant); the others end at 0"
    )
    warmup: int = Field(0, ge=0, description="steps of linear warm-up (published: none)")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW weight decay (diffusers example's default)")
    clip: float = Field(0.0, ge=0, description="largest gradient norm; 0 clips nothing")
    precision: Precision = Field(
        "bf16",
        description="of the frozen base model and of the step: bf16, fp16 (published; a GPU only) or fp32. What is trained is "
        "float32 throughout. Numbers depend on it, so it never follows the device that is found",
    )
    image_size: int = Field(512, ge=16, description="side of the training images in px (published)")
    hflip: float = Field(0.5, ge=0, le=1, description="chance of the mirror image")
    tone_exponent: float = Field(
        1.0, ge=0, le=2, description="tones drawn by frequency ** -x per image: 1 draws tones evenly, 0 images"
    )
    suffixes: bool = Field(True, description="add the ruler and marker suffixes where the mask shows one")
    ruler_suffix: str = Field(" with a ruler", description="suffix where it shows a ruler and no marker (published)")
    marker_suffix: str = Field(
        " deliniated with marker", description="suffix where it shows a marker and no ruler (published spelling)"
    )
    both_suffix: str = Field(
        " deliniated with marker and a ruler", description="suffix where it shows both (published spelling)"
    )
    lesion_weight: float = Field(
        1.0,
        ge=0,
        description="loss weight on lesion cells, from the mask (published: 1). More draws lesions more surely, but larger than "
        "they are: docs/samples.md",
    )
    ignore_mask_classes: tuple[Literal["background", "marker", "ruler", "skin"], ...] = Field(
        (), description="mask classes without loss (published: none)"
    )
    cuda_graphs: bool = neutral(
        True,
        description="whether a GPU is given a step as one recorded graph instead of thousands of kernels one by one: the same "
        "kernels, so the same numbers. It holds the step's memory for the whole run",
    )
    checkpoint_every: int = neutral(
        100,
        ge=1,
        description="steps between checkpoints: what a kill costs at most. One holds the trained numbers three times (20 MB for "
        "an adapter of rank 8), so that writing it costs little beside 100 steps",
    )
    log_every: int = neutral(
        10,
        ge=1,
        description="steps between metric lines, each the mean since the last: the device is waited for only then",
    )
    validate_every: int = neutral(
        100,
        ge=0,
        description="steps between losses by tone on training photos with fixed noise and timesteps, also taken at the end: "
        "they show that a tone is learnt, not that it generalises. 0 is off",
    )
    grid_every: int = neutral(
        250,
        ge=0,
        description="steps between sample grids (tones as rows) beside the run's logs; a grid of 4 columns is the work of 8 "
        "(lora) to 15 (embedding) steps. 0 makes none",
    )
    grid_steps: int = neutral(20, ge=2, description="solver steps of a sample grid")
    grid_guidance: float = neutral(7.5, ge=1, description="guidance of a sample grid (diffusers' default)")
    grid_columns: int = neutral(4, ge=1, le=16, description="samples per tone in a grid")
