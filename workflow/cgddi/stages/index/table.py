"""Build the index of one split from its role files and the archives' manifests."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from cgddi.core.archive import Archive
from cgddi.core.errors import Problem, UserError, refuse
from cgddi.core.images import TONES, UNKNOWN
from cgddi.core.labels import hidden, labelled
from cgddi.core.lineage import is_waived, lineage, segmenter_images, unknown_ways

ROLES = ("train", "validation", "test")
COLUMNS = {
    "id": "str",
    "kind": "str",
    "source": "str",
    "cohort": "str",
    "concept": "str",
    "tone": "str",
    "malignant": "boolean",
    "role": "str",
    "archive": "str",
    "start": "int64",
    "size": "int64",
    "sha256": "str",
    "donor": "str",
    "canvas": "str",
    "generator": "str",
    "image_id": "str",
    "unknown": "bool",
}
"""Columns of the index and their types; `donor`, `canvas` and `generator` are missing where an image has none. `source` is the set
of given images that an image is of, else its kind; `unknown` ones are of a lineage that nobody knows and the config waives."""


def read_roles(paths: Iterable[str | Path]) -> dict[str, str]:
    """Role of every image of a split, from the cohorts' role files (columns image_id, role).

    Raises:
        InvalidInput: a column is missing, a role is unknown, or an image has two roles.
    """
    roles: dict[str, str] = {}
    problems = []
    for path in paths:
        with open(path, newline="", encoding="utf-8") as handle:
            reader = csv.DictReader(handle)
            absent = {"image_id", "role"} - set(reader.fieldnames or ())
            if absent:
                problems.append(Problem(str(path), f"no column {sorted(absent)[0]}", "Make the split again.", row=1))
                continue
            for line, row in enumerate(reader, start=2):
                image, role = row["image_id"], row["role"]
                if role not in ROLES:
                    problems.append(
                        Problem(str(path), "unknown role", f"Use one of {', '.join(ROLES)}.", line, "role", role)
                    )
                elif roles.setdefault(image, role) != role:
                    problems.append(
                        Problem(
                            str(path), f"image already has role {roles[image]}", "Give it one role.", line, "role", role
                        )
                    )
    refuse(problems)
    return roles


def build_index(
    roles: Mapping[str, str],
    photos: Sequence[str | Path],
    synthetic: Sequence[str | Path],
    drop_touching: Sequence[str] = ("donor", "canvas", "generator", "segmenter"),
    drop_concepts: Sequence[str] = (),
    given: Mapping[str, str | Path] | None = None,
    waived: Sequence[str] = (),
    labels: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The index of a split.

    Args:
        roles: image id -> role.
        photos: archives of real photos; images without a role or of unknown skin tone are left out and counted.
        synthetic: archives of kept healthy, lesion-mapped and semantic images. One is left out, and counted, when an ancestor
            named in `drop_touching` is not a training image of this split (a validation or test image, or one the split
            leaves out).
        drop_touching: ancestors that must be training images; `segmenter`: those that taught the segmenter behind the mask of a
            donor, a canvas or a generator's image; `own_canvas` (published): a sample on the canvas of a held-out photo of the
            sample's own concept is left out, whatever the other ways say of canvases.
        drop_concepts: concepts that leave the index: their photos, images of them, and images on their canvases.
        given: name -> archive of images that others generated. Where these name no malignancy, it is that on which the split's
            training photos of the concept agree, as for samples of our own; those of no known skin tone are left out.
        waived: sets of these, and adapters, whose unknown lineage counts as clean; any other image of unknown lineage is left out.
        labels: image id -> concept, tone and malignant, for photos and composites of them (see `core.labels`). A test photo without
            labels stands in the index without them: whoever makes the tables knows them.

    Returns:
        The table (see `COLUMNS`), sorted by role, kind and id, and the facts for its record: counts, images dropped by
        reason, what came of the check of samples.

    Raises:
        UserError: two rows share an id, an image of the split has no photo, or a tone is unknown.
    """
    rows: list[dict[str, Any]] = []
    labels = labels or {}
    dropped: Counter[str] = Counter()
    opened = [Archive(path) for path in photos]
    skipped = {str(entry["id"]) for archive in opened for entry in archive.record.get("skipped", [])}
    gone = {
        row["image_id"]
        for archive in opened
        for row in labelled(archive.rows, labels)
        if row.get("concept") in drop_concepts
    }
    toneless: set[str] = set()
    for archive in opened:
        for row in labelled(archive.rows, labels):
            role = roles.get(row["image_id"])
            if role is None:
                dropped["real: no role in this split"] += 1
            elif row["image_id"] in gone:
                dropped["real: concept dropped"] += 1
            elif row.get("tone") == UNKNOWN:
                dropped["real: skin tone is not known"] += 1
                toneless.add(row["image_id"])
            else:
                rows.append(_entry(row, archive.path, role, row["image_id"]))
    missing = sorted(set(roles) - {row["image_id"] for row in rows} - skipped - gone - toneless)
    if missing:
        raise UserError(
            f"{len(missing)} image(s) of the split have no photo in the archives given (first: {', '.join(missing[:5])}). "
            "Give the photo archives of every cohort of the split, or make the split again."
        )
    taught = segmenter_images(opened, lambda image: roles.get(image) != "train") if "segmenter" in drop_touching else {}
    held = (
        {row["image_id"]: row["concept"] for row in rows if row["role"] != "train"}
        if "own_canvas" in drop_touching
        else {}
    )
    sets = [*((None, path) for path in synthetic), *(given or {}).items()]
    agreed = _agreed_labels(rows)
    for source, archive in ((name, Archive(path)) for name, path in sets):
        of_generator: dict[str, str | None] = {}
        for row in archive.rows if source is None else map(partial(_renamed, known=agreed), archive.rows):
            ancestors = lineage({**row, "generator": None}, {})
            reason = _reason(ancestors, roles, taught, drop_touching)
            if generator := row.get("generator"):
                if generator not in of_generator:  # one list of hundreds of images for thousands of rows
                    images = {"generator": lineage(row, archive.record)["generator"]}
                    of_generator[generator] = _reason(images, roles, taught, drop_touching)
                reason = reason or of_generator[generator]
            if row["kind"] == "semantic" and held.get(row.get("canvas")) == row["concept"]:
                reason = reason or "disease and canvas are those of one held-out photo"
            if (unknown := unknown_ways(row)) and not is_waived(row, source or row["kind"], waived):
                reason = f"{unknown[0]} is not known, which counts as a leak"
            if row["tone"] in (None, UNKNOWN):
                reason = reason or "skin tone is not known"
            if not row.get("used", True):
                reason = "failed its check"
            if row["concept"] in drop_concepts or not gone.isdisjoint(chain(*ancestors.values())):
                reason = "concept dropped"
            if reason:
                dropped[f"{f'{source}/' if source else ''}{row['kind']}: {reason}"] += 1
            else:
                if row.get("donor") in labels:
                    row = {**row, "malignant": labels[row["donor"]].get("malignant")}
                if source and row["kind"] != "healthy" and row["malignant"] is None:
                    row = {**row, "malignant": agreed.get(row["concept"])}
                entry = _entry(row, archive.path, "train", row.get("image_id") or "")
                entry |= {"source": source or row["kind"], "unknown": bool(unknown)}
                rows.append(entry | {"canvas": (ancestors["canvas"] or [None])[0]})
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    _check(table)
    table = table.sort_values(["role", "kind", "id"], ignore_index=True)
    counts = table.groupby(["role", "kind"], sort=True).size()
    return table, {
        "images": len(table),
        "counts": {role: {k: int(n) for k, n in counts[role].items()} for role in dict.fromkeys(table["role"])},
        "dropped": dict(sorted(dropped.items())),
        "label_missing": int((table["malignant"].isna() & ~hidden(table)).sum()),
        "photos_skipped": sorted(skipped),
        "drop_touching": list(drop_touching),
        "samples": _checked(map(Archive, synthetic)),
    }


def _checked(archives: Iterable[Archive]) -> list[dict[str, Any]]:
    """What the check of samples came to, by concept, canvas cohort and tone (see `cgddi.stages.semantic.check.counts`)."""
    found = []
    for archive in archives:
        for tone, counts in archive.record.get("check", {}).items():
            spec = archive.record["spec"]
            found.append({"concept": spec["concept"]["slug"], "cohort": spec["canvas_cohort"], "tone": tone, **counts})
    return found


def _entry(row: Mapping[str, Any], archive: Path, role: str, image_id: str) -> dict[str, Any]:
    """Index row of one manifest row."""
    start, size = row["members"]["png"]
    place = {"role": role, "archive": str(archive), "start": start, "size": size, "image_id": image_id}
    return {name: row.get(name) for name in COLUMNS} | {"source": row["kind"], "unknown": False} | place


def _renamed(row: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A given image's manifest row under the name that its concept has here, where `mixed_malignancy` splits concepts."""
    part = f"{row['concept']}-{ {True: 'malignant', False: 'benign'}.get(row['malignant'], 'unlabelled') }"
    return {**row, "concept": part} if row["concept"] not in known and part in known else row


def _agreed_labels(rows: Iterable[Mapping[str, Any]]) -> dict[str, bool | None]:
    """Concept -> the malignancy on which its real training photos agree, else None."""
    labels: dict[str, set[bool | None]] = {}
    for row in rows:
        if row["role"] == "train":
            labels.setdefault(row["concept"], set()).add(row["malignant"])
    return {concept: next(iter(found)) if len(found) == 1 else None for concept, found in labels.items()}


def _reason(ancestors: Mapping[str, list[str]], roles, taught, drop_touching: Sequence[str]) -> str | None:
    """Why images with these ancestors may not be trained on, or None."""
    for way, images in ancestors.items():
        strange = [image for image in images if roles.get(image) != "train"] if way in drop_touching else []
        if strange and way == "generator":
            return "generator saw an image that is not for training"
        if strange:
            return f"{way} is {'a ' + roles[strange[0]] + ' image' if strange[0] in roles else 'not in this split'}"
        if not taught.keys().isdisjoint(images):
            return "a mask's segmenter saw an image that is not for training"
    return None


def _check(table: pd.DataFrame) -> None:
    repeated = table["id"][table["id"].duplicated()]
    if len(repeated):
        raise UserError(
            f"id {repeated.iloc[0]!r} stands in two archives ({len(repeated)} such rows). Delete the stale archive."
        )
    unknown = table[~table["tone"].isin(TONES) & ~hidden(table)]
    if len(unknown):
        row = unknown.iloc[0]
        raise UserError(f"{row['archive']}: image {row['id']} has tone {row['tone']!r}; tones are {', '.join(TONES)}.")
