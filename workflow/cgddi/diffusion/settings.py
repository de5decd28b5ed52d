"""Settings that the training of tokens and of adapters share. Imports nothing heavy: planning reads it."""

from typing import Literal

from cgddi.core.settings import Precision, Settings, neutral, setting


class TrainingSettings(Settings):
    """How something new is trained on a frozen base model. The stages name what they set otherwise."""

    steps: int = setting(500, "optimizer steps (published)", ge=1)
    accumulation: int = setting(1, "equal parts into which a step is cut to save memory", ge=1)
    num_processes: int = setting(
        1, "GPUs of one node that train one token or adapter together, each on its share of every part", ge=1
    )
    learning_rate: float = setting(1e-4, "AdamW learning rate", gt=0)
    lr_schedule: Literal["constant", "linear", "cosine"] = setting(
        "constant", "learning-rate schedule (published: constant); the others end at 0"
    )
    warmup: int = setting(0, "steps of linear warm-up (published: none)", ge=0)
    weight_decay: float = setting(1e-2, "AdamW weight decay (diffusers example's default)", ge=0)
    clip: float = setting(0.0, "largest gradient norm; 0 clips nothing", ge=0)
    precision: Precision = setting(
        "bf16",
        "of the frozen base model and of the step: bf16, fp16 (published; a GPU only) or fp32. What is trained is "
        "float32 throughout. Numbers depend on it, so it never follows the device that is found",
    )
    image_size: int = setting(512, "side of the training images in px (published)", ge=16)
    hflip: float = setting(0.5, "chance of the mirror image", ge=0, le=1)
    tone_exponent: float = setting(
        1.0, "tones drawn by frequency ** -x per image: 1 draws tones evenly, 0 images", ge=0, le=2
    )
    suffixes: bool = setting(True, "add the ruler and marker suffixes where the mask shows one")
    ruler_suffix: str = setting(" with a ruler", "suffix where it shows a ruler and no marker (published)")
    marker_suffix: str = setting(
        " deliniated with marker", "suffix where it shows a marker and no ruler (published spelling)"
    )
    both_suffix: str = setting(" deliniated with marker and a ruler", "suffix where it shows both (published spelling)")
    lesion_weight: float = setting(
        1.0,
        "loss weight on lesion cells, from the mask (published: 1). More draws lesions more surely, but larger than "
        "they are: docs/samples.md",
        ge=0,
    )
    ignore_mask_classes: tuple[Literal["background", "marker", "ruler", "skin"], ...] = setting(
        (), "mask classes without loss (published: none)"
    )
    cuda_graphs: bool = neutral(
        True,
        "whether a GPU is given a step as one recorded graph instead of thousands of kernels one by one: the same "
        "kernels, so the same numbers. It holds the step's memory for the whole run",
    )
    checkpoint_every: int = neutral(
        100,
        "steps between checkpoints: what a kill costs at most. One holds the trained numbers three times (20 MB for "
        "an adapter of rank 8), so that writing it costs little beside 100 steps",
        ge=1,
    )
    log_every: int = neutral(
        10, "steps between metric lines, each the mean since the last: the device is waited for only then", ge=1
    )
    validate_every: int = neutral(
        100,
        "steps between losses by tone on training photos with fixed noise and timesteps, also taken at the end: "
        "they show that a tone is learnt, not that it generalises. 0 is off",
        ge=0,
    )
    grid_every: int = neutral(
        250,
        "steps between sample grids (tones as rows) beside the run's logs; a grid of 4 columns is the work of 8 "
        "(lora) to 15 (embedding) steps. 0 makes none",
        ge=0,
    )
    grid_steps: int = neutral(20, "solver steps of a sample grid", ge=2)
    grid_guidance: float = neutral(7.5, "guidance of a sample grid (diffusers' default)", ge=1)
    grid_columns: int = neutral(4, "samples per tone in a grid", ge=1, le=16)
