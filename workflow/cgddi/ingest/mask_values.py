"""What the values in mask files mean: whether they are class ids, and else the id map that they suggest.

Masks of labs hold 0 and 1, 0 and 255, either way round, or a palette. Read as class ids a mask of 0 and 1 has a lesion and no skin,
so nothing comes of it; this is where it is found, and where `masks.id_map` is proposed.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cgddi.core.errors import Problem
from cgddi.core.images import BACKGROUND, CLASSES, LESION, SKIN
from cgddi.core.masks import mask_values
from cgddi.plan.checked import Reading
from cgddi.plan.sheets import Photo

SHOWN = 8
"""Values named in a message."""
MANY = 16
"""Different values from which on a mask is a photo, smooth or compressed, and no mask of classes."""
CLEAR = 0.6
"""Share of the borders' pixels that skin has at least, in masks of which it is told by that."""
PEEKED = 3
"""Masks of a cohort that planning opens."""


@dataclass
class Values:
    """What is in a cohort's masks.

    Args:
        whole: value -> pixels. Values are numbers, or `#rrggbb` for colours.
        border: value -> pixels at the pictures' edges, each mask counting once.
        colours: whether some are colour pictures.
        palette: palette index -> its colour, where files have one.
    """

    whole: Counter[str] = field(default_factory=Counter)
    border: Counter[str] = field(default_factory=Counter)
    masks: int = 0
    colours: bool = False
    palette: dict[str, str] = field(default_factory=dict)

    def add(self, path: str | Path) -> None:
        """Look into a mask; one that cannot be read is left to the check of each mask."""
        try:
            values, coloured, palette = mask_values(path)
        except Exception:  # decoders of damaged files raise all kinds
            return
        self.masks += 1
        self.colours |= coloured
        self.palette |= palette
        edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
        for counts, part in ((self.whole, values), (self.border, edge)):
            for value, count in zip(*np.unique(part, return_counts=True), strict=True):
                counts[f"#{value:06x}" if coloured else str(value)] += count / part.size

    @property
    def are_ids(self) -> bool:
        """Whether they read as class ids with skin: nothing is to be said of them."""
        known = {str(number) for number in CLASSES.values()}
        return not self.masks or (not self.colours and set(self.whole) <= known and str(SKIN) in self.whole)

    def proposed(self) -> dict[str, int] | None:
        """The id map of masks of two values: what lies at the border of most pictures is skin, the other lesion.

        None where they are class ids, or of more values than can be told apart by that.
        """
        if self.are_ids or len(self.whole) != 2:
            return None
        skin = max(self.whole, key=self.border.__getitem__)
        if self.border[skin] < CLEAR * self.masks:
            return None
        return {value: SKIN if value == skin else LESION for value in sorted(self.whole, key=_number)}

    def said(self) -> str:
        """The values with their shares of all pixels, the commonest first."""
        shares = [(value, count / self.masks) for value, count in self.whole.most_common(SHOWN)]
        named = [
            f"{value}{f' ({self.palette[value]})' if value in self.palette else ''} {share:.1%}"
            for value, share in shares
        ]
        return ", ".join(named) + (f" and {len(self.whole) - SHOWN} more" if len(self.whole) > SHOWN else "")


def _number(value: str) -> int:
    return int(value.removeprefix("#"), 16 if value.startswith("#") else 10)


def look(paths: Sequence[str]) -> Values:
    """Values of all these masks together."""
    found = Values()
    for path in paths:
        found.add(path)
    return found


def peek(paths: Sequence[str]) -> Values:
    """Values of some of these masks: the first, the last and one between."""
    places = sorted({0, len(paths) // 2, len(paths) - 1}) if paths else []
    return look([paths[place] for place in places[:PEEKED]])


def as_yaml(ids: Mapping[str, int]) -> str:
    """An id map as a config file has it: `{"0": 4, "255": 1}`."""
    return json.dumps(dict(ids))


def what_is_wrong(found: Values) -> tuple[str, str] | None:
    """What keeps masks from being read as class ids, and the remedy, without naming a command; None where nothing does."""
    if found.are_ids:
        return None
    if len(found.whole) == 1:
        return f"hold one value only ({found.said()}), so no lesion", "Name the masks themselves, or none."
    if (ids := found.proposed()) is not None:
        named = ", ".join(f"{value} is {'skin' if number == SKIN else 'lesion'}" for value, number in ids.items())
        text = f"hold two values ({found.said()}), no class ids with skin: at the border of most lies skin, so {named}"
        return text, f"id_map: {as_yaml(ids)}"
    if len(found.whole) > MANY:
        text = f"hold {len(found.whole)} different values ({found.said()}): smoothed, or photos"
        return text, "Save them again as PNG, without smoothing, each class in one value."
    if not found.colours and set(found.whole) <= {str(number) for number in CLASSES.values()}:
        text = f"hold no skin ({SKIN}; {found.said()})"
        ids = {value: SKIN if int(value) == BACKGROUND else int(value) for value in sorted(found.whole)}
        return text, f"Where 0 is the skin around, set id_map: {as_yaml(ids)}"
    text = f"hold values that are no class ids ({found.said()})"
    example = {value: "?" for value in sorted(found.whole, key=_number)[:SHOWN]}
    classes = ", ".join(f"{number} {name}" for name, number in CLASSES.items())
    return text, f"Say what each is ({classes}): id_map: {json.dumps(example)}"


def check_values(
    photos: Sequence[Photo], reading: Mapping[str, Reading], source: str, all_of_them: bool
) -> list[Problem]:
    """What the values in each cohort's masks say against reading them as class ids: a problem a cohort, with the id map to set.

    Args:
        photos: all photos. reading: cohort -> how its masks are read; one that is not there, or has an id map, is not looked into.
        source: the image sheet, for messages.
        all_of_them: look into all masks, else into three of a cohort (planning).
    """
    cohorts: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        if photo.mask and photo.cohort in reading and reading[photo.cohort].ids is None:
            cohorts[photo.cohort].append(photo)
    problems = []
    for name, masked in cohorts.items():
        paths = [photo.mask for photo in masked]
        if wrong := what_is_wrong((look if all_of_them else peek)(paths)):
            message, remedy = wrong
            if remedy.startswith("id_map"):
                where = f"cohorts.{name}.masks.{remedy}"
                remedy = f"Where that is right, set {where} in the config, or let `cgddi ingest --take-id-map` do it."
            text = f"the {len(masked)} masks of cohort {name} {message}"
            problems.append(Problem(source, text, remedy, row=masked[0].row, column="mask"))
    return problems
