"""The study's photos: nested training subsets and a fixed validation and test set, each balanced over tone and malignancy.

Light (standard library only): read at every parse of the Snakefile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cgddi.core.errors import InvalidInput, Problem
from cgddi.core.seeds import seed_for
from cgddi.plan.sheets import Photo

TONES = ("light", "medium", "dark")


class StudySizes(Protocol):
    """What of the settings decides the study's size: photos per tone, half of them malignant (FEDD, section 3).

    With `balance` "tone" a tone's photos are as malignant as the cohort's are.
    """

    train_per_tone: Mapping[str, int]
    validation_per_tone: int
    test_per_tone: int
    balance: str


@dataclass(frozen=True)
class Study:
    """Photos of the study, each list in the order of image ids.

    Args:
        train: subset -> training photos, in order of size; a smaller subset is contained in a larger one.
        validation: photos on which training stops.
        test: photos that are measured and never trained on.
    """

    train: dict[str, tuple[Photo, ...]]
    validation: tuple[Photo, ...]
    test: tuple[Photo, ...]

    @property
    def photos(self) -> tuple[Photo, ...]:
        """All photos of the study, in the order of image ids."""
        return _by_id({*self.validation, *self.test, *(photo for photos in self.train.values() for photo in photos)})


def _by_id(photos: Iterable[Photo]) -> tuple[Photo, ...]:
    return tuple(sorted(photos, key=lambda photo: photo.image_id))


Malignancy = bool | None
"""Of a cell of photos; None: of both kinds."""
Cell = tuple[str, Malignancy]
"""Tone and malignancy."""


def halves(per_tone: int, balance: str = "tone_and_malignancy") -> dict[Malignancy, int]:
    """Malignant and benign photos among so many of one tone; an odd one is benign. Balance "tone": both kinds together."""
    if balance == "tone":
        return {None: per_tone}
    return {True: per_tone // 2, False: per_tone - per_tone // 2}


def study(
    photos: Sequence[Photo],
    roles: Mapping[str, Mapping[str, str]],
    settings: StudySizes,
    seed: int,
    masked: bool = True,
) -> Study:
    """Choose the study's photos from one cohort.

    Training photos have the role `train` in every split that has them, validation photos are in no split's test, test photos
    are any others, those of a test split first: no mask that the segmenter makes can carry a classifier's test image into
    training. Photos of one group (a patient, near-duplicates) never part between training, validation and test.

    Args:
        photos: the cohort's photos; those of unknown malignancy and, if `masked`, those without a mask are left out.
        roles: split -> image_id -> train, validation or test; a photo that a split lacks is free in it.
        settings: sizes (see `StudySizes`).
        seed: the project's seed; draws are ranked by hashes of image ids, not by the sheet's order.
        masked: whether a photo needs a mask file.

    Raises:
        InvalidInput: a tone or class has too few photos; every such cell is named with its counts.
    """
    able = [p for p in photos if p.malignant is not None and (p.mask or not masked) and p.skin_tone in TONES]
    seen = {p.image_id: {split[p.image_id] for split in roles.values() if p.image_id in split} for p in able}
    tiers = {
        "train": [[p for p in able if seen[p.image_id] <= {"train"}]],
        "validation": [
            [p for p in able if "validation" in seen[p.image_id] and "test" not in seen[p.image_id]],
            [p for p in able if seen[p.image_id] <= {"train"}],
        ],
        "test": [
            [p for p in able if "test" in seen[p.image_id]],
            [p for p in able if "test" not in seen[p.image_id]],
        ],
    }
    sizes = dict(sorted(settings.train_per_tone.items(), key=lambda item: (item[1], item[0])))
    per_tone = {
        "train": (max(sizes.values(), default=0), "fedd.subsets.train_per_tone"),
        "validation": (settings.validation_per_tone, "fedd.subsets.validation_per_tone"),
        "test": (settings.test_per_tone, "fedd.subsets.test_per_tone"),
    }
    groups: dict[str, str] = {}
    drawn: dict[str, dict[Cell, list[Photo]]] = {}
    problems = []
    for role, (count, key) in per_tone.items():
        wanted = halves(count, settings.balance)
        drawn[role] = _draw(tiers[role], wanted, groups, role, seed)
        for cell, chosen in drawn[role].items():
            if len(chosen) < wanted[cell[1]]:
                problems.append(_too_few(photos, tiers, cell, role, len(chosen), wanted[cell[1]], key, bool(roles)))
    if problems:
        raise InvalidInput(problems)
    train = {
        name: _by_id(
            p for cell, chosen in drawn["train"].items() for p in chosen[: halves(size, settings.balance)[cell[1]]]
        )
        for name, size in sizes.items()
    }
    return Study(train, *(_by_id(sum(drawn[role].values(), [])) for role in ("validation", "test")))


def _draw(
    tiers: Iterable[Sequence[Photo]], wanted: Mapping[Malignancy, int], groups: dict[str, str], role: str, seed: int
) -> dict[Cell, list[Photo]]:
    """Up to the wanted number of photos of each cell, from the first tier that has them; `groups` (group -> role) grows."""
    drawn: dict[Cell, list[Photo]] = {(tone, malignant): [] for tone in TONES for malignant in wanted}
    for tier in tiers:
        cells: dict[Cell, list[Photo]] = defaultdict(list)
        for photo in tier:
            cells[photo.skin_tone, None if None in wanted else bool(photo.malignant)].append(photo)
        for cell, chosen in drawn.items():
            for photo in spread(cells[cell], seed):
                group = photo.group or photo.image_id
                if len(chosen) < wanted[cell[1]] and groups.get(group, role) == role and photo not in chosen:
                    groups[group] = role
                    chosen.append(photo)
    return drawn


def spread(photos: Sequence[Photo], seed: int) -> list[Photo]:
    """Photos in an order of which every beginning holds each concept in proportion, within one photo.

    The k-th of a concept's n photos (ranked by a hash of their ids) stands at (k + u) / n, u in [0, 1) being a hash of the
    concept: systematic sampling with a random start per concept.
    """
    concepts: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        concepts[photo.concept].append(photo)
    placed = []
    for concept, members in concepts.items():
        start = seed_for(seed, "fedd subset", "concept", concept) / 2**63
        ranked = sorted((seed_for(seed, "fedd subset", photo.image_id), photo.image_id, photo) for photo in members)
        placed += [((k + start) / len(ranked), rank, photo) for k, (rank, _, photo) in enumerate(ranked)]
    return [photo for *_, photo in sorted(placed, key=lambda item: (item[0], item[1], item[2].image_id))]


def _too_few(photos, tiers, cell: Cell, role: str, found: int, wanted: int, key: str, split: bool) -> Problem:
    """What a cell of tone and malignancy lacks, and which setting to lower."""
    tone, malignant = cell

    def belongs(photo: Photo) -> bool:
        return photo.skin_tone == tone and malignant in (None, photo.malignant)

    of_cell = [p for p in photos if belongs(p)]
    free = sum(belongs(p) for tier in tiers[role] for p in tier)
    kind = {True: "malignant", False: "benign", None: "labelled"}[malignant]
    message = (
        f"the study needs {wanted} {kind} photos of {tone} skin for its {role} set and finds {found}; the cohort has "
        f"{len(of_cell)}, {sum(bool(p.mask) for p in of_cell)} with a mask, {free} that may be used for {role}"
    )
    remedy = f"Lower {key}, add photos or masks"
    if malignant is not None:
        remedy += ", or set fedd.subsets.balance: tone"
    if split and role == "train":
        remedy += ", or set fedd.subsets.keep_to_training: false (now a training photo must train in every split)"
    source = f"cohort {photos[0].cohort}" if photos else "the study's cohort"
    return Problem(source, message, remedy + ".")
