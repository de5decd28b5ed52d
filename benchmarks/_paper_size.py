"""A data set of the paper's size as archives: 309 canvases, 80,427 mapped and 185,400 semantic images, 656 photos.

The pictures of synthetic images repeat (36 of them), so that it is made in a minute or two; ids, lineage, hashes and byte
ranges are those of real archives. No two photos are equal.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from cgddi.core.archive import ArchiveWriter
from cgddi.core.images import TONES, encode_png

PHOTOS, DONORS, CANVASES, MAPPED, CONCEPTS, REPEATS = 656, 334, 309, 80_427, 40, 5
IMAGES = CANVASES + MAPPED + CANVASES * CONCEPTS * len(TONES) * REPEATS
"""266,136 synthetic images."""


def pictures(side: int) -> dict[tuple[str, int, int], np.ndarray]:
    """(tone, label, variant) -> picture of a plain skin with a blob, darker where malignant."""
    rng = np.random.default_rng(0)
    skin = {"light": (230, 195, 175), "medium": (185, 140, 110), "dark": (95, 65, 50)}
    y, x = np.mgrid[:side, :side] / side - 0.5
    found = {}
    for tone, colour in skin.items():
        for label in (0, 1):
            for variant in range(6):
                radius = rng.uniform(0.2, 0.35)
                photo = np.broadcast_to(np.asarray(colour, float), (side, side, 3)).copy()
                photo[np.hypot(x, y) < radius] *= 0.4 if label else 0.75
                found[tone, label, variant] = photo.astype(np.uint8)
    return found


def write(root: Path, share: float = 1.0, side: int = 32) -> list[str]:
    """Write the archives and the split's roles below `root`; returns the arguments of `cgddi index` after --spec and --output.

    Args:
        share: of every number of images, for tests. side: of the pictures, in pixels.
    """
    photos, donors, canvases = (max(60, round(n * share)) for n in (PHOTOS, DONORS, CANVASES))
    concepts = max(4, round(CONCEPTS * share))
    plain = pictures(side)
    png = {key: encode_png(photo) for key, photo in plain.items()}
    names = [f"p{n:05d}" for n in range(photos)]
    tones = {name: TONES[n % 3] for n, name in enumerate(names)}
    concept = {name: n // 3 % concepts for n, name in enumerate(names)}
    roles = {name: {0: "test", 1: "test", 2: "validation"}.get(n % 10, "train") for n, name in enumerate(names)}
    usable = [name for name in names if roles[name] == "train"]
    donors, canvases = usable[:donors], usable[:canvases]

    def row(kind: str, name: str, which: int | None, tone: str) -> dict:
        about = {"id": f"{kind}/big/{name}", "kind": kind, "cohort": "big", "tone": tone}
        return {
            **about,
            "concept": "healthy" if which is None else f"c{which:02d}",
            "malignant": None if which is None else bool(which % 4 == 0),
        }

    def own_photo(name: str, n: int) -> dict[str, bytes]:
        photo = plain[tones[name], int(concept[name] % 4 == 0), n % 6].copy()
        photo[0, 0] = (n % 256, n // 256, 7)
        return {"png": encode_png(photo)}

    def picture(which: int | None, tone: str, n: int) -> dict[str, bytes]:
        return {"png": png[tone, int(which is not None and which % 4 == 0), n % 6]}

    with open(root / "big.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([("image_id", "role"), *roles.items()])
    with ArchiveWriter(root / "photos.tar", {"stage": "masks", "versions": {}}) as archive:
        for n, name in enumerate(names):
            archive.add(
                name,
                own_photo(name, n),
                {**row("real", name, concept[name], tones[name]), "image_id": name},
            )
    with ArchiveWriter(root / "canvases.tar", {"stage": "canvases", "versions": {}}) as archive:
        for n, name in enumerate(canvases):
            archive.add(
                name, picture(None, tones[name], n), {**row("healthy", name, None, tones[name]), "canvas": name}
            )
    mapped, left = [], round(MAPPED * share)
    for d, donor in enumerate(donors):
        here = min(len(canvases), -(-left // (len(donors) - d)))
        left -= here
        mapped.append(str(root / f"mapped/{donor}.tar"))
        with ArchiveWriter(mapped[-1], {"stage": "lesion_mapped", "versions": {}}) as archive:
            for n, canvas in enumerate(canvases[:here]):
                made = row("lesion_mapped", f"{donor}-{canvas}", concept[donor], tones[canvas])
                archive.add(
                    canvas, picture(concept[donor], tones[canvas], n), {**made, "donor": donor, "canvas": canvas}
                )
    semantic = []
    for which in range(concepts):
        semantic.append(str(root / f"semantic/c{which:02d}.tar"))
        with ArchiveWriter(semantic[-1], {"stage": "semantic", "versions": {}}) as archive:
            archive.facts["generator_images"] = [name for name in usable if concept[name] == which]
            for canvas in canvases:
                for tone in TONES:
                    for repeat in range(REPEATS):
                        key = f"{canvas}-{tone}-{repeat}"
                        made = {
                            **row("semantic", f"c{which:02d}-{key}", which, tone),
                            "canvas": canvas,
                            "generator": f"big/c{which:02d}",
                        }
                        archive.add(key, picture(which, tone, repeat), made)
    parts = [
        "--splits",
        str(root / "big.csv"),
        "--photos",
        str(root / "photos.tar"),
        "--healthy",
        str(root / "canvases.tar"),
    ]
    return [*parts, "--mapped", *mapped, "--semantic", *semantic]
