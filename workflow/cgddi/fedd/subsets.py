"""The study's photos: nested training subsets and a fixed validation and test set, each balanced over tone and malignancy.

Light (standard library only): read at every parse of the Snakefile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cgddi.core.errors import Problem, refuse
from cgddi.core.seeds import seed_for
from cgddi.fedd.settings import SubsetsSettings
from cgddi.plan.sheets import TONES, Photo

Cell = tuple[str, bool | None]
"""Tone and malignancy; None: of both kinds."""


@dataclass(frozen=True)
class Study:
    """Photos of the study, each list in the order of image ids.

    Args:
        train: subset -> training photos, in order of size; a smaller subset is contained in a larger one.
        validation: photos on which training stops. test: photos that are measured and never trained on.
        further: all other photos of known malignancy, which classifiers are tested on too. further_masks: other photos with masks,
            for segmenters.
    """

    train: dict[str, tuple[Photo, ...]]
    validation: tuple[Photo, ...]
    test: tuple[Photo, ...]
    further: tuple[Photo, ...] = ()
    further_masks: tuple[Photo, ...] = ()

    @property
    def photos(self) -> tuple[Photo, ...]:
        """All photos of the study, in the order of image ids."""
        learnt = {photo for photos in self.train.values() for photo in photos}
        return _by_id({*learnt, *self.validation, *self.test, *self.further, *self.further_masks})

    def with_further(self, photos: Iterable[Photo], masked: Iterable[Photo] | None = None) -> Study:
        """The study with the photos it leaves, for its larger tests.

        Args:
            photos: of its cohort. masked: those that segmenters are tested on; None: all with a mask.
        """
        used = set(self.photos)
        left = [p for p in photos if p not in used and p.skin_tone in TONES]
        masks = set(photos if masked is None else masked)
        return replace(
            self,
            further=_by_id(p for p in left if p.malignant is not None),
            further_masks=_by_id(p for p in left if p.mask and p in masks),
        )


def _by_id(photos: Iterable[Photo]) -> tuple[Photo, ...]:
    return tuple(sorted(photos, key=lambda photo: photo.image_id))


def class_quota(per_tone: int, balance: str) -> dict[bool | None, int]:
    """Malignant and benign photos among so many of one tone; an odd one is benign. Balance "tone": both kinds together."""
    return {None: per_tone} if balance == "tone" else {True: per_tone // 2, False: per_tone - per_tone // 2}


def draw_study(
    photos: Sequence[Photo], roles: Mapping[str, Mapping[str, str]], settings: SubsetsSettings, seed: int
) -> Study:
    """Choose the study's photos from one cohort.

    Training photos have the role `train` in every split that has them, validation photos are in no split's test (those of a
    validation part first), test photos are any others, those of a test part first: no mask that the segmenter makes can carry a
    classifier's test image into training. Photos of one group (a patient, near-duplicates) never part between training,
    validation and test.

    Args:
        photos: the cohort's photos; those of unknown malignancy or tone, and those without a mask are left out.
        roles: split -> image_id -> train, validation or test; a photo that a split lacks is free in it.
        seed: the project's seed; draws are ranked by hashes of image ids, not by the sheet's order.

    Raises:
        InvalidInput: a tone or class has too few photos; every such cell is named with its counts.
    """
    able = [p for p in photos if p.malignant is not None and p.mask and p.skin_tone in TONES]
    seen = {p.image_id: {split[p.image_id] for split in roles.values() if p.image_id in split} for p in able}
    trained = [p for p in able if seen[p.image_id] <= {"train"}]
    held = [p for p in able if "validation" in seen[p.image_id] and "test" not in seen[p.image_id]]
    tested = [p for p in able if "test" in seen[p.image_id]]
    rest = [p for p in able if "test" not in seen[p.image_id]]
    sizes = dict(sorted(settings.train_per_tone.items(), key=lambda item: (item[1], item[0])))
    parts = {
        "train": ([trained], max(sizes.values()), "train_per_tone"),
        "validation": ([held, trained], settings.validation_per_tone, "validation_per_tone"),
        "test": ([tested, rest], settings.test_per_tone, "test_per_tone"),
    }
    groups: dict[str, str] = {}
    drawn: dict[str, dict[Cell, list[Photo]]] = {}
    problems = []
    for role, (tiers, per_tone, key) in parts.items():
        quota = class_quota(per_tone, settings.balance)
        drawn[role] = _draw(tiers, quota, groups, role, seed)
        for cell, chosen in drawn[role].items():
            if len(chosen) < quota[cell[1]]:
                counts = quota[cell[1]], len(chosen), len({p for tier in tiers for p in tier if _belongs(p, cell)})
                problems.append(_too_few(photos, cell, role, *counts, f"fedd.subsets.{key}", bool(roles)))
    refuse(problems)
    train = {}
    for name, size in sizes.items():
        quota = class_quota(size, settings.balance)
        train[name] = _by_id(p for cell, chosen in drawn["train"].items() for p in chosen[: quota[cell[1]]])
    study = Study(train, *(_by_id(sum(drawn[role].values(), [])) for role in ("validation", "test")))
    return study.with_further(photos) if settings.further else study


def published_study(photos: Sequence[Photo], settings: SubsetsSettings) -> Study:
    """The study as published: photos whose masks stand in the folders of FEDD's `ddi_labels`.

    Its training sets (10, 20, 30 and 40 photos a tone) are nested; the validation folders hold 15 photos and the test folders 16,
    where the text has 30 each; `testing/` holds 198 masks, those of the 16 among them.

    Raises:
        InvalidInput: a folder is missing or empty, or a mask is of no photo of the cohort that has a mask in the image sheet.
    """
    root, known = Path(settings.folder or ""), {p.image_id: p for p in photos if p.mask}
    problems: list[Problem] = []

    def listed(*parts: str) -> tuple[Photo, ...]:
        place = root.joinpath(*parts)
        names = sorted(path.stem for path in place.rglob("*.npy"))
        if not names:
            what = "holds no mask (.npy)" if place.is_dir() else "no such folder"
            problems.append(Problem(str(place), what, "Name FEDD's ddi_labels in fedd.subsets.folder."))
        if absent := [name for name in names if name not in known]:
            what = f"{len(absent)} of {len(names)} masks are of no photo with a mask in the image sheet (first: {absent[0]})"
            problems.append(Problem(str(place), what, "Ingest DDI with these masks (`cgddi ingest ddi --masks`)."))
        return _by_id(known[name] for name in names if name in known)

    sizes = sorted(settings.train_per_tone, key=lambda name: (settings.train_per_tone[name], name))
    train = {name: listed("training", f"{name}%", "train") for name in sizes}
    validation, test = (listed("training", f"{sizes[-1]}%", part) for part in ("val", "test"))
    masked = listed("testing") if settings.further else ()
    refuse(problems)
    study = Study(train, validation, test)
    return study.with_further(photos, masked) if settings.further else study


def _belongs(photo: Photo, cell: Cell) -> bool:
    return photo.skin_tone == cell[0] and cell[1] in (None, photo.malignant)


def _draw(
    tiers: Iterable[Sequence[Photo]], quota: Mapping[bool | None, int], groups: dict[str, str], role: str, seed: int
) -> dict[Cell, list[Photo]]:
    """Up to the quota of each cell, from the first tier that has them; `groups` (group -> role) grows."""
    drawn: dict[Cell, list[Photo]] = {(tone, malignant): [] for tone in TONES for malignant in quota}
    for tier in tiers:
        for cell, chosen in drawn.items():
            for photo in stratified_order([p for p in tier if _belongs(p, cell)], seed):
                group = photo.group or photo.image_id
                if len(chosen) < quota[cell[1]] and groups.get(group, role) == role and photo not in chosen:
                    groups[group] = role
                    chosen.append(photo)
    return drawn


def stratified_order(photos: Sequence[Photo], seed: int) -> list[Photo]:
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


def _too_few(
    photos: Sequence[Photo], cell: Cell, role: str, wanted: int, drawn: int, free: int, key: str, split: bool
) -> Problem:
    """What a cell of tone and malignancy lacks, and which setting to lower."""
    tone, malignant = cell
    of_cell = [p for p in photos if _belongs(p, cell)]
    kind = {True: "malignant", False: "benign", None: "labelled"}[malignant]
    message = (
        f"the study needs {wanted} {kind} photos of {tone} skin for its {role} set and finds {drawn}; the cohort has "
        f"{len(of_cell)}, {sum(bool(p.mask) for p in of_cell)} with a mask, {free} that may be used for {role}"
    )
    remedy = f"Lower {key}, add photos or masks"
    if malignant is not None:
        remedy += ", or set fedd.subsets.balance: tone"
    if split and role == "train":
        remedy += ", or set fedd.subsets.keep_to_training: false (now a training photo must train in every split)"
    source = f"cohort {photos[0].cohort}" if photos else "the study's cohort"
    return Problem(source, message, remedy + ".")
