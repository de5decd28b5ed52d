"""Decide which healthy images of a cohort are kept, and pool them into one archive."""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.errors import UserError
from cgddi.core.images import TONES, UNKNOWN
from cgddi.core.triage import judge
from cgddi.stages.canvases.settings import CanvasesSettings
from cgddi.stages.canvases.verdicts import VERDICTS


def pool_canvases(
    spec: Mapping[str, Any], settings: CanvasesSettings, healthy: Sequence[str | Path], output: str | Path
) -> None:
    """Write the cohort's kept canvases into one archive.

    Args:
        spec: the job's spec: cohort, and verdicts (image id -> keep or discard) from the review, where there is one.
        output: the archive to write; samples hold `png` and `mask.png`. Its record counts kept images by tone, lists discarded ones
            with who discarded them and why, and holds every image's verdict (`verdicts`, see `decide`), made here and nowhere else:
            the review page and the report show it.

    Raises:
        UserError: no canvas is kept, a verdict is neither keep nor discard, or an image comes twice.
    """
    reviewed: Mapping[str, str] = spec.get("verdicts") or {}
    if odd := {image: verdict for image, verdict in reviewed.items() if verdict not in VERDICTS}:
        raise UserError(f"verdicts of cohort {spec['cohort']!r} are keep or discard; found {odd}. Fix review.csv.")
    archives = [Archive(path) for path in healthy]
    kept: Counter[str] = Counter()
    verdicts: dict[str, dict[str, Any]] = {}
    inputs = [part for archive in archives for part in (archive.manifest_path, archive.record_path)]
    with ArchiveWriter(output, spec, inputs) as pool:
        for archive in archives:
            for row in tqdm(archive.rows, desc=f"canvases {archive.path.stem}", unit="image"):
                image_id = row["key"]
                if image_id in verdicts:
                    raise UserError(
                        f"{archive.path}: image {image_id} is in two healthy archives. Name every archive once."
                    )
                decided = verdicts[image_id] = decide(row["candidates"], settings, reviewed.get(image_id))
                if decided["verdict"] == "keep":
                    making = dict(row["candidates"][decided["method"]])
                    members = {
                        "png": archive.read(row, making.pop("member")),
                        "mask.png": archive.read(row, "mask.png"),
                    }
                    left = ("key", "members", "sha256", "candidates")
                    facts = {name: value for name, value in row.items() if name not in left}
                    pool.add(
                        image_id, members, {**facts, **making, "method": decided["method"], "kept_by": decided["by"]}
                    )
                    kept[row["tone"]] += 1
                else:
                    why = "; ".join(decided["faults"])
                    pool.skip(
                        image_id, "discarded by review" if image_id in reviewed else f"discarded by triage: {why}"
                    )
        pool.facts["kept"] = {tone: kept[tone] for tone in (*TONES, UNKNOWN) if kept[tone] or tone != UNKNOWN}
        pool.facts["discarded"] = len(verdicts) - len(pool)
        pool.facts["verdicts"] = verdicts
        pool.facts["verdicts_without_image"] = sorted(set(reviewed) - set(verdicts))
        if not len(pool):
            raise UserError(_nothing_kept(spec["cohort"], archives, pool.skipped))
        if missing := [tone for tone in TONES if not kept[tone]]:
            tqdm.write(f"cohort {spec['cohort']}: no canvas of tone {', '.join(missing)} is kept", file=sys.stderr)


def decide(
    candidates: Mapping[str, Mapping[str, Any]], settings: CanvasesSettings, reviewed: str | None
) -> dict[str, Any]:
    """The picture chosen of one photo and the verdict on it; a person's goes before the triage's.

    Args:
        candidates: the photo's pictures by method, with their triage scores (`triage`, see `core.triage.scores_of`).
        reviewed: the person's verdict, or None.

    Returns:
        method (of the picture without fault that stays furthest from the thresholds; where all have faults, of the one that passes
        them least), verdict (keep or discard), by (review or triage), proposed (the triage's verdict), and faults (its reasons).
    """
    judged = {method: judge(each["triage"], settings.triage) for method, each in candidates.items()}
    method = min(judged, key=lambda name: judged[name].worst)  # above 1 where there is a fault, and only there
    reasons = judged[method].reasons
    proposed = "discard" if reasons else "keep"
    by = "review" if reviewed else "triage"
    return {"method": method, "verdict": reviewed or proposed, "by": by, "proposed": proposed, "faults": reasons}


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
            "look at the masks (`cgddi masks-export`), correct them by hand and name them in the image sheet with masks.source "
            "human, or choose another masks.source for this cohort"
        )
    return f"{text}. Remedy: {'; '.join(remedies)}; or set the cohort's role to evaluation."


def _tally(entries: Sequence[Mapping[str, str]]) -> str:
    """Reasons with their counts, the commonest first; reasons that differ in a number only count as one."""
    counts = Counter(re.sub(r"\d+(\.\d+)?", "#", entry["reason"]).partition(":")[0] for entry in entries)
    return ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(6))
