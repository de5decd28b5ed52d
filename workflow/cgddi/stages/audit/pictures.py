"""Audits of the whole run whose findings are looked at: its healthy skin beside a baseline without a model, and its masks.

Both write an archive of examples; the record beside it holds the tables.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.bootstrap import Bootstrap
from cgddi.core.errors import UserError
from cgddi.core.heal import heal
from cgddi.core.images import LESION, SKIN, TONES, UNKNOWN, decode_png, encode_png, mask_to_size
from cgddi.core.labels import labelled, labels_of
from cgddi.core.masks import read_mask
from cgddi.core.metrics import class_counts
from cgddi.core.pictures import heat, overlay
from cgddi.core.seeds import seed_for
from cgddi.core.triage import scores_of
from cgddi.fedd.iou import MaskRun, iou_rows

EXAMPLES = 4
"""Pictures of each tone."""
COMPARED = ("lesion_contrast", "stain", "texture_2", "texture_8", "ita_change", "artefacts", "border_step")
"""Triage scores by which the run's pictures and the baseline are compared."""
AUTOMATIC = ("fedd", "sam3")
REPLICATES, CONFIDENCE = 1000, 0.95
Found = list[tuple[Archive, dict[str, Any]]]
"""Images: archive and manifest row."""


def audit_healthy(spec: Mapping[str, Any], healthy: Sequence[str], canvases: Sequence[str], output: str) -> None:
    """Write photos before and after, with the same regions healed (`core.heal`) as the baseline and judged by the same scores.

    The healthy archive holds the mask of the result, where the lesion has become skin; for the scores the region's core (weight of
    one half and more) stands for the former lesion, for both methods.

    Args:
        spec: the job's spec, with the seed by which examples are drawn.
        healthy: healthy archives.
        canvases: the cohorts' canvases, whose records hold the verdict on every healthy image.
        output: archive to write: png (the run's choice), before.png, baseline.png; rows with tone, method, verdict, scores and
            baseline_scores. Record: comparison, the median scores of both methods.
    """
    verdicts: dict[str, Mapping[str, Any]] = {}
    for archive in map(Archive, canvases):
        cohort = archive.record["spec"]["cohort"]
        verdicts |= {f"{cohort}/{image}": verdict for image, verdict in archive.record["verdicts"].items()}
    drawn = _draw(
        [(archive, row) for archive in map(Archive, healthy) for row in archive.rows], spec["seed"], "healthy"
    )
    scores: dict[str, list[dict[str, Any]]] = {}
    with ArchiveWriter(output, spec, [*healthy, *canvases]) as found:
        for number, (archive, row) in enumerate(drawn):
            verdict = verdicts[f"{row['cohort']}/{row['key']}"]
            method, result = verdict["method"], archive.read(row, row["candidates"][verdict["method"]]["member"])
            before, region = (decode_png(archive.read(row, part)) for part in ("before.png", "region.png"))
            mask = np.where(region >= 128, LESION, decode_png(archive.read(row, "mask.png")))
            baseline = heal(before, region, (mask == SKIN) & (region == 0)).picture
            ours, theirs = (scores_of(before, each, region, mask) for each in (decode_png(result), baseline))
            scores.setdefault(f"run: {method}", []).append(ours)
            scores.setdefault("baseline: heal", []).append(theirs)
            facts = {name: row[name] for name in ("id", "cohort", "tone")}
            facts |= {"method": method, "verdict": f"{verdict['by']}: {verdict['verdict']}"}
            facts |= {"scores": ours, "baseline_scores": theirs}
            pictures = {"png": result, "before.png": archive.read(row, "before.png")}
            found.add(f"{number:03d}", {**pictures, "baseline.png": encode_png(baseline)}, facts)
        found.facts["comparison"] = [
            {"method": name, "photos": len(each), **{key: _median(s[key] for s in each) for key in COMPARED}}
            for name, each in sorted(scores.items(), reverse=True)
        ]


def audit_masks(
    spec: Mapping[str, Any], masks: Sequence[str], canvases: Sequence[str], mapped: Sequence[str], output: str
) -> None:
    """Write what the run's masks are worth: how many there are, how good automatic ones are, and what came of them.

    Args:
        spec: the job's spec: the seed, labels (tone and malignant of the photos), and `human_masks` (cohort -> crop, id_map and
            files, image id -> file) where automatic masks can be compared with human ones.
        masks: masks archives. canvases: the cohorts' canvases. mapped: composites, an archive per batch of donors.
        output: archive to write: automatic masks of each tone: png (the photo), overlay.png, and heat.png where the source says
            where it is uncertain. Record: sources, counts, against_human and what_came (see the functions below), idle_donors.
    """
    archives, pools, composites = ([Archive(path) for path in paths] for paths in (masks, canvases, mapped))
    for archive in archives:
        archive.rows = labelled(archive.rows, labels_of(spec))
    automatic = [(archive, row) for archive in archives for row in archive.rows if row["mask_source"] in AUTOMATIC]
    with ArchiveWriter(output, spec, [*masks, *canvases, *mapped]) as found:
        for number, (archive, row) in enumerate(_draw(automatic, spec["seed"], "masks")):
            photo = decode_png(archive.read(row))
            mask = decode_png(archive.read(row, "mask.png" if row["has_mask"] else "rejected.mask.png"))
            pictures = {"png": archive.read(row), "overlay.png": encode_png(overlay(photo, mask))}
            if "uncertainty.png" in row["members"]:
                pictures["heat.png"] = encode_png(heat(photo, decode_png(archive.read(row, "uncertainty.png"))))
            facts = {name: row[name] for name in ("id", "cohort", "tone", "mask_source", "has_mask", "flags")}
            found.add(f"{number:03d}", pictures, facts)
        donors = {image for archive in composites for image in archive.record["spec"]["images"]}
        placed = {row["donor"] for archive in composites for row in archive.rows}
        found.facts |= {
            "sources": sorted({row["mask_source"] for _, row in automatic}),
            "counts": mask_counts(archives),
            "against_human": against_human(archives, spec.get("human_masks") or {}, spec["seed"]),
            "what_came": what_came_of_masks(archives, pools, composites),
            "idle_donors": len(donors - placed),
        }


def _draw(images: Found, seed: int, what: str) -> Found:
    """Up to `EXAMPLES` images of each tone, drawn by name so that more images change the draw little, order never."""
    drawn: Found = []
    for tone in TONES:
        mine = [(archive, row) for archive, row in images if row["tone"] == tone]
        drawn += sorted(mine, key=lambda pair: seed_for(seed, "report", what, pair[1]["id"]))[:EXAMPLES]
    return drawn


def _median(values) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.median(known)), 3) if known else None


def mask_counts(archives: Sequence[Archive]) -> list[dict[str, Any]]:
    """Photos, masks and quality flags by cohort and skin tone."""
    cells: dict[tuple[str, str], Counter[str]] = {}
    for row in (row for archive in archives for row in archive.rows):
        count = cells.setdefault((row["cohort"], row["tone"]), Counter())
        count["photos"] += 1
        count["with a mask"] += bool(row["has_mask"])
        count["automatic mask not used"] += "rejected.mask.png" in row["members"]
        count.update(flag for flag in row["flags"] if not flag.startswith(("converted_from", "exif_rotated")))
    first = ("photos", "with a mask", "automatic mask not used")
    names = [*first, *sorted({name for count in cells.values() for name in count} - set(first))]
    order = sorted(cells, key=lambda cell: (cell[0], (*TONES, UNKNOWN).index(cell[1])))
    return [{"cohort": c, "tone": t, **{name: cells[c, t][name] for name in names}} for c, t in order]


def against_human(
    archives: Sequence[Archive], human: Mapping[str, Mapping[str, Any]], seed: int
) -> list[dict[str, Any]]:
    """IoU of automatic masks with human ones, by class and tone, for each cohort whose sheet has human masks too.

    Photos the segmenter learnt from are left out, and so are photos of unknown tone and those whose automatic mask is not used.

    Returns:
        Of each cohort with photos to compare: cohort, photos, learnt (left out), unused (tone -> photos without a used automatic
        mask), unreadable (human masks), and rows (see `cgddi.fedd.iou.iou_rows`).
    """
    found = []
    for cohort, facts in human.items():
        compared: list[tuple[dict[str, Any], np.ndarray]] = []
        learnt, unreadable, unused = 0, 0, Counter()
        for archive in archives:
            trained = set(archive.record.get("segmenter_images") or ())
            for row in archive.rows:
                if row["cohort"] != cohort or row["key"] not in facts["files"] or row["mask_source"] not in AUTOMATIC:
                    continue
                if row["tone"] == UNKNOWN:
                    continue
                if row["key"] in trained:
                    learnt += 1
                elif not row["has_mask"]:
                    unused[row["tone"]] += 1
                else:
                    ours = decode_png(archive.read(row, "mask.png"))
                    truth = _human(facts, row, len(ours))
                    unreadable += truth is None
                    if truth is not None:
                        compared.append((row, class_counts(ours[None], truth[None])[0]))
        if compared:
            compared.sort(key=lambda pair: pair[0]["key"])
            rows = iou_rows([_mask_run(compared)], Bootstrap(REPLICATES, CONFIDENCE, seed))
            about = {"cohort": cohort, "photos": len(compared), "learnt": learnt, "unused": dict(unused)}
            found.append({**about, "unreadable": unreadable, "rows": [_plain(row) for row in rows]})
    return found


def _human(facts: Mapping[str, Any], row: Mapping[str, Any], size: int) -> np.ndarray | None:
    """The human mask at working size, or None when it cannot be used."""
    try:
        mask = read_mask(facts["files"][row["key"]], facts["id_map"])
    except UserError:
        return None
    return mask_to_size(mask, (row["width"], row["height"]), size, facts["crop"])


def _mask_run(compared: Sequence[tuple[Mapping[str, Any], np.ndarray]]) -> MaskRun:
    rows = [row for row, _ in compared]
    return MaskRun(
        images=tuple(row["key"] for row in rows),
        tones=np.array([TONES.index(row["tone"]) for row in rows]),
        labels=np.array([-1 if row["malignant"] is None else int(row["malignant"]) for row in rows]),
        counts=np.array([counts for _, counts in compared], dtype=float),
        record={"split": "masks"},
    )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for JSON: an undefined figure is None."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in plain.items()
    }


def what_came_of_masks(
    masks: Sequence[Archive], canvases: Sequence[Archive], mapped: Sequence[Archive]
) -> list[dict[str, Any]]:
    """By skin tone: photos and masks of the canvases' cohorts, canvases kept, pairs of lesion and canvas, and lesions placed."""
    pools = {archive.record["spec"]["cohort"]: Counter(row["tone"] for row in archive.rows) for archive in canvases}
    counts = {tone: Counter() for tone in (*TONES, UNKNOWN)}
    for row in (row for archive in masks for row in archive.rows if row["cohort"] in pools):
        counts[row["tone"]].update({"photos": 1, "with a mask": bool(row["has_mask"])})
    for archive in mapped:
        spec = archive.record["spec"]
        for tone, kept in pools.get(spec["canvas_cohort"], {}).items():
            counts[tone]["lesion and canvas pairs"] += kept * len(spec["images"])
        for row in archive.rows:
            counts[row["tone"]]["lesions placed"] += 1
    rows = []
    for tone, count in counts.items():
        if tone == UNKNOWN and not count:
            continue
        count["canvases kept"] = sum(pool[tone] for pool in pools.values())
        names = ("photos", "with a mask", "canvases kept", "lesion and canvas pairs", "lesions placed")
        tried, placed = count["lesion and canvas pairs"], count["lesions placed"]
        share = round(placed / tried, 6) if tried else None
        rows.append({"tone": tone, **{name: count[name] for name in names}, "share placed": share})
    return rows
