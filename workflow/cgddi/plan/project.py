"""What a plan is made from, read and checked: config, photos, concepts, and which photos each split holds out. Light."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property

from cgddi.core.archive import canonical
from cgddi.core.errors import InvalidInput, Problem
from cgddi.plan.config import Cohort, Config
from cgddi.plan.models import locked
from cgddi.plan.sheets import Concept, Photo, check_files, load_sheets
from cgddi.plan.splits import SplitSettings, assign, gaps
from cgddi.stages.masks.settings import MasksSettings


class Project:
    """The photos of one configuration, by cohort, with their concepts, roles and settings.

    Args:
        config: the checked configuration.

    Raises:
        InvalidInput: the sheets, the config's names or a split have problems; all of them at once.
    """

    def __init__(self, config: Config):
        self.config = config = locked(config)
        sheets = load_sheets(config.images, config.diseases)
        self.photos, self.concepts = _resolve_mixed(
            sheets.photos, sheets.concepts, config.mixed_malignancy, config.images
        )
        problems = check_files(sheets)
        problems += [
            Problem("config", "no such concept", "Name slugs of the disease sheet.", None, key, slug)
            for key in ("only_concepts", "drop_concepts")
            for slug in getattr(config, key)
            if slug not in self.concepts
        ]
        self.by_cohort: dict[str, list[Photo]] = defaultdict(list)
        for photo in self.photos:
            self.by_cohort[photo.cohort].append(photo)
        problems += [
            Problem("config", "no photo of this cohort in the image sheet", "Mend the name.", None, f"cohorts.{name}")
            for name in config.cohorts
            if name not in self.by_cohort
        ]
        self.roles = {name: self._roles(split) for name, split in config.splits.items()}
        for name, split in config.splits.items():
            problems += [
                Problem("config", f"the split has {gap}", "Change its method, seed or shares.", None, f"splits.{name}")
                for gap in gaps(self.photos, self.roles[name], split)
            ]
        if problems:
            raise InvalidInput(problems)
        self._labels = _labels(self.photos)

    def cohort(self, name: str) -> Cohort:
        """Settings of a cohort."""
        return self.config.cohorts.get(name, Cohort())

    def masks_settings(self, cohort: str) -> MasksSettings:
        """Masks settings of a cohort: the section's, with the keys it has of its own."""
        return self.config.masks_of(cohort)

    @cached_property
    def automatic_cohorts(self) -> list[str]:
        """Cohorts whose masks are made, not given."""
        return [name for name in self.by_cohort if self.masks_settings(name).source != "human"]

    @cached_property
    def development(self) -> list[str]:
        """Cohorts from which images are generated, in the sheet's order."""
        return [name for name in self.by_cohort if self.cohort(name).role == "development"]

    def concept_label(self, slug: str) -> bool | None:
        """Malignancy that samples of a concept carry: the one its photos agree on, else None."""
        labels = self._labels.get(slug, set())
        return next(iter(labels)) if len(labels) == 1 else None

    # ---- splits ------------------------------------------------------------------------------------

    def _roles(self, split: SplitSettings) -> dict[str, str]:
        roles: dict[str, str] = {}
        groups: dict[str, str] = {}
        for cohort, photos in self.by_cohort.items():
            new = assign(photos, self.cohort(cohort).role, split, groups)
            roles.update(new)
            for photo in photos:
                if photo.image_id in new:
                    groups.setdefault(photo.group or photo.image_id, new[photo.image_id])
        return roles

    def split_rows(self, split: str, cohort: str) -> list[tuple[str, str]]:
        """(image_id, role) of one cohort in one split, in the sheet's order."""
        roles = self.roles[split]
        return [(p.image_id, roles[p.image_id]) for p in self.by_cohort[cohort] if p.image_id in roles]

    def split_cohorts(self, split: str) -> list[str]:
        """Cohorts that take part in a split."""
        return [cohort for cohort in self.by_cohort if self.split_rows(split, cohort)]

    def split_hash(self, split: str, cohort: str) -> str:
        """Hash of one cohort's assignment."""
        return hashlib.sha256(canonical(self.split_rows(split, cohort)).encode()).hexdigest()[:16]

    def write_split(self, split: str, cohort: str, path: str) -> None:
        """Write one cohort's assignment as csv (image_id, role)."""
        with open(path, "w", newline="", encoding="ascii") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(["image_id", "role"])
            writer.writerows(self.split_rows(split, cohort))


def _labels(photos: Iterable[Photo]) -> dict[str, set[bool | None]]:
    """Concept -> what its photos say of malignancy."""
    found: dict[str, set[bool | None]] = defaultdict(set)
    for photo in photos:
        found[photo.concept].add(photo.malignant)
    return dict(found)


def _resolve_mixed(
    photos: Iterable[Photo], concepts: Mapping[str, Concept], policy: str, source: str
) -> tuple[list[Photo], dict[str, Concept]]:
    """Apply the policy on concepts that hold malignant and benign photos (config key `mixed_malignancy`)."""
    photos, concepts = list(photos), dict(concepts)
    labels = _labels(photos)
    mixed = {slug for slug, seen in labels.items() if {True, False} <= seen}
    if policy == "error" and mixed:
        raise InvalidInput(
            [
                Problem(
                    source,
                    f"concept {slug} has malignant and benign photos",
                    "Split it in the disease sheet, or set mixed_malignancy.",
                )
                for slug in sorted(mixed)
            ]
        )
    if policy != "split":
        return photos, concepts
    names = {True: "malignant", False: "benign", None: "unlabelled"}
    for slug in mixed:
        whole = concepts.pop(slug)
        for label in labels[slug]:
            new = f"{slug}-{names[label]}"
            concepts[new] = replace(whole, slug=new, name=f"{whole.name} ({names[label]})", token=f"<{new}>")
    renamed = [replace(p, concept=f"{p.concept}-{names[p.malignant]}") if p.concept in mixed else p for p in photos]
    return renamed, concepts
