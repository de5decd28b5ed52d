"""The report's masks: how many photos got one, how good automatic ones are beside human ones, and what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.archive import Archive
from cgddi.core.bootstrap import Bootstrap
from cgddi.core.errors import UserError
from cgddi.core.images import TONES, decode_png, mask_to_size, read_mask
from cgddi.core.metrics import class_counts
from cgddi.core.overlay import heat, overlay
from cgddi.fedd.iou import MaskRun, iou_rows
from cgddi.stages.report.pictures import data_uri, draw_rows

AUTOMATIC = ("fedd", "sam3")
REPLICATES = 1000
MASK_FACTS = ("photos", "with a mask", "automatic mask not used")


def flag_counts(archives: Sequence[Archive]) -> pd.DataFrame:
    """Photos, masks and quality flags by cohort and skin tone.

    Args:
        archives: masks archives.
    """
    cells: dict[tuple[str, str], Counter[str]] = {}
    for archive in archives:
        for row in archive.rows:
            count = cells.setdefault((row["cohort"], row["tone"]), Counter())
            count["photos"] += 1
            count["with a mask"] += bool(row["has_mask"])
            count["automatic mask not used"] += "rejected.mask.png" in row["members"]
            count.update(flag for flag in row["flags"] if not flag.startswith(("converted_from", "exif_rotated")))
    flags = sorted({name for count in cells.values() for name in count} - set(MASK_FACTS))
    order = sorted(cells, key=lambda cell: (cell[0], TONES.index(cell[1])))
    return pd.DataFrame(
        [
            {"cohort": cohort, "tone": tone, **{name: cells[cohort, tone][name] for name in (*MASK_FACTS, *flags)}}
            for cohort, tone in order
        ]
    )


def against_human(
    archives: Sequence[Archive], human: Mapping[str, Mapping[str, Any]], seed: int
) -> list[tuple[str, pd.DataFrame]]:
    """IoU of automatic masks with human ones, by class and tone, for each cohort whose sheet has human masks too.

    Photos the segmenter learnt from are left out, and so are photos whose automatic mask is not used.

    Args:
        archives: masks archives.
        human: cohort -> crop, id_map and files (image id -> mask file).
        seed: the project's seed.

    Returns:
        Caption and table of each cohort that has photos to compare.
    """
    found = []
    for cohort, facts in human.items():
        runs, learnt, unused, unreadable = [], 0, Counter(), 0
        for archive in archives:
            trained = set(archive.record.get("segmenter_images") or ())
            for row in archive.rows:
                if row["cohort"] != cohort or row["key"] not in facts["files"] or row["mask_source"] not in AUTOMATIC:
                    continue
                if row["key"] in trained:
                    learnt += 1
                elif not row["has_mask"]:
                    unused[row["tone"]] += 1
                else:
                    ours = decode_png(archive.read(row, "mask.png"))
                    truth = _human(facts, row, ours.shape[0])
                    unreadable += truth is None
                    if truth is not None:
                        runs.append((row, class_counts(ours[None], truth[None])[0]))
        if runs:
            note = f"; {learnt} photo(s) the segmenter learnt from are left out" if learnt else ""
            note += f"; {sum(unused.values())} without a used automatic mask ({_listed(unused)})" if unused else ""
            note += f"; {unreadable} human mask(s) cannot be read" if unreadable else ""
            table = _iou_table(runs, seed)
            found.append((f"{cohort}: automatic masks against human ones, {len(runs)} photos{note}", table))
    return found


def _human(facts: Mapping[str, Any], row: Mapping[str, Any], size: int) -> np.ndarray | None:
    """The human mask at working size, or None when it cannot be used."""
    try:
        mask = read_mask(facts["files"][row["key"]], facts["id_map"])
    except UserError:
        return None
    return mask_to_size(mask, (row["width"], row["height"]), size, facts["crop"])


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{tone} {counts[tone]}" for tone in TONES if counts.get(tone))


def _iou_table(runs: Sequence[tuple[Mapping[str, Any], np.ndarray]], seed: int) -> pd.DataFrame:
    """Rows by class, columns by tone: IoU with its interval, and the images behind it."""
    runs = sorted(runs, key=lambda pair: pair[0]["key"])
    run = MaskRun(
        path="masks",
        images=tuple(row["key"] for row, _ in runs),
        tones=np.array([TONES.index(row["tone"]) for row, _ in runs]),
        labels=np.array([-1 if row["malignant"] is None else int(row["malignant"]) for row, _ in runs]),
        counts=np.stack([counts for _, counts in runs]),
        record={"split": "masks"},
    )
    rows = iou_rows([run], Bootstrap(REPLICATES, 0.95, seed))
    names = {(row["class"], row["tone"]): row for row in rows}
    table = []
    for name in ("lesion", "skin", "marker", "ruler", "background", "mean"):
        line = {"IoU": "mean of classes" if name == "mean" else name}
        for tone in ("all", *TONES):
            row = names[name, tone]
            figure = (
                f"{row['iou']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if np.isfinite(row["iou"]) else "undefined"
            )
            line[f"{tone} (n={row['images']})"] = figure
        table.append(line)
    return pd.DataFrame(table)


def downstream(masks: Sequence[Archive], canvases: Sequence[Archive], mapped: Sequence[Archive]) -> pd.DataFrame:
    """What this run made of its masks, by skin tone: canvases kept, and lesions placed on them.

    Args:
        masks: masks archives of the canvases' cohorts. canvases: kept canvases. mapped: composites, one archive per donor.
    """
    kept, placed, tried = Counter(), Counter(), Counter()
    pools = {archive.record["spec"]["cohort"]: Counter(row["tone"] for row in archive.rows) for archive in canvases}
    for pool in pools.values():
        kept.update(pool)
    for archive in mapped:
        tried.update(pools.get(archive.record["spec"]["canvas_cohort"], {}))
        placed.update(row["tone"] for row in archive.rows)
    photos, masked = Counter(), Counter()
    for archive in masks:
        for row in archive.rows:
            if row["cohort"] in pools:
                photos[row["tone"]] += 1
                masked[row["tone"]] += bool(row["has_mask"])
    rows = []
    for tone in TONES:
        share = placed[tone] / tried[tone] if tried[tone] else None
        rows.append(
            {
                "tone": tone,
                "photos": photos[tone],
                "with a mask": masked[tone],
                "canvases kept": kept[tone],
                "lesion and canvas pairs": tried[tone],
                "lesions placed": placed[tone],
                "share placed": share,
            }
        )
    return pd.DataFrame(rows)


def idle_donors(mapped: Sequence[Archive]) -> int:
    """Donors whose lesion was placed on no canvas."""
    return len({archive.path.stem for archive in mapped} - {archive.path.stem for archive in mapped if archive.rows})


def examples(
    archives: Sequence[Archive], count: int, width: int, seed: int
) -> dict[str, list[tuple[str, str, str, str]]]:
    """Automatic masks by tone: data URIs of photo, mask drawn on it and its uncertainty ("" without), and a line on it.

    Args:
        archives: masks archives. count: photos per tone. width: of a picture in pixels. seed: the project's seed.
    """
    rows = [
        {"archive": archive, "row": row, "tone": row["tone"], "id": row["id"]}
        for archive in archives
        for row in archive.rows
        if row["mask_source"] in AUTOMATIC
    ]
    table = pd.DataFrame(rows, columns=["archive", "row", "tone", "id"]).sort_values("id", ignore_index=True)
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    for tone in TONES:
        for cell in draw_rows(table[table["tone"] == tone], count, seed, "masks", tone).itertuples():
            archive, row = cell.archive, cell.row
            part = "mask.png" if row["has_mask"] else "rejected.mask.png"
            photo, mask = decode_png(archive.read(row)), decode_png(archive.read(row, part))
            doubt = ""
            if "uncertainty.png" in row["members"]:
                doubt = data_uri(heat(photo, decode_png(archive.read(row, "uncertainty.png"))), width)
            flags = ", ".join(row["flags"]) or "no flags"
            text = f"{row['mask_source']}: {flags}" if row["has_mask"] else f"not used: {flags}"
            found.setdefault(tone, []).append(
                (data_uri(photo, width), data_uri(overlay(photo, mask), width), doubt, text)
            )
    return found
