"""Write the review page: one self-contained HTML file on which a person keeps or discards healthy images.

It shows original, mask, painted region and result beside the triage's scores and verdict (of the canvases archives, where they are
given), with the mask's source, flags and (where it has one) uncertainty; lists the photos that gave no image, with the reason;
works by mouse or keys, filters by cohort, tone, disease, mask and verdict, and exports review.csv (image_id, cohort, verdict,
note). Name that file in the config: its verdicts override the triage, image by image, and only what depends on them runs again.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cgddi.core.archive import Archive, record_for, write_atomic, write_record
from cgddi.core.images import BACKGROUND, CLASS_COLOURS, CLASSES, decode_png
from cgddi.core.overlay import heat, overlay
from cgddi.job.command import stage_parser
from cgddi.stages.canvases.verdicts import read_review

SHOWN_SCORES = (
    ("lesion_contrast", "lesion contrast (dE)"),
    ("lesion_left", "lesion left (0-1)"),
    ("stain", "stain (dE)"),
    ("texture_1", "texture 1 px"),
    ("texture_2", "texture 2 px"),
    ("texture_4", "texture 4 px"),
    ("texture_8", "texture 8 px"),
    ("grain", "noise over blur"),
    ("ita_change", "ITA change (deg)"),
    ("artefacts", "artefacts (share)"),
    ("border_step", "border step (dE)"),
    ("border_step_skin", "step in skin (dE)"),
    ("seam", "seam (dE)"),
    ("bitten", "ruler, cloth (share)"),
)


def write_page(
    healthy: Sequence[str | Path],
    output: str | Path,
    photos: Sequence[str | Path] = (),
    canvases: Sequence[str | Path] = (),
    review: Sequence[Mapping[str, str]] = (),
    size: int = 256,
) -> int:
    """Write the page for some healthy archives.

    Args:
        healthy: healthy archives, of any cohorts.
        output: the HTML file.
        photos: masks archives they were made from: their masks and uncertainties are shown.
        canvases: archives that decided on them: their verdicts are shown.
        review: rows of an earlier review, shown as decided.
        size: side in px at which pictures are embedded (JPEG).

    Returns:
        How many images it shows.
    """
    decided = {(row["cohort"], row["image_id"]): {"verdict": row["verdict"], "note": row["note"]} for row in review}
    records = [Archive(path).record for path in canvases]
    verdicts = {
        (record["spec"]["cohort"], image): verdict
        for record in records
        for image, verdict in record["verdicts"].items()
    }
    masked = {(row["cohort"], row["key"]): (archive, row) for archive in map(Archive, photos) for row in archive.rows}
    cards, left_out = [], []
    for path in healthy:
        archive = Archive(path)
        cohort = archive.record["spec"].get("cohort", "")
        left_out += [{"cohort": cohort, **entry} for entry in archive.record.get("skipped", [])]
        for row in tqdm(archive.rows, desc=f"review {archive.path.stem}", unit="image"):
            image = (row["cohort"], row["key"])
            cards.append(
                _card(archive, row, masked.get(image), verdicts.get(image), size) | {"decided": decided.get(image)}
            )
    legend = [
        [name, "rgb({},{},{})".format(*CLASS_COLOURS[class_id])]
        for name, class_id in CLASSES.items()
        if class_id != BACKGROUND
    ]
    data = json.dumps({"cards": cards, "scores": SHOWN_SCORES, "legend": legend, "left_out": left_out}, sort_keys=True)
    page = resources.files("cgddi.stages.canvases").joinpath("review.html").read_text(encoding="utf-8")
    write_atomic(output, page.replace("__DATA__", data.replace("<", "\\u003c")))
    return len(cards)


def _card(
    archive: Archive,
    row: dict[str, Any],
    masked: tuple[Archive, dict[str, Any]] | None,
    verdict: Mapping[str, Any] | None,
    size: int,
) -> dict[str, Any]:
    # without a verdict, the first picture stands for the photo
    chosen = row["candidates"][verdict["method"] if verdict else next(iter(row["candidates"]))]
    before, result = decode_png(archive.read(row, "before.png")), decode_png(archive.read(row, chosen["member"]))
    pictures, mask = {"original": before}, row
    if masked:
        source, mask = masked
        if "mask.png" in mask["members"]:
            pictures["mask"] = overlay(before, decode_png(source.read(mask, "mask.png")))
        if "uncertainty.png" in mask["members"]:
            pictures["uncertainty"] = heat(before, decode_png(source.read(mask, "uncertainty.png")))
    pictures["region"] = outlined(before, decode_png(archive.read(row, "region.png")))
    pictures["result"] = result
    return {
        "image_id": row["key"],
        "cohort": row["cohort"],
        "key": f"{row['cohort']}/{row['key']}/{row['sha256'][:16]}",  # what the browser keeps belongs to this very picture
        "tone": row["tone"],
        "disease": row.get("disease", "healthy"),
        "scores": chosen["triage"],
        "triage": verdict and {"verdict": verdict["proposed"], "reasons": verdict["faults"]},
        "mask": {name: mask.get(name) for name in ("mask_source", "flags", "uncertainty", "lesion_uncertainty")},
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
    parser = stage_parser("review", __doc__, required=False)
    parser.add_argument("--healthy", nargs="+", required=True, help="healthy archives (.tar) to review")
    parser.add_argument("--photos", nargs="+", default=[], help="masks archives they were made from, to show the masks")
    parser.add_argument("--canvases", nargs="+", default=[], help="canvases archives, to show what the triage proposes")
    parser.add_argument("--output", required=True, help="the HTML page to write")
    parser.add_argument("--verdicts", help="an earlier review.csv, whose verdicts are shown as decided")
    parser.add_argument("--size", type=int, default=256, help="side in px of the embedded pictures (default 256)")
    options = parser.parse_args(argv)
    review = read_review(options.verdicts) if options.verdicts else []
    count = write_page(options.healthy, options.output, options.photos, options.canvases, review, options.size)
    if options.spec:
        inputs = [Archive(path).manifest_path for path in (*options.healthy, *options.photos, *options.canvases)]
        record = record_for(options.spec, inputs, images=count)
        write_record(Path(options.output).with_name("record.json"), record, [options.output])
    print(f"{options.output}: {count} images. Open it in a browser; export review.csv and name it in the config.")
    return 0
