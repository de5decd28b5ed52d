"""Packs: which concepts' adapters one job trains together. A pack that was trained once keeps its members."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

from cgddi.core.errors import UserError
from cgddi.plan.sheets import Photo

Packs = dict[tuple[str, str], list[str]]
"""(scope, pack) -> concepts."""


def packs_of(training: Mapping[tuple[str, str], Sequence[Photo]], size: int, trained: Packs | None = None) -> Packs:
    """The packs: those trained before as they are, and all other concepts of each scope and cohort cut into packs of `size`.

    A concept belongs to the cohort of its first photo, and stands where the sheet first names it. A new pack takes the lowest
    number of its cohort that no pack has. Whole packs are taken off the front, so whichever of them are trained by now, the
    others come out the same, in members and name: a node that reads the plan anew during a run finds the run's own packs.

    Args:
        training: (scope, concept) -> photos in the sheet's order, concepts in the order of their first photo.
        size: most concepts per new pack.
        trained: the packs of `read_ledgers`. Concepts that no longer train are left out, and packs without any other.

    Returns:
        The packs; new ones are named `<cohort>.<k>`.
    """
    trained = trained or {}
    kept = {(scope, name): [c for c in pack if (scope, c) in training] for (scope, name), pack in trained.items()}
    placed = {(scope, concept) for (scope, _), pack in kept.items() for concept in pack}
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (scope, concept), photos in training.items():
        if (scope, concept) not in placed:
            groups[scope, photos[0].cohort].append(concept)
    found = {key: pack for key, pack in kept.items() if pack}
    for (scope, cohort), concepts in groups.items():
        names = (name for k in count() if (scope, name := f"{cohort}.{k:03d}") not in trained)
        for start in range(0, len(concepts), size):
            found[scope, next(names)] = concepts[start : start + size]
    return found


def read_ledgers(folder: Path, scopes: Iterable[str]) -> Packs:
    """The packs that were trained, by their ledgers.

    Args:
        folder: the results' `lora`, with `<scope>/packs/<pack>.json`.
        scopes: names of the scopes to look at.

    Returns:
        The packs, concepts in the ledgers' order.

    Raises:
        UserError: a ledger cannot be read, or two of them name the same concept.
    """
    found: Packs = {}
    for scope in scopes:
        seen: dict[str, Path] = {}
        for path in sorted((folder / scope / "packs").glob("*.json")):
            found[scope, path.stem] = concepts = _read(path)
            for concept in concepts:
                other = seen.setdefault(concept, path)
                if other != path:
                    raise UserError(
                        f"{path}: concept {concept} is also in {other}. Delete one of the two: "
                        "the concepts of that pack are then trained in new packs."
                    )
    return found


def _read(path: Path) -> list[str]:
    try:
        concepts = json.loads(path.read_text(encoding="ascii"))["concepts"]
        if not (isinstance(concepts, list) and concepts and all(isinstance(c, str) for c in concepts)):
            raise ValueError("no list of concepts")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: this list of a pack's concepts cannot be read ({error}). Delete it: "
            "a pack that has the same concepts in the plan stays, and others are trained again."
        ) from None
    if len(set(concepts)) != len(concepts):
        raise UserError(f"{path}: a concept is named twice. Delete the file.")
    return concepts
