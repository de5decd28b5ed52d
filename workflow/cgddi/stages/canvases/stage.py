"""Pool the healthy images of a cohort that a person, or failing that the triage, kept."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.core.triage import judged
from cgddi.stages.canvases.settings import CanvasesSettings


def pool_canvases(
    spec: Mapping[str, Any], settings: CanvasesSettings, healthy: Sequence[str | Path], output: str | Path
) -> None:
    """Write the cohort's kept canvases into one archive.

    Args:
        spec: the job's spec: cohort, and verdicts (image id -> keep or discard) from the review, where there is one.
        settings: sizes of further copies.
        healthy: the cohort's healthy archives.
        output: the archive to write; samples hold `png`, `mask.png` and raw copies (.npy) at each further size. Its record counts
            kept images by tone and lists discarded ones with who discarded them and why.

    Raises:
        UserError: no canvas is kept, a verdict is neither keep nor discard, or an image comes twice.
    """
    verdicts: Mapping[str, str] = spec.get("verdicts") or {}
    odd = {image: verdict for image, verdict in verdicts.items() if verdict not in ("keep", "discard")}
    if odd:
        raise UserError(f"verdicts of cohort {spec['cohort']!r} are keep or discard; found {odd}. Mend review.csv.")
    archives = [Archive(path) for path in healthy]
    kept: Counter[str] = Counter()
    seen: set[str] = set()
    inputs = [part for archive in archives for part in (archive.manifest_path, archive.record_path)]
    with ArchiveWriter(output, spec, inputs) as pool:
        for archive in archives:
            for row in tqdm(archive.rows, desc=f"canvases {archive.path.stem}", unit="image"):
                image_id = row["key"]
                if image_id in seen:
                    raise UserError(
                        f"{archive.path}: image {image_id} is in two healthy archives. Name every archive once."
                    )
                seen.add(image_id)
                row = {**row, "triage": judged(row["triage"], settings.triage)}
                if verdicts.get(image_id, row["triage"]["verdict"]) == "keep":
                    source = "review" if image_id in verdicts else "triage"
                    pool.add(image_id, _members(archive, row, settings.sizes), _row(row, source))
                    kept[row["tone"]] += 1
                else:
                    pool.skip(image_id, _reason(row, image_id in verdicts))
        pool.facts["kept"] = {tone: kept[tone] for tone in TONES}
        pool.facts["discarded"] = len(seen) - len(pool)
        pool.facts["verdicts_without_image"] = sorted(set(verdicts) - seen)
        if not len(pool):
            raise UserError(_nothing_kept(spec["cohort"], archives, pool.skipped))
        missing = [tone for tone in TONES if not kept[tone]]
        if missing:
            tqdm.write(f"cohort {spec['cohort']}: no canvas of tone {', '.join(missing)} is kept", file=sys.stderr)


def _nothing_kept(cohort: str, archives: Sequence[Archive], discarded: Sequence[Mapping[str, str]]) -> str:
    """The error of a cohort without canvas: how many photos were lost where and why, and what can be done."""
    unpainted = [entry for archive in archives for entry in archive.record.get("skipped", [])]
    text = f"cohort {cohort!r} keeps no canvas of {len(discarded)} healthy image(s)"
    if discarded:
        text += f" ({_tally(discarded)})"
    if unpainted:
        text += f"; {len(unpainted)} photo(s) were not painted at all ({_tally(unpainted)})"
    remedies = ["keep some on the review page (cgddi review) or loosen canvases.triage"] if discarded else []
    if unpainted:
        remedies.append(
            "look at the masks (`cgddi masks-export`), mend them by hand and name them in the image sheet with masks.source "
            "human, choose another masks.source for this cohort, or loosen masks.flags"
        )
    return f"{text}. Remedy: {'; '.join(remedies)}; or set the cohort's role to evaluation."


def _tally(entries: Sequence[Mapping[str, str]]) -> str:
    """Reasons with their counts, the commonest first; reasons that differ in a number only count as one."""
    counts = Counter(re.sub(r"\d+(\.\d+)?", "#", entry["reason"]).partition(":")[0] for entry in entries)
    return ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(6))


def _members(archive: Archive, row: Mapping[str, Any], sizes: Sequence[int]) -> dict[str, bytes]:
    members = {"png": archive.read(row), "mask.png": archive.read(row, "mask.png")}
    with Image.open(io.BytesIO(members["png"])) as photo, Image.open(io.BytesIO(members["mask.png"])) as mask:
        for size in sizes:
            if size < min(photo.size):
                small = photo.resize((size, size), Image.Resampling.LANCZOS)
                classes = mask.resize((size, size), Image.Resampling.NEAREST)
                members[f"{size}.npy"] = _npy(np.asarray(small))
                members[f"{size}.mask.npy"] = _npy(np.asarray(classes))
    return members


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _row(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    left_out = ("key", "members", "sha256")
    return {**{name: value for name, value in row.items() if name not in left_out}, "kept_by": source}


def _reason(row: Mapping[str, Any], reviewed: bool) -> str:
    return "discarded by review" if reviewed else "discarded by triage: " + "; ".join(row["triage"]["reasons"])
