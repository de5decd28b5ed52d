"""Write the review page: one self-contained HTML file on which a person keeps or discards healthy images.

It shows original, mask, painted region and result beside the triage scores, with the mask's source, flags and (where it has
one) uncertainty; lists the photos that gave no image, with the reason; works by mouse or keys, filters by cohort, tone, disease,
mask and verdict, and exports review.csv (image_id, cohort, verdict, note). Name that file in the config: its verdicts override the
triage, image by image, and only what depends on them runs again.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError
from tqdm import tqdm

from cgddi.core.archive import Archive, sha256, write_atomic
from cgddi.core.errors import UserError
from cgddi.core.images import BACKGROUND, CLASS_COLOURS, CLASSES, decode_png
from cgddi.core.overlay import heat, overlay
from cgddi.core.triage import judged
from cgddi.stages.healthy.settings import TriageSettings
from cgddi.stages.healthy.verdicts import read_review

SHOWN_SCORES = (
    ("lesion_contrast", "lesion contrast (dE)"),
    ("lesion_left", "lesion left (0-1)"),
    ("texture_ratio", "texture ratio"),
    ("ita_change", "ITA change (deg)"),
    ("artefacts", "artefacts (share)"),
    ("border_step", "border step (dE)"),
    ("border_step_skin", "step in skin (dE)"),
    ("border_jump", "border jump (dE)"),
)


def write_page(
    archives: Sequence[str | Path],
    output: str | Path,
    size: int = 256,
    review: Sequence[Mapping[str, str]] = (),
    limits: TriageSettings | None = None,
) -> int:
    """Write the page for some healthy archives.

    Args:
        archives: healthy archives, of any cohorts.
        output: the HTML file.
        size: side in px at which pictures are embedded (JPEG).
        review: rows of an earlier review, shown as decided.
        limits: thresholds of the proposed verdicts; None: the default ones.

    Returns:
        How many images it shows.
    """
    decided = {(row["cohort"], row["image_id"]): {"verdict": row["verdict"], "note": row["note"]} for row in review}
    limits = limits or TriageSettings()
    cards, shown, left_out = [], [], []
    for path in archives:
        archive = Archive(path)
        cohort = archive.record["spec"].get("cohort", "")
        left_out += [{"cohort": cohort, **entry} for entry in archive.record.get("skipped", [])]
        for row in tqdm(archive.rows, desc=f"review {archive.path.stem}", unit="image"):
            cards.append(_card(archive, row, size, decided.get((row["cohort"], row["key"])), limits))
            shown.append(f"{row['cohort']}/{row['key']}/{row['sha256']}")
    legend = [
        [name, "rgb({},{},{})".format(*CLASS_COLOURS[class_id])]
        for name, class_id in CLASSES.items()
        if class_id != BACKGROUND
    ]
    facts = {"cards": cards, "scores": SHOWN_SCORES, "legend": legend, "left_out": left_out}
    data = json.dumps(facts, sort_keys=True)
    page = resources.files("cgddi.stages.healthy").joinpath("review.html").read_text(encoding="utf-8")
    name = sha256("\n".join(sorted(shown)))[:16]  # verdicts kept in the browser belong to these very pictures
    page = page.replace("__NAME__", name).replace("__DATA__", data.replace("<", "\\u003c"))
    write_atomic(output, page)
    return len(cards)


def _card(
    archive: Archive, row: dict[str, Any], size: int, decided: Mapping[str, str] | None, limits: TriageSettings
) -> dict[str, Any]:
    before, result = decode_png(archive.read(row, "before.png")), decode_png(archive.read(row))
    pictures = {"original": before}
    if "before.mask.png" in row["members"]:
        pictures["mask"] = overlay(before, decode_png(archive.read(row, "before.mask.png")))
    if "uncertainty.png" in row["members"]:
        pictures["uncertainty"] = heat(before, decode_png(archive.read(row, "uncertainty.png")))
    pictures["region"] = outlined(before, decode_png(archive.read(row, "region.png")))
    pictures["result"] = result
    return {
        "image_id": row["key"],
        "cohort": row["cohort"],
        "tone": row["tone"],
        "disease": row.get("disease", "healthy"),
        "triage": judged(row["triage"], limits),
        "decided": decided,
        "mask": {name: row.get(name) for name in ("mask_source", "flags", "uncertainty", "lesion_uncertainty")},
        "pictures": [[name, _embedded(picture, size)] for name, picture in pictures.items()],
    }


def outlined(photo: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The photo (H, W, 3) uint8 with the painted region tinted by its weight."""
    weight = region[..., None] / 255 * 0.6
    return np.rint(photo * (1 - weight) + np.array([0, 190, 255]) * weight).astype(np.uint8)


def _embedded(picture: np.ndarray, size: int) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(picture)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def main(argv: Sequence[str]) -> int:
    """Run `cgddi review`."""
    parser = argparse.ArgumentParser(
        prog="cgddi review", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--healthy", nargs="+", required=True, help="healthy archives (.tar) to review")
    parser.add_argument("--output", required=True, help="the HTML page to write")
    parser.add_argument("--verdicts", help="an earlier review.csv, whose verdicts are shown as decided")
    parser.add_argument("--size", type=int, default=256, help="side in px of the embedded pictures (default 256)")
    parser.add_argument(
        "--triage", help="thresholds of the proposed verdicts, as JSON (config section canvases.triage)"
    )
    options = parser.parse_args(argv)
    limits = None
    if options.triage:
        try:
            limits = TriageSettings.model_validate_json(options.triage)
        except ValidationError as error:
            raise UserError(f"--triage: {error}") from None
    review = read_review(options.verdicts) if options.verdicts else []
    count = write_page(options.healthy, options.output, options.size, review, limits)
    print(f"{options.output}: {count} images. Open it in a browser; export review.csv and name it in the config.")
    return 0
