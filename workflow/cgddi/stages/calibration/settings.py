"""Settings of the calibration stage. Imports nothing heavy: planning reads it."""

from cgddi.core.settings import Settings, setting

REVISION = 1


class CalibrationSettings(Settings):
    """How strictly samples are checked (`semantic.check`), in terms of the run's own photos: the first cohort's training photos
    with a mask, each against its healthy canvas. A lower share is looser and draws nothing, a higher one only what is short."""

    false_rejects: float = setting(
        0.04,
        "share of real photos that the check may refuse: half of it for showing no lesion, the rest in equal parts "
        "for their tone, faults of drawing, and being copies of each other",
        gt=0,
        lt=0.5,
    )
