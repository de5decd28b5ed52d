"""Write the review page, on which a person keeps or discards healthy images; its pictures lie beside it, in `pictures`.

It shows original, mask, painted region and result beside the triage's scores and verdict (of the canvases archives, where they are
given), with the mask's source, flags and (where it has one) uncertainty; lists the photos that gave no image, with the reason;
works by mouse or keys, filters by cohort, tone, disease, mask and verdict, sorts by doubt, and exports review.csv (image_id,
cohort, verdict, note) with every verdict and note of an earlier one. Name that file in the config: its verdicts override the
triage, image by image, and only what depends on them runs again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cgddi.core.archive import Archive, record_for, sha256, write_atomic, write_record
from cgddi.core.images import BACKGROUND, CLASS_COLOURS, CLASSES, decode_png
from cgddi.core.pictures import PictureFolder, heat, overlay
from cgddi.core.triage import judge
from cgddi.job.command import stage_parser
from cgddi.stages.canvases.settings import TriageSettings
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
    size: int = 512,
) -> int:
    """Write the page for some healthy archives, and its pictures beside it.

    Args:
        photos: masks archives they were made from: their masks and uncertainties are shown.
        canvases: archives that decided on them: their verdicts are shown.
        review: rows of an earlier review, shown as decided; those of images that the page does not show are exported all the same.
        size: longer side in px that pictures are shrunk to.

    Returns:
        How many images it shows.
    """
    records, folder = [Archive(path).record for path in canvases], PictureFolder(output)
    verdicts, limits = {}, {}
    for record in records:
        limits[record["spec"]["cohort"]] = TriageSettings(**record["spec"].get("settings", {}).get("triage", {}))
        verdicts |= {(record["spec"]["cohort"], image): verdict for image, verdict in record["verdicts"].items()}
    masked = {(row["cohort"], row["key"]): (archive, row) for archive in map(Archive, photos) for row in archive.rows}
    cards, left_out = [], []
    for path in healthy:
        archive = Archive(path)
        cohort = archive.record["spec"].get("cohort", "")
        left_out += [{"cohort": cohort, **entry} for entry in archive.record.get("skipped", [])]
        for row in tqdm(archive.rows, desc=f"review {archive.path.stem}", unit="image"):
            image = (row["cohort"], row["key"])
            card = _card(archive, row, masked.get(image), verdicts.get(image), limits.get(row["cohort"]))
            card["pictures"] = _pictures(archive, row, card.pop("member"), masked.get(image), folder, size)
            cards.append(card)
    legend = [
        [name, "rgb({},{},{})".format(*CLASS_COLOURS[class_id])]
        for name, class_id in CLASSES.items()
        if class_id != BACKGROUND
    ]
    data = {"cards": cards, "scores": SHOWN_SCORES, "legend": legend, "left_out": left_out, "earlier": list(review)}
    text = json.dumps(data, sort_keys=True).replace("<", "\\u003c")
    page = resources.files("cgddi.stages.canvases").joinpath("review.html").read_text(encoding="utf-8")
    write_atomic(output, page.replace("__DATA__", text))
    folder.sweep()
    return len(cards)


def _card(
    archive: Archive,
    row: dict[str, Any],
    masked: tuple[Archive, dict[str, Any]] | None,
    verdict: Mapping[str, Any] | None,
    limits: TriageSettings | None,
) -> dict[str, Any]:
    # without a verdict, the first picture stands for the photo
    chosen = row["candidates"][verdict["method"] if verdict else next(iter(row["candidates"]))]
    mask = masked[1] if masked else row
    return {
        "image_id": row["key"],
        "cohort": row["cohort"],
        "key": f"{row['cohort']}/{row['key']}/{row['sha256'][:16]}",  # which picture of the photo a person judged
        "tone": row["tone"],
        "disease": row.get("disease", "healthy"),
        "scores": chosen["triage"],
        "share": round(judge(chosen["triage"], limits).worst, 3) if limits else None,
        "triage": verdict and {"verdict": verdict["proposed"], "reasons": verdict["faults"]},
        "mask": {name: mask.get(name) for name in ("mask_source", "flags", "uncertainty", "lesion_uncertainty")},
        "member": chosen["member"],
    }


def _pictures(
    archive: Archive,
    row: Mapping[str, Any],
    result: str,
    masked: tuple[Archive, dict[str, Any]] | None,
    folder: PictureFolder,
    size: int,
) -> list[list[Any]]:
    """[name, file, width, height] of each picture of a card; one that lies there already is not drawn again."""
    parts = {name: archive.read(row, member) for name, member in
             (("original", "before.png"), ("region", "region.png"), ("result", result))}  # fmt: skip
    if masked:
        source, mask = masked
        known = (name for name in ("mask", "uncertainty") if f"{name}.png" in mask["members"])
        parts |= {name: source.read(mask, f"{name}.png") for name in known}
    photo = parts["original"]
    found = []
    for name, draw in DRAWN.items():
        if name in parts:
            key = sha256(photo + parts[name]) + name
            picture = folder.add(partial(_draw, draw, photo, parts[name]), side=size, key=key)
            found.append([name, picture.source, picture.width, picture.height])
    return found


def _draw(draw: Callable[[np.ndarray, np.ndarray], np.ndarray], photo: bytes, part: bytes) -> Image.Image:
    return Image.fromarray(draw(decode_png(photo), decode_png(part)))


def outlined(photo: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The photo (H, W, 3) uint8 with the painted region tinted by its weight."""
    weight = region[..., None] / 255 * 0.6
    return np.rint(photo * (1 - weight) + np.array([0, 190, 255]) * weight).astype(np.uint8)


DRAWN = {
    "original": lambda photo, _: photo,
    "mask": overlay,
    "uncertainty": heat,
    "region": outlined,
    "result": lambda _, result: result,
}
"""Pictures of a card in their order, and how each is drawn from the photo and a member of an archive."""


def main(argv: Sequence[str]) -> int:
    """Run `cgddi review`."""
    parser = stage_parser("review", __doc__, required=False)
    parser.add_argument("--healthy", nargs="+", required=True, help="healthy archives (.tar) to review")
    parser.add_argument("--photos", nargs="+", default=[], help="masks archives they were made from, to show the masks")
    parser.add_argument("--canvases", nargs="+", default=[], help="canvases archives, to show what the triage proposes")
    parser.add_argument("--output", required=True, help="the HTML page to write")
    parser.add_argument("--verdicts", help="an earlier review.csv, whose verdicts and notes are shown and kept")
    parser.add_argument("--size", type=int, default=512, help="longer side in px of the pictures (default 512)")
    options = parser.parse_args(argv)
    planned = (options.spec or {}).get("reviewed", [])
    review = read_review(options.verdicts) if options.verdicts else planned
    count = write_page(options.healthy, options.output, options.photos, options.canvases, review, options.size)
    if options.spec:
        inputs = [Archive(path).manifest_path for path in (*options.healthy, *options.photos, *options.canvases)]
        record = record_for(options.spec, inputs, images=count)
        write_record(Path(options.output).with_name("record.json"), record, [options.output])
    print(f"{options.output}: {count} images. Open it in a browser; export review.csv and name it in the config.")
    return 0
