"""A small split for tests: procedural photos, canvases, mapped and semantic images in real archives, and its role file."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cgddi.core.archive import ArchiveWriter
from cgddi.core.images import LESION, SKIN, TONES, encode_png

CONCEPTS = {"nevus": False, "wart": False, "melanoma": True, "lymphoma": True}
SKIN_RGB = {"light": (230, 195, 175), "medium": (185, 140, 110), "dark": (95, 65, 50)}
LESION_RGB = {"nevus": (90, 60, 40), "wart": (200, 180, 150), "melanoma": (20, 10, 60), "lymphoma": (160, 20, 60)}


def picture(tone: str, concept: str, seed: int, side: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A photo uint8 (side, side, 3) with a coloured blob, and its five-class mask; concept "healthy" has no blob."""
    rng = np.random.default_rng(seed)
    ground = np.asarray(SKIN_RGB[tone], float) + np.kron(
        rng.normal(0, 14, (5, 5, 3)), np.ones((side // 5, side // 5, 1))
    )
    photo = ground + rng.normal(0, 3, (side, side, 3))
    y, x = np.mgrid[:side, :side]
    centre, axes = rng.uniform(0.35, 0.65, 2) * side, rng.uniform(0.1, 0.25, 2) * side
    blob = ((y - centre[0]) / axes[0]) ** 2 + ((x - centre[1]) / axes[1]) ** 2 < 1
    mask = np.full((side, side), SKIN, np.uint8)
    if concept != "healthy":
        photo[blob] = np.asarray(LESION_RGB[concept]) + rng.normal(0, 8, (int(blob.sum()), 3))
        mask[blob] = LESION
    return photo.clip(0, 255).astype(np.uint8), mask


def spec_file(folder: Path, **spec: object) -> str:
    """Path of a job's spec, written to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{spec['stage']}.spec.json"
    path.write_text(json.dumps(spec))
    return str(path)


@dataclass
class World:
    """Paths of a written world and the roles of its images."""

    root: Path
    roles: dict[str, str]
    facts: dict[str, tuple[str, str]]
    split: Path
    photos: list[str]
    healthy: list[str]
    mapped: list[str]
    semantic: list[str]

    def write_index(self) -> Path:
        """The index of the world, made by `cgddi index`."""
        from cgddi.stages.index.command import main

        path = self.root / "index.parquet"
        main(["--spec", spec_file(self.root, stage="index", split="toy"), *self.index_args(path)])
        return path

    def index_args(self, output: Path) -> list[str]:
        """Arguments of `cgddi index` after --spec."""
        parts = ["--splits", str(self.split), "--photos", *self.photos, "--healthy", *self.healthy]
        return [*parts, "--mapped", *self.mapped, "--semantic", *self.semantic, "--output", str(output)]


def make_world(
    root: Path, per_cell: int = 5, semantic_per: int = 3, generator_images: dict[str, list[str]] | None = None
) -> World:
    """Write a world of 4 concepts x 3 tones x `per_cell` photos.

    Per cell the last photo is for testing, the one before for validation. Canvases exist of every photo; lesions are mapped
    from the first photo of each cell onto canvases of all roles; generators learn from training images unless
    `generator_images` (concept -> ids) says otherwise.
    """
    roles, facts = {}, {}
    for concept in CONCEPTS:
        for tone in TONES:
            for k in range(per_cell):
                role = "test" if k == per_cell - 1 else "validation" if k == per_cell - 2 else "train"
                roles[f"{concept[:2]}{tone[0]}{k}"] = role
                facts[f"{concept[:2]}{tone[0]}{k}"] = (tone, concept)
    root.mkdir(parents=True, exist_ok=True)
    split = root / "toy.csv"
    with open(split, "w", newline="") as handle:
        csv.writer(handle).writerows([("image_id", "role"), *roles.items()])
    photos, healthy, mapped, semantic = root / "photos.tar", root / "canvases.tar", [], []
    canvases = {}
    with ArchiveWriter(photos, {"stage": "masks"}) as archive:
        for n, (image, (tone, concept)) in enumerate(facts.items()):
            photo, mask = picture(tone, concept, n)
            row = {**_row("real", image, concept, tone, CONCEPTS[concept]), "image_id": image, "has_mask": True}
            archive.add(image, {"png": encode_png(photo), "mask.png": encode_png(mask)}, row)
    with ArchiveWriter(healthy, {"stage": "canvases"}) as archive:
        for n, (image, (tone, _)) in enumerate(facts.items()):
            canvases[image], mask = picture(tone, "healthy", 1000 + n)
            row = {**_row("healthy", image, "healthy", tone, None), "canvas": image}
            archive.add(image, {"png": encode_png(canvases[image]), "mask.png": encode_png(mask)}, row)
    for number, (concept, malignant) in enumerate(CONCEPTS.items()):
        for tone in TONES:
            donor = f"{concept[:2]}{tone[0]}0"
            path = root / f"mapped_{donor}.tar"
            mapped.append(str(path))
            with ArchiveWriter(path, {"stage": "lesion_mapped"}) as archive:
                for n, canvas in enumerate(list(facts)[number::7]):
                    photo, _ = picture(facts[canvas][0], concept, 5000 + 100 * number + n)
                    row = _row("lesion_mapped", f"{donor}-{canvas}", concept, facts[canvas][0], malignant)
                    archive.add(canvas, {"png": encode_png(photo)}, {**row, "donor": donor, "canvas": canvas})
        path = root / f"semantic_{concept}.tar"
        semantic.append(str(path))
        learnt = [i for i, (_, c) in facts.items() if c == concept and roles[i] == "train"]
        with ArchiveWriter(path, {"stage": "semantic"}) as archive:
            archive.facts["generator_images"] = (generator_images or {}).get(concept, learnt)
            archive.facts["prior_images"] = [i for i in facts if roles[i] == "train"][:4]
            for n, canvas in enumerate([i for i in facts if roles[i] == "train"][number::9]):
                for t, tone in enumerate(TONES):
                    for k in range(semantic_per):
                        photo, _ = picture(tone, concept, 9000 + 1000 * number + 30 * n + 10 * t + k)
                        key = f"{canvas}-{tone}-{k}"
                        row = _row("semantic", f"{concept}-{key}", concept, tone, malignant)
                        row |= {
                            "canvas": canvas,
                            "generator": f"toy/{concept}",
                            "prompt": f"<{concept}>, {tone}",
                            "seed": n,
                        }
                        row["scores"] = {"presence": 1.5, "nearest": canvas}
                        archive.add(key, {"png": encode_png(photo)}, row)
    return World(root, roles, facts, split, [str(photos)], [str(healthy)], mapped, semantic)


def _row(kind: str, name: str, concept: str, tone: str, malignant: bool | None) -> dict:
    return {
        "id": f"{kind}/toy/{name}",
        "kind": kind,
        "cohort": "toy",
        "concept": concept,
        "tone": tone,
        "malignant": malignant,
    }
