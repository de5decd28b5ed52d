"""What keeps the FEDD study or automatic masks from being made, said before anything runs. Light: read at every parse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgddi.core.errors import InvalidInput, Problem, UserError

if TYPE_CHECKING:
    from cgddi.fedd.plan import FeddPlan
    from cgddi.fedd.worklist import FeddWorklist


def refusals(fedd: FeddPlan, study: bool = False) -> list[Problem]:
    """What keeps the study or automatic masks from being made; looked at only where they are asked for.

    Args:
        fedd: the FEDD part of a plan.
        study: whether the study is asked for, also where `fedd.study` is false.
    """
    study = study or fedd.settings.study
    if not (study or fedd.mask_cohorts):
        return []
    found: list[Problem] = []
    try:
        _ = fedd.model
    except UserError as error:
        found.append(Problem("config", str(error).rstrip("."), "It is used by fedd.", None, "models.fedd"))
    try:
        _ = fedd.study
    except InvalidInput as error:
        found += error.problems
    else:
        found += _one_sided(fedd) if study else []
    return found + (_no_masks(fedd) if fedd.mask_cohorts else [])


def _one_sided(fedd: FeddWorklist) -> list[Problem]:
    """Subsets from which no classifier can learn: only malignant or only benign photos (possible with balance `tone`)."""
    return [
        Problem(
            "config",
            f"the {len(photos)} training photos of subset {name} are all {'malignant' if kinds == {True} else 'benign'}",
            "Raise its size, or set fedd.subsets.balance: tone_and_malignancy.",
            None,
            "fedd.subsets.train_per_tone",
        )
        for name, photos in fedd.study.train.items()
        for kinds in [{photo.malignant for photo in photos}]
        if len(kinds) < 2
    ]


def _no_masks(fedd: FeddWorklist) -> list[Problem]:
    """What keeps automatic masks from being made though the study could be."""
    found, subsets = [], fedd.settings.subsets
    chosen = fedd.settings.masks_from
    if chosen.subset not in subsets.train_per_tone:
        known = ", ".join(subsets.train_per_tone)
        found.append(
            Problem(
                "config",
                f"the segmenter behind automatic masks is trained on subset {chosen.subset}, which is none of {known}",
                "Name one of them.",
                None,
                "fedd.masks_from.subset",
            )
        )
    if not subsets.keep_to_training:
        found.append(
            Problem(
                "config",
                f"masks of {', '.join(fedd.mask_cohorts)} come from the segmenter, which may then not learn from photos "
                "that a split holds out",
                "Set it to true.",
                None,
                "fedd.subsets.keep_to_training",
            )
        )
    return found
