"""The leakage gate: no training image may descend from, equal, or nearly equal a validation or test image.

The gate does not trust the index: it reads lineage again from the archives' manifests and records.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cgddi.core.archive import Archive
from cgddi.core.lineage import is_waived, lineage, segmenter_images, unknown_ways
from cgddi.stages.audit.copies import near_duplicates
from cgddi.stages.audit.settings import AuditSettings

UNKNOWN = "unknown lineage"
"""Way of a leak that cannot be ruled out."""


def lineage_leaks(
    index: pd.DataFrame, photos: Iterable[str | Path] = (), waived: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Training rows whose donor, canvas, generator image or own pixels are those of a held-out image, or may be.

    Args:
        index: a split's index (see `cgddi.stages.index`).
        photos: archives of the photos, whose records say which images taught the segmenter behind automatic masks.
        waived: sets of given images, and adapters, whose unknown lineage is no leak.

    Returns:
        One entry per row and way: id, archive, way (donor|canvas|generator|segmenter|same image|same pixels|manifest|unknown
        lineage), image (the held-out image; of unknown lineage what is not known), role.
    """
    held = index[index["role"] != "train"]
    roles = dict(zip(held["image_id"], held["role"], strict=True))
    pixels = dict(zip(held["sha256"], held["image_id"], strict=True))
    train = index[index["role"] == "train"]
    taught = segmenter_images(photos, lambda image: image in roles)
    leaks = []
    for path, rows in train.groupby("archive", sort=True):
        archive = Archive(path)
        manifest = {row["id"]: row for row in archive.rows}
        for row in rows.itertuples(index=False):
            made = manifest.get(row.id)
            if made is None or made.get("sha256") != row.sha256:
                leaks.append(_leak(row, "manifest", "the archive does not hold this image", "unknown"))
                continue
            ways = lineage(made, archive.record) if made["kind"] != "real" else {"same image": [made["image_id"]]}
            if taught and made["kind"] != "real":
                ancestors = {image for images in ways.values() for image in images}
                ways["segmenter"] = [image for ancestor in ancestors for image in taught.get(ancestor, ())]
            for way, images in ways.items():
                leaks += [_leak(row, way, image, roles[image]) for image in sorted(set(images)) if image in roles]
            if (unknown := unknown_ways(made)) and not is_waived(made, row.source, waived):
                leaks.append(_leak(row, UNKNOWN, unknown[0], "unknown"))
            if row.sha256 in pixels:
                leaks.append(_leak(row, "same pixels", pixels[row.sha256], roles[pixels[row.sha256]]))
    return leaks


def _leak(row, way: str, image: str, role: str) -> dict[str, Any]:
    return {"id": row.id, "kind": row.kind, "archive": row.archive, "way": way, "image": image, "role": role}


def audit_leakage(
    index: pd.DataFrame,
    settings: AuditSettings,
    seed: int,
    photos: Iterable[str | Path] = (),
    waived: Sequence[str] = (),
) -> dict[str, Any]:
    """Both checks and their verdict.

    Returns:
        passed (whether the build may go on), clean (whether nothing was found), leaks, near_duplicates, waived (source -> training
        images of unknown lineage that the config takes as clean) and counts.
    """
    leaks = lineage_leaks(index, photos, waived)
    pairs = [] if settings.near_duplicates == "off" else near_duplicates(index, settings, seed)
    stopped = [leak for leak in leaks if settings.leakage_gate == "enforce"]
    stopped += [pair for pair in pairs if settings.near_duplicates == "enforce"]
    return {
        "passed": not stopped,
        "clean": not leaks and not pairs,
        "gate": settings.leakage_gate,
        "near_duplicate_gate": settings.near_duplicates,
        "leaks": leaks,
        "waived": {source: int(n) for source, n in index[index["unknown"]].groupby("source").size().items()},
        "near_duplicates": pairs,
        "checked": {
            "training_images": int((index["role"] == "train").sum()),
            "held_out_images": int((index["role"] != "train").sum()),
        },
    }


def explain(result: dict[str, Any], shown: int = 20) -> str:
    """The gate's message: the rows it stops at."""
    found = [
        f"{leak['id']} ({leak['archive']}): its {leak['image']} is not known"
        if leak["way"] == UNKNOWN
        else f"{leak['id']} ({leak['archive']}): {leak['way']} {leak['image']} is a {leak['role']} image"
        for leak in result["leaks"]
    ]
    found += [
        f"{pair['id']} ({pair['archive']}): nearly equals {pair['role']} image {pair['image']} "
        f"({pair['bits']} bits apart, similarity {pair['similarity']:.3f})"
        for pair in result["near_duplicates"]
    ]
    more = [f"... and {len(found) - shown} more"] if len(found) > shown else []
    lines = [
        f"{len(found)} training row(s) leak held-out images:",
        *(f"  - {line}" for line in [*found[:shown], *more]),
    ]
    lines.append(
        "Remove them (make the split again with near-duplicates kept together, or the index again), or set "
        "`audit.leakage_gate` / `audit.near_duplicates` to `report` to go on, which every table will say."
    )
    return "\n".join(lines)
