"""The sheets of pictures that the page shows: by concept, kind and skin tone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cgddi.core.archive import Archive, read_member, sha256
from cgddi.core.images import TONES
from cgddi.core.pictures import Picture, PictureFolder

PER_CELL = 4
"""Pictures per kind and tone on a concept's sheet."""
FAILED = "failed"
KINDS = {
    "real": "real photos (training)",
    "healthy": "healed canvases of these photos",
    "lesion_mapped": "transplanted lesions",
    "semantic": "sampled by the adapter, passed the check",
    FAILED: "sampled by the adapter, failed the check",
}
"""Kinds on a concept's sheet in the order of the page, and what it calls them."""


def chosen(rows: Iterable[Mapping[str, Any]], count: int = PER_CELL, by: str = "id") -> list[Mapping[str, Any]]:
    """At most so many rows, drawn by the hash of a column, so that a page shows the same ones each time."""
    return sorted(sorted(rows, key=lambda row: sha256(str(row[by])))[:count], key=lambda row: str(row["id"]))


def sheets(
    index: pd.DataFrame, samples: Sequence[str | Path], folder: PictureFolder
) -> dict[str, dict[str, dict[str, list[Picture]]]]:
    """Concept -> kind -> tone -> pictures of a split's training images.

    Args:
        samples: archives of samples, which hold what failed too.
    """
    learnt = index[index["role"] == "train"]
    concept_of = dict(index.loc[index["kind"] == "real", ["image_id", "concept"]].itertuples(index=False))
    learnt = learnt.assign(sheet=learnt["canvas"].map(concept_of).where(learnt["kind"] == "healthy", learnt["concept"]))
    failed: dict[str, list[dict[str, Any]]] = {}
    generated = learnt.loc[learnt["kind"].isin(["semantic", "lesion_mapped"]), "concept"]
    for archive in map(Archive, samples):
        for row in archive.rows:
            if row.get("faults"):
                start, size = row["members"]["png"]
                placed = {**row, "archive": archive.path, "start": start, "size": size}
                failed.setdefault(row["concept"], []).append(placed)
    cells: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for slug in sorted({*generated, *failed}):
        mine = learnt[learnt["sheet"] == slug]
        for kind in KINDS:
            rows = failed.get(slug, []) if kind == FAILED else mine[mine["kind"] == kind].to_dict("records")
            for tone in TONES:
                # A photo and the canvas healed from it stand on the same sheet where both are there.
                by = {"real": "image_id", "healthy": "canvas"}.get(kind, "id")
                cells[slug, kind, tone] = chosen((row for row in rows if row["tone"] == tone), by=by)
    wanted = {row["id"] for rows in cells.values() for row in rows if row["kind"] == "semantic"}
    details = {row["id"]: row for archive in map(Archive, samples) for row in archive.rows if row["id"] in wanted}
    found: dict[str, dict[str, dict[str, list[Picture]]]] = {}
    for (slug, kind, tone), rows in cells.items():
        shown = [_shown(row, details.get(row["id"], row), folder) for row in rows]
        found.setdefault(slug, {}).setdefault(kind, {})[tone] = shown
    return found


MEANING = {
    "presence": "colour difference (delta E) of the lesion to the skin around it: more is clearer",
    "angle": "tone of the skin, as its individual typology angle in degrees: less is darker",
    "strangeness": "how unusual the strangest trait is; 1 is as unusual as the oddest real photo",
    "trait": "the strangest trait",
    "likeness": "to the nearest photo that the adapter learnt from; 1 is a copy",
    "nearest": "that photo",
}
"""Scores of a sample (core/judges.py), and what the page says of each where it stands."""


def sheet_data(drawn: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Sequence[Picture]]]]]) -> dict[str, Any]:
    """The sheets of all splits as the page's script draws them: a picture is [name, width, height, caption, values of `facts`]."""
    pictures = [
        picture
        for sheets in drawn.values()
        for kinds in sheets.values()
        for tones in kinds.values()
        for cell in tones.values()
        for picture in cell
    ]
    names = list(dict.fromkeys(name for picture in pictures for name in picture.facts))

    def line(picture: Picture) -> list[Any]:
        values = [picture.facts.get(name) for name in names]
        while values and values[-1] is None:
            values.pop()
        return [Path(picture.source).stem, picture.width, picture.height, picture.caption, values]

    return {
        "kinds": KINDS,
        "facts": names,
        "meaning": {name: words for name, words in MEANING.items() if name in names},
        "sheets": {
            f"{split}/{slug}": {
                kind: {tone: [line(picture) for picture in cell] for tone, cell in tones.items()}
                for kind, tones in kinds.items()
            }
            for split, sheets in drawn.items()
            for slug, kinds in sheets.items()
        },
    }


def _shown(row: Mapping[str, Any], known: Mapping[str, Any], folder: PictureFolder) -> Picture:
    """A picture with its name, or the reason why it failed, under it, and what its manifest knows of how it was made."""
    facts = {name: known.get(name) for name in ("donor", "canvas", "generator", "prompt", "seed")}
    seed = facts["seed"]  # as text: a browser's numbers have 53 bits
    facts = (
        {"id": str(row["id"])} | facts | {"seed": str(seed) if _is_told(seed) else None} | (known.get("scores") or {})
    )
    faults = known.get("faults") or {}
    name = str(row["id"]).rpartition("/")[2]
    caption = "; ".join(faults.values() if isinstance(faults, Mapping) else faults) or {
        "lesion_mapped": f"{known.get('donor')} on {known.get('canvas')}"
    }.get(row["kind"], name)
    facts = {name: value for name, value in facts.items() if _is_told(value)}
    return folder.add(read_member(row["archive"], row["start"], row["size"]), caption, facts)


def _is_told(value: Any) -> bool:
    return value is not None and value == value and value != ""
