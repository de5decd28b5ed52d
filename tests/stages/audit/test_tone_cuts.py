"""Tones by angle: cuts of the settings, or fitted to the photos, none of which is judged by cuts that it helped to fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cgddi.core.colour import fitted_cuts, tone_of_angle
from cgddi.core.images import TONES
from cgddi.stages.audit.quality import _told_apart


@pytest.mark.parametrize("counts", [(3, 2, 2), (19, 8, 11)])
def test_a_tenth_of_the_photos_is_judged_by_the_other_nine(counts):
    rng = np.random.default_rng(4)
    tones = np.repeat(TONES, counts)
    angles = rng.normal(np.repeat((40, 28, 10), counts), 15)
    frame = pd.DataFrame({"kind": "real", "tone": tones, "angle": angles})
    drawn = pd.DataFrame({"kind": "semantic", "tone": "dark", "angle": rng.normal(25, 20, 30)})
    cuts, found = _told_apart(pd.concat([drawn, frame], ignore_index=True), None)
    assert cuts == fitted_cuts(angles, tones)
    expected = []
    for n, angle in enumerate(angles):
        others = [k for k in range(len(angles)) if k % 10 != n % 10]
        own = fitted_cuts(angles[others], tones[others]) if len(angles) >= 10 else cuts
        expected.append(tone_of_angle(angle, own))
    assert found == [*(tone_of_angle(angle, cuts) for angle in drawn["angle"]), *expected]
    told = [tone_of_angle(angle, cuts) for angle in angles]
    assert (told != expected) == (len(angles) >= 10), "that it matters here"
    assert _told_apart(frame, (30, 20)) == ((30, 20), [tone_of_angle(angle, (30, 20)) for angle in angles])
