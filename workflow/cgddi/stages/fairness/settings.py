"""Settings of the fairness stage."""

from typing import Literal

from pydantic import Field

from cgddi.core.settings import Settings

REVISION = 3


class FairnessSettings(Settings):
    """How figures are computed and compared."""

    test_sets: int = Field(
        2000,
        ge=100,
        description="test sets drawn for each value that a figure comparing tones may have (project's choice)",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="coverage of the intervals (project's choice)")
    rarity_counts: Literal["all", "train"] = Field(
        "all",
        description="real images of a disease that are counted to call it common (more than 10), rare (3 to 10) or very rare: "
        "of the whole split as in the thesis, or of its training role",
    )
    families: dict[str, tuple[str, ...]] = Field(
        {}, description="name -> splits whose runs are also averaged into one row (repeated splits; paper: five seeds)"
    )
    compare: tuple[tuple[str, str], ...] = Field(
        (("synthetic", "real"), ("synthetic_real", "real"), ("synthetic_real", "synthetic")),
        description="pairs of regimes whose difference (first minus second) is tested",
    )
    published: dict[str, str] = Field(
        {"ddi": "ddi", "f17k": "f17k"},
        description="cohort -> published data set (ddi, f17k); the published figures stand beside runs trained and tested on it. "
        "Empty for data of your own",
    )
