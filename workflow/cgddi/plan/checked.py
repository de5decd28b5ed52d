"""What `cgddi check` found in photos and masks, remembered by what they hold: planning refuses what was refused there, and reads
none of them again. Light."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from cgddi.core.archive import canonical, sha256, write_atomic
from cgddi.core.errors import Problem
from cgddi.plan.content import Contents
from cgddi.plan.sheets import Photo

VERSION = 2
"""Raised when the check finds other faults: all photos are then looked into again."""

Finding = tuple[str, str, str, str]
"""("problem" or "warning", column, message, remedy)."""


class Reading(NamedTuple):
    """How photos and masks of a cohort are read.

    Args:
        ids: value in a mask file -> class id; None: the files hold class ids.
        size: working size in px; None: not known.
    """

    ids: Mapping[str, int] | None = None
    size: int | None = None
    crop: str = "resize"


PLAIN = Reading()
"""Class ids, of a working size that is not known."""


class Checked:
    """What was found in each pair of photo and mask."""

    def __init__(self, contents: Contents):
        self.contents, self.path = contents, contents.memory.with_name("checked.json")
        try:
            self._known: dict[str, list[Finding]] = json.loads(self.path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            self._known = {}

    def _key(self, photo: Photo, reading: Reading) -> str:
        mask = self.contents.file(photo.mask) if photo.mask else None
        how = [reading.ids and dict(reading.ids), reading.size, reading.crop]
        return sha256(canonical([VERSION, self.contents.file(photo.file), mask, how]))[:24]

    def get(self, photo: Photo, reading: Reading) -> list[Finding] | None:
        """What was found in a photo and its mask; None where nobody looked."""
        return self._known.get(self._key(photo, reading))

    def put(self, photo: Photo, reading: Reading, found: Iterable[Finding]) -> None:
        """Remember what was found."""
        self._known[self._key(photo, reading)] = list(found)

    def save(self) -> None:
        """Keep it for the next planning, where that may be written."""
        with suppress(OSError):
            write_atomic(self.path, json.dumps(self._known, ensure_ascii=True), alone=False)

    def problems(self, photos: Iterable[tuple[Photo, Reading]], source: str) -> list[Problem]:
        """What stands against a run, of photos as they are now.

        Args:
            photos: each with how it is read.
        """
        if not self._known:
            return []
        found = [(photo, finding) for photo, reading in photos for finding in self.get(photo, reading) or ()]
        return [told(photo, finding, source) for photo, finding in found if finding[0] == "problem"]

    def unseen(self, photos: Iterable[tuple[Photo, Reading]]) -> int:
        """How many photos nobody has looked into as they are now."""
        return sum(self.get(photo, reading) is None for photo, reading in photos)


def told(photo: Photo, finding: Finding, source: str) -> Problem:
    """A finding at its place in the sheet of now."""
    _, column, message, remedy = finding
    value = photo.mask if column == "mask" else photo.file
    return Problem(source, message, remedy, row=photo.row, column=column, value=value)
