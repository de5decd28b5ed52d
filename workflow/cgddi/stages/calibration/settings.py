"""Settings of the calibration stage. Imports nothing heavy: planning reads it."""

from pydantic import Field

from cgddi.core.settings import Settings

REVISION = 1


class CalibrationSettings(Settings):
    """How strictly samples are checked (`semantic.check`), in terms of the run's own photos: the first cohort's training photos
    with a mask, each against its healthy canvas. A lower share is looser and draws nothing, a higher one only what is short."""

    false_rejects: float = Field(
        0.04,
        gt=0,
        lt=0.5,
        description="share of real photos that the check may refuse: half of it for showing no lesion, the rest in equal parts "
        "for their tone, faults of drawing, and being copies of each other",
    )
