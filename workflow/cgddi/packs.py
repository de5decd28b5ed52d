"""Packs: which concepts' adapters one job trains together. From the sheets alone, so that adding concepts changes no old pack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from cgddi.sheets import Photo


def packs_of(training: Mapping[tuple[str, str], Sequence[Photo]], size: int) -> dict[tuple[str, str], list[str]]:
    """Cut the concepts of each scope and cohort into packs of `size`, in the order in which the sheet first names them.

    A concept belongs to the cohort of its first photo. Concepts that arrive as a new cohort (`cgddi ingest --append`) fill packs
    of their own and leave every old one as it is. Concepts added at the end of an old cohort fill that cohort's last pack first,
    whose adapters are then trained again; the earlier packs stay.

    Args:
        training: (scope, concept) -> photos in the sheet's order, concepts in the order of their first photo.
        size: most concepts per pack.

    Returns:
        (scope, `<cohort>.<k>`) -> concepts.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (scope, concept), photos in training.items():
        groups[scope, photos[0].cohort].append(concept)
    return {
        (scope, f"{cohort}.{k:03d}"): concepts[start : start + size]
        for (scope, cohort), concepts in groups.items()
        for k, start in enumerate(range(0, len(concepts), size))
    }
