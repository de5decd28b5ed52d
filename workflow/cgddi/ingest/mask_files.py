"""Which file of a folder is the mask of a photo: by the names that labs and public sets give them."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from cgddi.core.errors import Problem, UserError
from cgddi.core.masks import SUFFIXES

WORDS = "mask|masks|msk|segmentation|seg|lesion|label|labels|gt|ground_?truth|annotation|binary|roi"
_AFFIXES = re.compile(rf"^(?:{WORDS})[ _.-]+|[ _.-]+(?:{WORDS})$")
"""What stands before or after the photo's name: `IMG_1_mask`, `ISIC_0000001_segmentation`, PH2's `IMD002_lesion`, `seg-7`."""


class MaskFolder:
    """The mask files below a folder and those that no photo asked for.

    Args:
        folder: where masks lie, also in folders below (PH2: `IMD002/IMD002_lesion/IMD002_lesion.bmp`); None: there are none.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = folder
        self.files: dict[str, list[tuple[int, str]]] = defaultdict(list)
        """Name a photo would have -> (rank, file): 0 named as the photo, 1 with a word before or after."""
        self.used: set[str] = set()
        self.problems: list[Problem] = []
        self.others: Counter[str] = Counter()
        """Endings of files that are no masks."""
        self.asked = 0
        if folder is None:
            return
        if not os.path.isdir(folder):
            raise UserError(f"{folder}: the folder of masks cannot be read (no such folder). Correct its path.")
        for place, folders, names in os.walk(folder, followlinks=True):
            folders.sort()
            for name in sorted(names):
                if not name.startswith("."):
                    self._take(os.path.join(place, name))

    def _take(self, path: str) -> None:
        stem, suffix = os.path.splitext(os.path.basename(path).casefold())
        if suffix not in SUFFIXES:
            self.others[suffix or "no ending"] += 1
            return
        for name in dict.fromkeys((stem, os.path.splitext(stem)[0] if stem.endswith(SUFFIXES) else stem)):
            self.files[name].append((0, path))
            bare = name
            while (shorter := _AFFIXES.sub("", bare)) != bare:  # `mask_IMG_1_seg`
                bare = shorter
            if bare != name:
                self.files[bare].append((1, path))

    def of(self, photo: str, source: str = "", line: int | None = None) -> str:
        """The mask of a photo, or "".

        Args:
            photo: its file; two files that fit equally well, and are not copies, are noted as a problem.
            source, line: its place in the table, for that.
        """
        if self.folder is None:
            return ""
        self.asked += 1
        itself = os.path.realpath(photo)
        found = [(rank, path) for rank, path in self.files.get(Path(photo).stem.casefold(), ()) if path != photo]
        found = [(rank, path) for rank, path in found if os.path.realpath(path) != itself]
        if not found:
            return ""
        order = {path: (rank, SUFFIXES.index(os.path.splitext(path)[1].casefold())) for rank, path in found}
        best = min(order.values())
        same = sorted(path for path, place in order.items() if place == best)
        self.used.update(order)
        # FEDD's ddi_labels hold a mask once for each subset.
        if len(same) > 1 and len({Path(path).read_bytes() for path in same}) > 1:
            message = f"{len(same)} mask files fit this photo ({', '.join(map(os.path.basename, same[:3]))})"
            self.problems.append(Problem(source, message, "Leave one of them in the folder.", row=line, column="mask"))
        return same[0]

    def check(self, photos: Iterable[str]) -> None:
        """Refuse a folder in which no photo has a mask.

        Raises:
            UserError: with what was looked for and what was found.
        """
        if self.folder is None or self.used or not self.asked:
            return
        every = sorted({path for found in self.files.values() for _, path in found})
        kinds = Counter(os.path.splitext(path)[1].casefold() for path in every) + self.others
        told = ", ".join(f"{count} {suffix}" for suffix, count in kinds.most_common(6)) or "no file at all"
        shown = f", e.g. {', '.join(os.path.relpath(path, self.folder) for path in every[:3])}" if every else ""
        stem = next((Path(photo).stem for photo in photos), "X")
        raise UserError(
            f"{self.folder}: none of {self.asked} photos has a mask there. Found: {told}{shown}. Looked for: {stem}.png, "
            f"{stem}_mask.png, {stem}_segmentation.png, {stem}_lesion.bmp and the like (npy, png, bmp, tif, gif, jpg; capitals do "
            "not matter), also in folders below. Rename the files, or name each in a column `mask` of the table."
        )

    def notes(self) -> list[str]:
        """How many photos have no mask, and how many masks no photo."""
        if self.folder is None:
            return []
        photos = {os.path.realpath(path) for found in self.files.values() for _, path in found}
        left = sorted(photos - {os.path.realpath(path) for path in self.used})
        return (
            [f"{len(left)} mask files belong to no photo of the table, e.g. {os.path.basename(left[0])}"]
            if left
            else []
        )
