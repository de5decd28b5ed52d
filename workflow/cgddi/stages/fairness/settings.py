"""Settings of the fairness stage."""

from typing import Literal

from cgddi.core.settings import Settings, setting

REVISION = 3


class FairnessSettings(Settings):
    """How figures are computed and compared."""

    test_sets: int = setting(
        2000, "test sets drawn for each value that a figure comparing tones may have (project's choice)", ge=100
    )
    confidence: float = setting(0.95, "coverage of the intervals (project's choice)", gt=0.5, lt=1)
    rarity_counts: Literal["all", "train"] = setting(
        "all",
        "real images of a disease that are counted to call it common (more than 10), rare (3 to 10) or very rare: "
        "of the whole split as in the thesis, or of its training role",
    )
    families: dict[str, tuple[str, ...]] = setting(
        {}, "name -> splits whose runs are also averaged into one row (repeated splits; paper: five seeds)"
    )
    compare: tuple[tuple[str, str], ...] = setting(
        (("synthetic", "real"), ("synthetic_real", "real"), ("synthetic_real", "synthetic")),
        "pairs of regimes whose difference (first minus second) is tested",
    )
    published: dict[str, str] = setting(
        {"ddi": "ddi", "f17k": "f17k"},
        "cohort -> published data set (ddi, f17k); the published figures stand beside runs trained and tested on it. "
        "Empty for data of your own",
    )
