"""Checks of a study job's input that segmenter and probe share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.fedd.features_io import FeatureFiles

ROLES = ("train", "validation", "test")


def open_study(features: Sequence[str | Path], spec: Mapping[str, Any]) -> FeatureFiles:
    """The feature files of a job that learns from them, once they are known to go with its photos.

    Args:
        features: feature files that hold the study's photos. spec: the job's spec.

    Raises:
        UserError: features of another size, timestep or crop than the spec's, or a role without photos.
        InvalidInput: photos with two roles, or twice in one.
    """
    files = FeatureFiles(features)
    _check_features(files, spec)
    check_roles(spec)
    return files


def _check_features(files: FeatureFiles, spec: Mapping[str, Any]) -> None:
    """Refuse feature files of other settings than the spec's."""
    for name in ("size", "timestep", "crop"):
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
