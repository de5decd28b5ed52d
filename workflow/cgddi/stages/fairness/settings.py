"""Settings of the fairness stage."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

REVISION = 1


class FairnessSettings(BaseModel):
    """How figures are computed and compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap: int = Field(2000, ge=100, description="bootstrap replicates behind each interval (project's choice)")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="coverage of the percentile intervals (project's choice)")
    resample_runs: bool = Field(
        True,
        description="also resample the runs (seeds, splits), so that intervals cover training as well as test images",
    )
    calibration_bins: int = Field(15, ge=2, description="equal bins of the calibration error (Guo 2017: 15)")
    common_above: int = Field(10, ge=1, description="concepts with more real images than this are common (thesis)")
    rare_from: int = Field(3, ge=1, description="from this many they are rare, below very rare (thesis)")
    rarity_counts: Literal["all", "train"] = Field(
        "all", description="real images counted: of the whole split as in the thesis, or of its training role"
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
    title: str = Field("", description="shown above the tables")
