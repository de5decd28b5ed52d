"""What `cgddi check` found in photos and masks, remembered by what they hold: planning refuses what was refused there, and reads
none of them again. Light."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress

from cgddi.core.archive import canonical, sha256, write_atomic
from cgddi.core.errors import Problem
from cgddi.plan.content import Contents
from cgddi.plan.sheets import Photo

VERSION = 1
"""Raised when the check finds other faults: all photos are then looked into again."""

Finding = tuple[str, str, str, str]
"""("problem" or "warning", column, message, remedy)."""


class Checked:
    """What was found in each pair of photo and mask.

    Args:
        contents: what files hold; the findings lie beside its memory.
    """

    def __init__(self, contents: Contents):
        self.contents, self.path = contents, contents.memory.with_name("checked.json")
        try:
            self._known: dict[str, list[Finding]] = json.loads(self.path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            self._known = {}

    def _key(self, photo: Photo, ids: Mapping[str, int] | None) -> str:
        mask = self.contents.file(photo.mask) if photo.mask else None
        return sha256(canonical([VERSION, self.contents.file(photo.file), mask, ids and dict(ids)]))[:24]

    def get(self, photo: Photo, ids: Mapping[str, int] | None) -> list[Finding] | None:
        """What was found in a photo and its mask; None where nobody looked.

        Args:
            photo: the row; its files are there.
            ids: value in a mask file -> class id.
        """
        return self._known.get(self._key(photo, ids))

    def put(self, photo: Photo, ids: Mapping[str, int] | None, found: Iterable[Finding]) -> None:
        """Remember what was found."""
        self._known[self._key(photo, ids)] = list(found)

    def save(self) -> None:
        """Keep it for the next planning, where that may be written."""
        with suppress(OSError):
            write_atomic(self.path, json.dumps(self._known, ensure_ascii=True), alone=False)

    def problems(self, photos: Iterable[tuple[Photo, Mapping[str, int] | None]], source: str) -> list[Problem]:
        """What stands against a run, of photos as they are now.

        Args:
            photos: each with the classes of its mask.
            source: the image sheet, for messages.
        """
        if not self._known:
            return []
        found = [(photo, finding) for photo, ids in photos for finding in self.get(photo, ids) or ()]
        return [told(photo, finding, source) for photo, finding in found if finding[0] == "problem"]


def told(photo: Photo, finding: Finding, source: str) -> Problem:
    """A finding at its place in the sheet of now."""
    _, column, message, remedy = finding
    value = photo.mask if column == "mask" else photo.file
    return Problem(source, message, remedy, row=photo.row, column=column, value=value)
