"""Checks of a study job's input that segmenter and probe share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cgddi.errors import InvalidInput, Problem, UserError
from cgddi.fedd.features_io import FeatureFiles

ROLES = ("train", "validation", "test")


def check_features(files: FeatureFiles, spec: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse feature files of other settings than the spec's.

    Raises:
        UserError: a fact of `names` differs.
    """
    for name in names:
        if name in spec and files.facts.get(name) != spec[name]:
            raise UserError(
                f"{files.paths[0]}: features of {name} {files.facts.get(name)}, and the spec asks for {spec[name]}. "
                "Give the feature files of this study."
            )


def check_roles(spec: Mapping[str, Any]) -> None:
    """Refuse a study that tests on a photo it learns from, or that lacks a role.

    Raises:
        UserError: a role is empty. InvalidInput: photos with two roles, or twice in one.
    """
    seen: dict[str, str] = {}
    problems = []
    for role in ROLES:
        if not spec[role]:
            raise UserError(f"--spec has no {role} photos. Give the spec the workflow wrote.")
        for row in spec[role]:
            other = seen.setdefault(row["image_id"], role)
            if other != role or sum(r["image_id"] == row["image_id"] for r in spec[role]) > 1:
                message = f"is listed for {role} and also for {other}"
                problems.append(Problem(f"image {row['image_id']}", message, "A photo has one role; remove the other."))
    if problems:
        raise InvalidInput(problems)


def tone_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Photos by tone: all, and malignant ones."""
    tones = Counter(row["skin_tone"] for row in rows)
    malignant = Counter(row["skin_tone"] for row in rows if row["malignant"])
    return {tone: {"images": tones[tone], "malignant": malignant[tone]} for tone in sorted(tones)}
