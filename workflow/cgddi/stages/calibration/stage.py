"""Measure real photos with the judges of samples, and set limits that few of them fail; count how many, by tone and disease."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cgddi.core import judges
from cgddi.core.archive import Archive, record_for, sha256, write_record
from cgddi.core.colour import skin_angle
from cgddi.core.images import TONES, decode_png
from cgddi.job.spec import need, settings_of
from cgddi.stages.calibration.settings import CalibrationSettings

LEAST = 8
"""Photos with a canvas below which these set no limit."""
UNSET = judges.Limits(4.5, dict.fromkeys(TONES, (-180.0, 180.0)), {}, 0.0, 1.01)
"""Limits where photos are too few: only that a lesion is seen."""
FOLDS = 10
WIDER = 0.1
"""Share of its width by which a tone's range of angles is widened on each side: of few photos the extremes are not the limits."""


@dataclass(frozen=True)
class Pair:
    """A real photo and its canvas.

    Args:
        image, tone, disease, group: of the photo.
        scores: the photo's; its likeness is that to the most similar photo of another group.
        canvas: the canvas at working size.
        contrasts: of the canvas (see `judges.contrasts`).
    """

    image: str
    tone: str
    disease: str
    group: str
    scores: judges.Scores
    canvas: judges.View
    contrasts: np.ndarray


def calibrate(
    spec: Mapping[str, Any], photos: Sequence[Path], canvases: Sequence[Path], output: Path
) -> dict[str, Any]:
    """Write the limits, and what they refuse.

    Args:
        spec: images (ids of the photos), settings.
        photos: archives of the photos with their masks.
        canvases: archives of their canvases; a photo without one is left out.
        output: the .json to write.

    Returns:
        The record: limits; photos (how many set them; below `LEAST` none does); refused, plain_skin (see there).
    """
    settings = settings_of(CalibrationSettings, spec)
    (images,) = need(spec, "images")
    pairs = read_pairs(images, photos, canvases)
    enough = len(pairs) >= LEAST
    limits = limits_of(pairs, settings.false_rejects) if enough else UNSET
    facts = {
        "limits": asdict(limits),
        "photos": len(pairs),
        "refused": refused(pairs, settings.false_rejects) if enough else None,
        "plain_skin": plain_skin(pairs, limits),
    }
    record = record_for(spec, [Archive(path).manifest_path for path in (*photos, *canvases)], **facts)
    write_record(output, record)
    return record


def read_pairs(images: Sequence[str], photos: Sequence[Path], canvases: Sequence[Path]) -> list[Pair]:
    """Photos with a mask and a canvas, measured; sorted by id."""
    wanted, healthy = set(images), {}
    for archive in map(Archive, canvases):
        healthy |= {row["image_id"]: (archive, row) for row in archive.rows}
    rows = [
        (archive, row)
        for archive in map(Archive, photos)
        for row in archive.rows
        if row["image_id"] in wanted and "mask.png" in row["members"] and row["image_id"] in healthy
    ]
    rows.sort(key=lambda found: found[1]["image_id"])
    pixels = [decode_png(archive.read(row)) for archive, row in rows]
    groups = [row.get("group") or row["image_id"] for _, row in rows]
    thumbnails = np.stack([judges.thumbnail(rgb) for rgb in pixels]) if rows else None
    pairs = []
    for number, ((archive, row), rgb) in enumerate(tqdm(list(zip(rows, pixels, strict=True)), "measure", unit="photo")):
        part = judges.bare(decode_png(archive.read(row, "mask.png")))
        kept, place = healthy[row["image_id"]]
        canvas = judges.view(decode_png(kept.read(place)), part)
        contrasts = judges.contrasts(canvas)
        others = [n for n, group in enumerate(groups) if group != groups[number]]
        alike = judges.likeness(thumbnails[number], thumbnails[others]) if others else np.array([-1.0])
        scores = judges.Scores(
            presence=judges.presence(judges.view(rgb, part), contrasts),
            angle=skin_angle(rgb, part),
            traits=judges.traits(rgb, part),
            likeness=float(alike.max()),
            nearest=rows[others[int(alike.argmax())]][1]["image_id"] if others else None,
        )
        disease = str(row.get("disease") or row["concept"])
        pairs.append(Pair(row["image_id"], row["tone"], disease, groups[number], scores, canvas, contrasts))
    return pairs


def limits_of(pairs: Sequence[Pair], false_rejects: float) -> judges.Limits:
    """Limits that at most a share of the photos fail: quantiles of what was measured of them.

    Half of the share for lesions that are not seen, a sixth each for tone, traits and likeness. A tone without a photo has the
    range of all.
    """
    part = false_rejects / 6
    scores = [pair.scores for pair in pairs]
    names = scores[0].traits
    usual = {name: np.median([score.traits[name] for score in scores]) for name in names}
    scale = {
        name: max(float(np.quantile([abs(score.traits[name] - usual[name]) for score in scores], 0.95)), 1e-3)
        for name in names
    }
    traits = {name: (round(float(usual[name]), 4), round(scale[name], 4)) for name in names}
    far = [max(abs(score.traits[name] - traits[name][0]) / traits[name][1] for name in names) for score in scores]
    angles = {tone: [pair.scores.angle for pair in pairs if pair.tone == tone] for tone in TONES}
    every = [score.angle for score in scores]
    return judges.Limits(
        presence=round(float(np.quantile([score.presence for score in scores], 3 * part)), 4),
        angle={tone: _range(angles[tone] or every, part) for tone in TONES},
        traits=traits,
        strangeness=round(float(np.quantile(far, 1 - part)), 4),
        likeness=round(float(np.quantile([score.likeness for score in scores], 1 - part)), 4),
    )


def _range(angles: Sequence[float], share: float) -> tuple[float, float]:
    """Range that all but a share of the angles lie in, a little wider."""
    low, high = np.quantile(angles, [share / 2, 1 - share / 2])
    more = WIDER * (high - low)
    return round(float(low - more), 2), round(float(high + more), 2)


def refused(pairs: Sequence[Pair], false_rejects: float) -> dict[str, Any]:
    """How many real photos fail limits that were set without them: in all, by reason, by tone and by disease.

    Each tenth of the photos, drawn by their names, is judged by limits of the other nine.
    """
    fold = [int(sha256(pair.image)[:8], 16) % FOLDS for pair in pairs]
    by: dict[str, dict[str, list[int]]] = {
        name: defaultdict(lambda: [0, 0]) for name in ("reasons", "tones", "diseases")
    }
    missed: dict[str, int] = defaultdict(int)
    total = 0
    for number in sorted(set(fold)):
        rest = [pair for pair, own in zip(pairs, fold, strict=True) if own != number]
        limits = limits_of(rest or pairs, false_rejects)
        for pair in (pair for pair, own in zip(pairs, fold, strict=True) if own == number):
            found = judges.faults(pair.scores, pair.tone, limits)
            total += bool(found)
            missed[pair.disease] += judges.NO_LESION in found
            for reason in found:
                by["reasons"][reason][0] += 1
            for name, key in (("tones", pair.tone), ("diseases", pair.disease)):
                by[name][key][0] += bool(found)
                by[name][key][1] += 1
    share = {
        name: {"photos": n, "refused": k, "share": round(k / n, 4)} for name, (k, n) in sorted(by["tones"].items())
    }
    return {
        "photos": len(pairs),
        "refused": total,
        "share": round(total / len(pairs), 4),
        "reasons": {reason: k for reason, (k, _) in sorted(by["reasons"].items())},
        "by_tone": share,
        "by_disease": {
            name: {"photos": n, "refused": k, "no lesion seen": missed[name]}
            for name, (k, n) in sorted(by["diseases"].items())
        },
    }


def plain_skin(pairs: Sequence[Pair], limits: judges.Limits) -> dict[str, Any]:
    """How many pictures of plain skin show a lesion by these limits: each canvas judged on the next canvas of its tone.

    Returns:
        by tone: pictures and how many of them pass.
    """
    found = {}
    for tone in TONES:
        of_tone = [pair for pair in pairs if pair.tone == tone]
        passed, tried = 0, 0
        for here, there in zip(of_tone, of_tone[1:] + of_tone[:1], strict=True):
            if here is not there:
                both = judges.View(there.canvas.lab, np.minimum(there.canvas.weight, here.canvas.weight))
                tried += 1
                passed += judges.presence(both, here.contrasts) >= limits.presence
        found[tone] = {"pictures": tried, "with a lesion": int(passed)}
    return found
