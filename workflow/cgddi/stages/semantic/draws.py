"""What a semantic job draws: canvas x tone x repeat, each with its own seed; and the further draws where one fails its check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cgddi.core.images import TONES
from cgddi.core.seeds import seed_for
from cgddi.diffusion.data import Photo
from cgddi.stages.semantic.settings import SemanticSettings


@dataclass(frozen=True)
class SampleSpec:
    """One image to draw.

    Args:
        key: `<canvas>-<tone>-<repeat>`.
        canvas: the canvas' image id.
        tone: the requested tone.
        repeat: 0-based.
        seed: from the names of all of these.
        attempt: how many draws of it failed their check before.
    """

    key: str
    canvas: str
    tone: str
    repeat: int
    seed: int
    attempt: int = 0

    def made_from(self, canvas: str) -> list[Any]:
        """What one image depends on beside what all of a job do, given the hash of its canvas."""
        return [canvas, self.tone, self.seed]

    def again(self, attempt: int) -> SampleSpec:
        """Its further draw of that number, from 1 on, with a seed of its own."""
        seed = seed_for(self.seed, "again", attempt)
        return replace(self, key=f"{self.key}-r{attempt}", seed=seed, attempt=attempt)


def choose_canvases(canvases: Sequence[Photo], limit: int | None, seed: int, concept: str) -> list[Photo]:
    """At most `limit` canvases, taken in turn from the tones in an order fixed by the names, then sorted by id."""
    if limit is None or limit >= len(canvases):
        return sorted(canvases, key=lambda photo: photo.id)
    ranked = {
        tone: sorted(
            (p for p in canvases if p.tone == tone), key=lambda p: seed_for(seed, "semantic-canvas", concept, p.id)
        )
        for tone in TONES
    }
    turns = max(map(len, ranked.values()))
    in_turn = [ranked[tone][turn] for turn in range(turns) for tone in TONES if turn < len(ranked[tone])]
    return sorted(in_turn[:limit], key=lambda photo: photo.id)


def draws(canvases: Sequence[Photo], settings: SemanticSettings, seed: int, concept: str) -> list[SampleSpec]:
    """All first draws of a job, sorted by canvas, tone and repeat; at most `per_tone` a tone, chosen by the images' own seeds."""
    chosen = []
    for tone in TONES:
        of_tone = [
            SampleSpec(f"{p.id}-{tone}-{r}", p.id, tone, r, seed_for(seed, "semantic", concept, p.id, tone, r))
            for p in canvases
            if settings.canvas_tones == "any" or p.tone == tone
            for r in range(settings.repeats)
        ]
        chosen += sorted(of_tone, key=lambda draw: draw.seed)[: settings.per_tone]
    return sorted(chosen, key=lambda draw: (draw.canvas, TONES.index(draw.tone), draw.repeat))


def redraw_seed(draw: SampleSpec, attempt: int) -> int:
    """The seed of a further attempt at an image that failed."""
    return seed_for(draw.seed, "redraw", attempt)
