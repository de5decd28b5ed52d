"""Limits of the samples' check as arithmetic on what was measured of photos, written out again; nothing is drawn."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from cgddi.core import judges
from cgddi.core.colour import fitted_cuts
from cgddi.core.images import TONES
from cgddi.stages.calibration.stage import Pair, limits_of, refused

CENTRES = {"light": 45.0, "medium": 20.0, "dark": -15.0}


def measured(counts, seed=0, plain=3.0, unknown=0):
    """Pairs of uneven tones: presence 4 to 30, plain skin around `plain`; of the first `unknown` none is known."""
    rng, found = np.random.default_rng(seed), []
    for tone, count in zip(TONES, counts, strict=True):
        for _ in range(count):
            scores = judges.Scores(
                presence=float(rng.uniform(4, 30)),
                angle=float(rng.normal(CENTRES[tone], 9)),
                traits={"strip": float(rng.exponential(0.1)), "flat": 0.5},
                likeness=float(rng.uniform(0, 0.9)),
            )
            bare = None if len(found) < unknown else float(plain * rng.uniform(0.5, 1.5))
            name = f"p{len(found):03d}"
            found.append(Pair(name, tone, "rare" if len(found) % 9 == 0 else "nevus", name, scores, bare))
    return found


def ranked(values, share, up):
    """The value that a share lies below, the next one up or down."""
    place = share * (len(values) - 1)
    return sorted(values)[math.ceil(place) if up else math.floor(place)]


@pytest.mark.parametrize("share", [0.06, 0.5])
@pytest.mark.parametrize(
    ("counts", "plain", "unknown"), [((31, 9, 14), 3.0, 5), ((8, 0, 30), 3.0, 0), ((20, 5, 5), 18.0, 30)]
)
def test_limits_are_the_quantiles_that_the_page_names(share, counts, plain, unknown):
    pairs = measured(counts, plain=plain, unknown=unknown)
    found, sixth = limits_of(pairs, share), share / 6
    lesion = ranked([pair.scores.presence for pair in pairs], share / 2, up=False)
    bare = [pair.plain for pair in pairs if pair.plain is not None]
    floor = min(lesion, np.percentile(bare, 99)) if bare else lesion
    assert found.presence == pytest.approx((lesion + floor) / 2, abs=1e-4)
    strips = np.array([pair.scores.traits["strip"] for pair in pairs])
    usual = np.median(strips)
    assert found.traits["strip"] == pytest.approx((usual, ranked(abs(strips - usual), 1 - sixth, up=True)), abs=1e-4)
    assert found.traits["flat"] == (0.5, 0.001), "a scale of nothing would refuse everything"
    assert found.strangeness == 2.0
    alike = ranked([pair.scores.likeness for pair in pairs], 1 - sixth, up=True)
    assert found.likeness == pytest.approx(alike + (1 - alike) / 5, abs=1e-4)
    every = [pair.scores.angle for pair in pairs]
    light, medium = fitted_cuts(every, [pair.tone for pair in pairs])
    for tone, (low, high) in found.angle.items():
        own = [pair.scores.angle for pair in pairs if pair.tone == tone] or every
        least, most = np.quantile(own, [sixth / 2, 1 - sixth / 2])
        least, most = least - (most - least) / 5, most + (most - least) / 5
        assert low == pytest.approx(
            least if tone == "dark" else min(least, light if tone == "light" else medium), abs=0.01
        )
        assert high == pytest.approx(
            most if tone == "light" else max(most, light if tone == "medium" else medium), abs=0.01
        )


def test_each_photo_is_judged_by_the_limits_of_other_tenths():
    pairs = measured((31, 9, 14), seed=3)
    tenth = {pair.image: int(hashlib.sha256(pair.image.encode()).hexdigest()[:8], 16) % 10 for pair in pairs}
    faults = {}
    for pair in pairs:
        limits = limits_of([other for other in pairs if tenth[other.image] != tenth[pair.image]], 0.4)
        faults[pair.image] = judges.faults(pair.scores, pair.tone, limits)
    found = refused(pairs, 0.4)
    assert found["refused"] == sum(map(bool, faults.values())) > 5
    assert found["share"] == pytest.approx(found["refused"] / 54, abs=1e-4) and found["photos"] == 54
    reasons = [reason for each in faults.values() for reason in each]
    assert found["reasons"] == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    for tone, count in zip(TONES, (31, 9, 14), strict=True):
        failed = sum(bool(faults[pair.image]) for pair in pairs if pair.tone == tone)
        assert found["by_tone"][tone] == {"photos": count, "refused": failed, "share": round(failed / count, 4)}
    rare = [faults[pair.image] for pair in pairs if pair.disease == "rare"]
    assert found["by_disease"]["rare"] == {
        "photos": 6, "refused": sum(map(bool, rare)), "no lesion seen": sum("no lesion" in each for each in rare)
    }  # fmt: skip
