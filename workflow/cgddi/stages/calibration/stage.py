"""Measure real photos with the judges of samples, and set limits that few of them fail; count how many, by tone and disease."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cgddi.core import judges
from cgddi.core.archive import Archive, record_for, sha256, write_record
from cgddi.core.colour import fitted_cuts, skin_angle
from cgddi.core.images import TONES, decode_png
from cgddi.core.labels import labelled, labels_of
from cgddi.job.spec import need, settings_of
from cgddi.stages.calibration.settings import CalibrationSettings

LEAST = 8
"""Photos with a canvas below which these set no limit."""
UNSET = judges.Limits(5.5, dict.fromkeys(TONES, (-180.0, 180.0)), {}, 0.0, 1.01)
"""Limits where photos are too few: only that a lesion is seen. All of 26 smartphone photos have more (6.9 and up), and the same
photos with their lesions healed less, but for two with shadows; plain skin of the toy world reaches 4.5."""
FOLDS = 10
WIDER = 0.2
"""Share by which ranges are widened: of few photos the extremes are not the limits."""
BEYOND, LEAST_SCALE = 2.0, 1e-3
"""A sample may lie so many times as far from a trait's usual value as the furthest photo, which lies at least so far: a generator's
pictures are smoother than photos, on the toy's model one and a half times as far as the furthest of these."""


@dataclass(frozen=True)
class Pair:
    """A real photo and its canvas.

    Args:
        image, tone, disease, group: of the photo.
        scores: the photo's; its likeness is that to the most similar photo of another group.
        plain: presence of a lesion in plain skin: the next canvas of the tone judged on this one; None: there is no other.
    """

    image: str
    tone: str
    disease: str
    group: str
    scores: judges.Scores
    plain: float | None


def calibrate(
    spec: Mapping[str, Any], photos: Sequence[Path], canvases: Sequence[Path], output: Path
) -> dict[str, Any]:
    """Write the limits, and what they refuse.

    Args:
        spec: labels (image_id, concept, tone and group of the photos), settings.
        photos: archives of the photos with their masks.
        canvases: archives of their canvases; a photo without one is left out.

    Returns:
        The record: limits; photos (how many set them; below `LEAST` none does); refused (see there), plain_skin (by tone, pictures
        of plain skin that show a lesion by these limits).
    """
    settings = settings_of(CalibrationSettings, spec)
    need(spec, "labels")
    pairs = read_pairs(labels_of(spec), photos, canvases)
    enough = len(pairs) >= LEAST
    limits = limits_of(pairs, settings.false_rejects) if enough else UNSET
    facts = {
        "limits": asdict(limits),
        "photos": len(pairs),
        "refused": refused(pairs, settings.false_rejects) if enough else None,
        "plain_skin": {tone: _seen(pairs, tone, limits.presence) for tone in TONES},
    }
    record = record_for(spec, [Archive(path).manifest_path for path in (*photos, *canvases)], **facts)
    write_record(output, record)
    return record


def _seen(pairs: Sequence[Pair], tone: str, limit: float) -> dict[str, int]:
    """Pictures of plain skin of a tone, and how many of them show a lesion by the limit."""
    plain = [pair.plain for pair in pairs if pair.tone == tone and pair.plain is not None]
    return {"pictures": len(plain), "with a lesion": sum(value >= limit for value in plain)}


def read_pairs(labels: Mapping[str, Mapping[str, Any]], photos: Sequence[Path], canvases: Sequence[Path]) -> list[Pair]:
    """Photos with labels, a mask and a canvas, measured; sorted by id."""
    healthy: dict[str, tuple[Archive, dict[str, Any]]] = {}
    for archive in map(Archive, canvases):
        healthy |= {row["image_id"]: (archive, row) for row in archive.rows}
    rows = [
        (archive, row)
        for archive in map(Archive, photos)
        for row in labelled(archive.rows, labels)
        if row["image_id"] in labels and "mask.png" in row["members"] and row["image_id"] in healthy
    ]
    rows.sort(key=lambda found: found[1]["image_id"])
    pixels = [decode_png(archive.read(row)) for archive, row in rows]
    groups = [row.get("group") or row["image_id"] for _, row in rows]
    thumbnails = np.stack([judges.thumbnail(rgb) for rgb in pixels]) if rows else None
    pairs: list[Pair] = []
    views, contrasts = [], []
    for number, ((archive, row), rgb) in enumerate(tqdm(list(zip(rows, pixels, strict=True)), "measure", unit="photo")):
        part = judges.bare(decode_png(archive.read(row, "mask.png")))
        kept, place = healthy[row["image_id"]]
        views.append(judges.view(decode_png(kept.read(place)), part))
        contrasts.append(judges.contrasts(views[-1]))
        others = [n for n, group in enumerate(groups) if group != groups[number]]
        alike = judges.likeness(thumbnails[number], thumbnails[others]) if others else np.array([-1.0])
        scores = judges.Scores(
            presence=judges.presence(judges.view(rgb, part), contrasts[-1]),
            angle=skin_angle(rgb, part),
            traits=judges.traits(rgb, part),
            likeness=float(alike.max()),
            nearest=rows[others[int(alike.argmax())]][1]["image_id"] if others else None,
        )
        pairs.append(Pair(row["image_id"], row["tone"], row["concept"], groups[number], scores, None))
    return [replace(pair, plain=plain) for pair, plain in zip(pairs, _plain(pairs, views, contrasts), strict=True)]


def _plain(pairs: Sequence[Pair], views: Sequence[judges.View], contrasts: Sequence[np.ndarray]) -> list[float | None]:
    """Of each canvas the presence of a lesion in the next one of its tone."""
    found: list[float | None] = [None] * len(pairs)
    for tone in TONES:
        of_tone = [number for number, pair in enumerate(pairs) if pair.tone == tone]
        for here, there in zip(of_tone, of_tone[1:] + of_tone[:1], strict=True):
            if here != there:
                both = judges.View(views[there].lab, np.minimum(views[there].weight, views[here].weight))
                found[here] = judges.presence(both, contrasts[here])
    return found


def limits_of(pairs: Sequence[Pair], false_rejects: float) -> judges.Limits:
    """Limits that at most a share of the photos fail: quantiles of what was measured of them.

    Half of the share for lesions that are not seen, a sixth each for tone, each trait and likeness. Where plain skin shows less
    than that quantile of the lesions, the limit is halfway between the two. Quantiles of so few photos are widened by a fifth. A
    tone without a photo has the range of all.
    """
    part = false_rejects / 6
    scores = [pair.scores for pair in pairs]
    traits = {}
    for name in scores[0].traits:
        values = np.array([score.traits[name] for score in scores])
        usual = float(np.median(values))
        furthest = float(np.quantile(np.abs(values - usual), 1 - part, method="higher"))
        traits[name] = round(usual, 4), round(max(furthest, LEAST_SCALE), 4)
    lesions = float(np.quantile([score.presence for score in scores], 3 * part, method="lower"))
    plain = float(np.quantile([pair.plain for pair in pairs if pair.plain is not None] or [lesions], 0.99))
    alike = float(np.quantile([score.likeness for score in scores], 1 - part, method="higher"))
    return judges.Limits(
        presence=round((lesions + min(plain, lesions)) / 2, 4),
        angle=_angles(pairs, part),
        traits=traits,
        strangeness=BEYOND,
        likeness=round(alike + WIDER * (1 - alike), 4),
    )


def _angles(pairs: Sequence[Pair], share: float) -> dict[str, tuple[float, float]]:
    """Range of angles of each tone: that of its photos, and up to the cuts that tell the tones apart best."""
    every = [pair.scores.angle for pair in pairs]
    first, second = fitted_cuts(every, [pair.tone for pair in pairs])
    found = {}
    for tone, below, over in zip(TONES, (first, second, None), (None, first, second), strict=True):
        low, high = np.quantile([p.scores.angle for p in pairs if p.tone == tone] or every, [share / 2, 1 - share / 2])
        more = WIDER * (high - low)
        low, high = (
            min(low - more, np.inf if below is None else below),
            max(high + more, -np.inf if over is None else over),
        )
        found[tone] = round(float(low), 2), round(float(high), 2)
    return found


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
