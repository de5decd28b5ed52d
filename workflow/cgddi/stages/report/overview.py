"""The first screen: what was run, and what its audits found, as pass, warn or fail."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cgddi.core.images import TONES
from cgddi.core.source import source_commit
from cgddi.stages.report.records import UNTOLD, Records, base_model

AGREEMENT = (0.9, 0.75)
"""Share of images with the tone asked for, over that of real photos, from which the audit passes, and from which it warns."""
COPIES = (0.01, 0.05)
"""Share of samples nearer to a training photo than 99 % of these are to each other, up to which it passes (1 % would be chance),
and up to which it warns."""
SHORT = 0.1
"""Share of wanted samples that may be short before it counts as a failure."""


def what_was_run(
    records: Records, indices: Mapping[str, pd.DataFrame], logs: Path, usage: pd.DataFrame
) -> dict[str, str]:
    """Facts of the run by name.

    Args:
        indices: split -> its images, with labels.
        logs: folder of the jobs' logs, with the run's starts (`plan.jsonl`).
        usage: what each attempt of a job used: stage, device, seconds.
    """
    facts = {}
    for split, index in indices.items():
        real = index[index["kind"] == "real"]
        roles = Counter(real["role"])
        told = [
            f"{roles[role]} {name}"
            for role, name in (("train", "training"), ("validation", "validation"), ("test", "test"))
            if roles[role]
        ]
        test = real[real["role"] == "test"]
        tones = ", ".join(f"{tone} {(test['tone'] == tone).sum()}" for tone in TONES)
        facts[f"photos, split {split}"] = (
            f"{', '.join(told)} (test: {tones}; {int((test['malignant'] == True).sum())} malignant)"  # noqa: E712
        )
    made = Counter(kind for index in list(indices.values())[:1] for kind in index.loc[index["role"] == "train", "kind"])
    names = {"healthy": "healed canvases", "lesion_mapped": "transplants", "semantic": "samples"}
    facts["images to learn from"] = (
        ", ".join(f"{made[kind]:,} {name}" for kind, name in names.items() if made[kind]) or "none made"
    )
    facts["classifiers"] = classifiers(records.classifiers)
    model, revision = base_model(records)
    facts["base model"] = f"{model}, revision {revision}" if records.adapter else "none used"
    starts = _starts(logs)
    commits = list(dict.fromkeys(line["commit"] for line in starts if line.get("commit")))
    early = (
        "; of earlier starts it is not recorded" if commits and not all(line.get("commit") for line in starts) else ""
    )
    facts["code"] = ", ".join(commits) + early or f"{UNTOLD} (this page: {source_commit() or UNTOLD})"
    days = [line["when"][:10] for line in starts]
    facts["started"] = (days[0] if len(set(days)) == 1 else f"{days[0]}, last {days[-1]}") if days else UNTOLD
    facts["work"] = worked(usage)
    facts["seed"] = str(records.spec.get("seed", UNTOLD))
    return facts


def classifiers(records: Sequence[Mapping[str, Any]]) -> str:
    """How many were trained, of what."""
    if not records:
        return UNTOLD
    parts = [len({record.get(key) for record in records}) for key in ("method", "regime", "run_seed", "split")]
    named = [
        f"{n} {name}{'s' if n > 1 else ''}"
        for n, name in zip(parts, ("method", "regime", "seed", "split"), strict=True)
    ]
    return f"{len(records)}: {', '.join(named)}"


def worked(usage: pd.DataFrame) -> str:
    """Hours that jobs held a GPU, and CPU hours of those that had none, all attempts counted."""
    if usage.empty:
        return UNTOLD
    hours = usage.groupby(usage["device"] == "cpu")["seconds"].sum() / 3600
    devices = ", ".join(sorted(set(usage["device"]) - {"cpu"}))
    gpu = f"{hours[False]:.1f} GPU hours ({devices})" if False in hours else "no GPU"
    return gpu + (f", {hours[True]:.1f} hours of jobs on CPU" if True in hours else "")


def _starts(logs: Path) -> list[dict[str, Any]]:
    path = logs / "plan.jsonl"
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    asked = (
        line for line in map(json.loads, lines) if line.get("when")
    )  # `cgddi cost` predicts too, with what was left
    return [line for line in asked if all(stage.get("left") is None for stage in line["stages"])]


# ---- audits


def verdicts(
    audits: Sequence[str | Path], indices: Mapping[str, Mapping[str, Any]], caveats: Mapping[str, Sequence[str]]
) -> list[dict[str, str]]:
    """pass, warn or fail of each audit of each split, with what was found.

    Args:
        audits: audit/<split>/<kind>.json.
        indices: split -> record of its index.
        caveats: setting -> what is doubtful about it.
    """
    found = []
    for path in sorted(map(Path, audits)):
        verdict, text = JUDGES[path.stem](json.loads(path.read_text(encoding="ascii")))
        found.append({"verdict": verdict, "name": f"{NAMES[path.stem]}, split {path.parent.name}", "text": text})
    for split, record in indices.items():
        wanted, short = (sum(row[key] for row in record.get("samples", [])) for key in ("wanted", "short"))
        if wanted:
            verdict = "pass" if not short else "warn" if short <= SHORT * wanted else "fail"
            text = f"{wanted - short:,} of {wanted:,} wanted samples passed their check"
            found.append({"verdict": verdict, "name": f"Samples, split {split}", "text": text})
    if caveats:
        told = "; ".join(dict.fromkeys(caveat for each in caveats.values() for caveat in each))
        found.append({"verdict": "warn", "name": "Caveats", "text": f"{len(caveats)} setting(s): {told}"})
    return found


def _leakage(found: Mapping[str, Any]) -> tuple[str, str]:
    checked = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in found["checked"].items())
    if not found["clean"]:
        leaks, alike = (len(found.get(name, [])) for name in ("leaks", "near_duplicates"))
        return "fail", f"{leaks:,} training images descend from held-out photos, {alike:,} resemble one"
    if found.get("waived"):
        return "warn", f"clean but for what was waived: {', '.join(found['waived'])} ({checked})"
    return "pass", f"nothing learnt from touches a held-out photo ({checked})"


def _tone(found: Mapping[str, Any]) -> tuple[str, str]:
    cells = [
        (cell["relative"], f"{kind}, {tone}")
        for kind, tones in found["by_kind"].items()
        for tone, cell in tones.items()
        if kind != "real" and cell.get("relative") is not None
    ]
    if not cells:
        return "warn", "no made image to measure"
    worst, where = min(cells)
    verdict = "pass" if worst >= AGREEMENT[0] else "warn" if worst >= AGREEMENT[1] else "fail"
    return verdict, f"worst: {where}, {100 * worst:.0f} % of the agreement that real photos have"


def _quality(found: Mapping[str, Any]) -> tuple[str, str]:
    made = [tones for kind, tones in found["by_kind"].items() if kind not in ("real", "all")]
    cells = [cell for tones in made for cell in tones.values()]
    images, bad = (
        sum(cell["images"] for cell in cells),
        sum(cell.get("black", 0) + cell.get("flat", 0) for cell in cells),
    )
    verdict = "pass" if not bad else "warn" if bad <= 0.01 * images else "fail"
    return verdict, f"{bad:,} of {images:,} made images are black or flat"


def _memorisation(found: Mapping[str, Any]) -> tuple[str, str]:
    if "similarity" not in found or not found.get("images"):
        return "warn", "no sample, or no real training photo, to compare"
    share = found["copies"] / found["images"]
    verdict = "pass" if share <= COPIES[0] else "warn" if share <= COPIES[1] else "fail"
    return (
        verdict,
        f"{found['copies']:,} of {found['images']:,} samples nearer to a training photo than 99 % of these are to each other",
    )


JUDGES = {"leakage": _leakage, "tone": _tone, "quality": _quality, "memorisation": _memorisation}
NAMES = {"leakage": "Leakage", "tone": "Skin tone", "quality": "Faults of pictures", "memorisation": "Memorisation"}
