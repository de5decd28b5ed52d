"""The check of each sample against limits from the run's own real photos (stage calibration)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgddi.core import judges
from cgddi.core.archive import Archive
from cgddi.core.colour import skin_angle
from cgddi.core.errors import UserError
from cgddi.core.images import TONES, decode_png
from cgddi.diffusion.data import Photo, fit_square
from cgddi.stages.semantic.draws import SampleSpec


@dataclass(frozen=True)
class Verdict:
    """What the check says of one image.

    Args:
        scores: what was measured, rounded, for the manifest.
        faults: reason -> in words; empty: it passes.
    """

    scores: dict[str, Any]
    faults: dict[str, str]


class Checker:
    """Judges samples on their canvases.

    Args:
        calibration: the limits' file.
        photos: archives that hold the photos the adapter learnt from.
        learnt: ids of these photos.
        canvases: the canvases.
        size: side of the samples in px.
    """

    def __init__(
        self, calibration: Path, photos: Sequence[Path], learnt: Sequence[str], canvases: Sequence[Photo], size: int
    ):
        try:
            self.limits = judges.Limits(**json.loads(Path(calibration).read_bytes())["limits"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{calibration}: holds no limits ({error}). Delete it and run the workflow again."
            ) from error
        known = {
            row["image_id"]: judges.thumbnail(decode_png(archive.read(row)))
            for archive in map(Archive, photos)
            for row in archive.rows
            if row["image_id"] in learnt
        }
        self.learnt = sorted(known)
        self.thumbnails = np.stack([known[image] for image in self.learnt]) if known else None
        self.parts, self.contrasts = {}, {}
        for canvas in canvases:
            mask = None if canvas.mask is None else fit_square(canvas.mask, size, mask=True)
            part = self.parts[canvas.id] = judges.usable(mask, (size, size))
            self.contrasts[canvas.id] = judges.contrasts(judges.view(fit_square(canvas.pixels, size), part))

    def look(self, draw: SampleSpec, png: bytes) -> Verdict:
        """Judge one sample."""
        rgb, part = decode_png(png), self.parts[draw.canvas]
        nearest, likeness = self._nearest(rgb, draw.canvas)
        scores = judges.Scores(
            presence=judges.presence(judges.view(rgb, part), self.contrasts[draw.canvas]),
            angle=skin_angle(rgb, part),
            traits=judges.traits(rgb, part),
            likeness=likeness,
            nearest=nearest,
        )
        trait, far = self.limits.strangest(scores.traits)
        measured = {"presence": scores.presence, "angle": scores.angle, "strangeness": far, "likeness": likeness}
        shown = {name: round(value, 3) for name, value in measured.items()}
        return Verdict(shown | {"trait": trait, "nearest": nearest}, judges.faults(scores, draw.tone, self.limits))

    def _nearest(self, rgb: np.ndarray, canvas: str) -> tuple[str | None, float]:
        """The most similar photo learnt from and its similarity; the photo of the sample's own canvas is left out, which it
        resembles by construction."""
        others = [number for number, image in enumerate(self.learnt) if image != canvas]
        if self.thumbnails is None or not others:
            return None, -1.0
        alike = judges.likeness(judges.thumbnail(rgb), self.thumbnails[others])
        best = int(alike.argmax())
        return self.learnt[others[best]], float(alike[best])


def counts(results: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """By tone: images wanted, first draws that passed, all draws, images that passed, images short, and failures by reason."""
    found = {}
    for tone in TONES:
        of_tone = [result for result in results if result.draw.tone == tone]
        first = [result for result in of_tone if not result.draw.attempt]
        passed = sum(not result.verdict.faults for result in of_tone)
        reasons = Counter(reason for result in of_tone for reason in result.verdict.faults)
        found[tone] = {
            "wanted": len(first),
            "passed at first": sum(not result.verdict.faults for result in first),
            "drawn": len(of_tone),
            "passed": passed,
            "short": len(first) - passed,
            "reasons": dict(sorted(reasons.items())),
        }
    return found
