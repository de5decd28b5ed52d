"""What a job of the study reads, photos with their human masks, and what a run leaves: counts, probabilities, pictures."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cgddi.core.archive import DISTRIBUTIONS, canonical, csv_text, file_sha256, installed_versions
from cgddi.core.errors import Problem, UserError, refuse
from cgddi.core.images import CLASSES, LESION, TONES, mask_to_size, photo_to_size, read_photo
from cgddi.core.masks import read_mask
from cgddi.core.metrics import PIXEL_COUNTS, class_counts
from cgddi.core.seeds import seed_for
from cgddi.diffusion.weights import to_bytes
from cgddi.fedd.features.files import FeatureFiles
from cgddi.job.checkpoint import Checkpoint

Row = Mapping[str, Any]
"""A photo in a spec: image_id, file, mask, skin_tone, and malignant where it is learnt from."""

ROLES = ("train", "validation", "test")
IOU_COLUMNS = ("image_id", "tone", "malignant", "class", *PIXEL_COUNTS)
FURTHER = "further"
"""A further role that a study may have: the photos it leaves, for a larger test."""
PREDICTION_COLUMNS = ("image_id", "tone", "malignant", "role", "block", "seed", "probability")
PICTURES_PER_TONE = 2


def study_checkpoint(
    state: str | Path | None, stage: str, spec: Mapping[str, Any], features: Iterable[str | Path] = ()
) -> Checkpoint:
    """The checkpoint of one of the study's trainings, named by its spec and its feature files: by the record beside each, which
    says what it was made from, or where there is none by its bytes."""
    records = [record if (record := Path(path).with_suffix(".json")).is_file() else path for path in features]
    planned = dict(getattr(spec, "planned", spec))
    return Checkpoint(state, stage, [planned, sorted(map(file_sha256, records)), installed_versions(DISTRIBUTIONS)])


# ---- photos in -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photos:
    """Photos of one role, in memory: the study has at most a few hundred of them.

    Args:
        rows: of each. pixels: uint8 (N, 3, size, size), RGB. truth: class ids, uint8 (N, size, size); None when not asked for.
    """

    rows: tuple[Row, ...]
    pixels: np.ndarray
    truth: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def images(self) -> list[str]:
        """Their ids."""
        return [row["image_id"] for row in self.rows]


def read_photos(
    rows: Sequence[Row], size: int, crop: str, id_map: Mapping[str, int] | None = None, masks: bool = True
) -> Photos:
    """Read photos and, when `masks`, their human masks.

    Args:
        rows: the photos. size: side of the result in pixels.
        crop: "resize" or "square", as the cohort's masks stage has it.
        id_map: value in a mask file -> class id, as in that stage's settings.

    Raises:
        InvalidInput: photos or masks that cannot be read or do not fit, all in one report.
    """
    problems: list[Problem] = []
    pixels = np.zeros((len(rows), 3, size, size), np.uint8)
    truth = np.zeros((len(rows), size, size), np.uint8) if masks else None
    for place, row in enumerate(tqdm(rows, desc="read photos", unit="photo")):
        try:
            photo = read_photo(row["file"])[0]
            pixels[place] = photo_to_size(photo, size, crop).transpose(2, 0, 1)
            if truth is not None:
                truth[place] = _human_mask(row, photo.size, size, crop, id_map)
        except UserError as error:
            message, _, remedy = str(error).rpartition(". ")
            problems.append(
                Problem(f"image {row['image_id']}", message or str(error), remedy or "Fix the image sheet.")
            )
    refuse(problems)
    return Photos(tuple(rows), pixels, truth)


def _human_mask(row: Row, photo_size: tuple[int, int], size: int, crop: str, id_map) -> np.ndarray:
    if not row.get("mask"):
        raise UserError(
            "has no human mask. Give it one in the image sheet, or lower fedd.subsets so that it is not drawn"
        )
    mask = mask_to_size(read_mask(row["mask"], id_map), photo_size, size, crop)
    if mask is None:
        raise UserError(f"{row['mask']}: the mask does not have the photo's shape. Pair each mask with its own photo.")
    return mask


def without_covered(photos: Photos) -> tuple[Photos, list[dict[str, str]]]:
    """Training photos less those that are lesion all over (nothing tells it from skin there), and a line on each of these."""
    covered = (photos.truth == LESION).all((1, 2))
    if covered.all():
        raise UserError("every training mask is lesion all over. Look at masks.id_map and the masks.")
    reason = "the mask is lesion all over"
    left_out = [{"image_id": photos.images[place], "reason": reason} for place in np.flatnonzero(covered)]
    for line in left_out:
        print(f"image {line['image_id']} takes no part in training: {reason}", file=sys.stderr)
    rows = tuple(row for row, all_lesion in zip(photos.rows, covered, strict=True) if not all_lesion)
    return Photos(rows, photos.pixels[~covered], photos.truth[~covered]), left_out


def open_study(features: Sequence[str | Path], spec: Mapping[str, Any]) -> FeatureFiles:
    """The feature files of a job that learns from them, once they are known to go with its photos.

    Raises:
        UserError: features of another size, timestep or crop than the spec's, or a role without photos.
        InvalidInput: photos with two roles, or twice in one.
    """
    files = FeatureFiles(features)
    files.require("the study", **{name: spec[name] for name in ("size", "timestep", "crop") if name in spec})
    check_roles(spec)
    return files


def roles_of(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Roles of the photos in a spec."""
    return (*ROLES, FURTHER) if spec.get(FURTHER) else ROLES


def check_roles(spec: Mapping[str, Any]) -> None:
    """Refuse a study that tests on a photo it learns from, or that lacks a role.

    Raises:
        UserError: a role is empty. InvalidInput: photos with two roles, or twice in one.
    """
    problems = []
    seen: dict[str, str] = {}
    for role in roles_of(spec):
        if not spec[role]:
            raise UserError(f"--spec has no {role} photos. Give the spec the workflow wrote.")
        for row in spec[role]:
            if row["image_id"] in seen:
                message = f"is listed for {role} and also for {seen[row['image_id']]}"
                problems.append(Problem(f"image {row['image_id']}", message, "A photo has one role; remove the other."))
            seen[row["image_id"]] = role
    refuse(problems)


def check_both_kinds(rows: Sequence[Row], subset: str) -> None:
    """Refuse training photos that are all malignant or all benign: no classifier learns from them."""
    kinds = {bool(row["malignant"]) for row in rows}
    if len(kinds) < 2:
        raise UserError(
            f"all training photos of subset {subset} are {'malignant' if True in kinds else 'benign'}; a classifier learns from "
            "both kinds. Raise fedd.subsets.train_per_tone, or set fedd.subsets.balance: tone_and_malignancy."
        )


def tone_counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Photos by tone: all, and malignant ones where that is told."""
    tones = Counter(row["skin_tone"] for row in rows)
    malignant = Counter(row["skin_tone"] for row in rows if row.get("malignant"))
    told = all("malignant" in row for row in rows)
    return {tone: {"images": tones[tone]} | ({"malignant": malignant[tone]} if told else {}) for tone in sorted(tones)}


# ---- results out -----------------------------------------------------------------------------------------------------


def iou_csv(rows: Sequence[Row], predicted: np.ndarray, truth: np.ndarray) -> str:
    """One line per image and class (see `IOU_COLUMNS`), ordered by image; predicted, truth: class ids (N, H, W)."""
    lines = [
        {**_head(row), "class": name, **dict(zip(PIXEL_COUNTS, counts.tolist(), strict=True))}
        for row, by_class in zip(rows, class_counts(predicted, truth), strict=True)
        for name, counts in zip(CLASSES, by_class, strict=True)
    ]
    return csv_text(IOU_COLUMNS, sorted(lines, key=lambda line: line["image_id"]))


def predictions_csv(lines: Iterable[Mapping[str, Any]]) -> str:
    """One line per image, block and seed (see `PREDICTION_COLUMNS`), ordered by role, block, seed and image.

    Args:
        lines: an image's row with role, block (None for a baseline), seed and probability.
    """
    table = [
        {**_head(line), "role": line["role"], "block": "" if line["block"] is None else line["block"]}
        | {"seed": line["seed"], "probability": f"{line['probability']:.6f}"}
        for line in lines
    ]
    table.sort(key=lambda line: (line["role"], str(line["block"]).zfill(3), line["seed"], line["image_id"]))
    return csv_text(PREDICTION_COLUMNS, table)


def _head(row: Row) -> dict[str, Any]:
    malignant = row.get("malignant")
    known = "" if malignant is None else str(bool(malignant)).lower()
    return {"image_id": row["image_id"], "tone": row["skin_tone"], "malignant": known}


def pictures(photos: Photos, predicted: np.ndarray, uncertainty: np.ndarray | None, seed: int) -> bytes:
    """A few test images with their masks, as the bytes of a safetensors file: the first two of each tone by a hash of their names.

    Tensors by `<image_id>/`: photo uint8 (H, W, 3), truth and predicted uint8 (H, W) class ids, uncertainty uint8 (H, W) where
    there is one (255 = the ensemble is split as far as it can be).

    Args:
        photos: with their masks. predicted: class ids (N, H, W). uncertainty: float (N, H, W) in 0..1, or None.
    """
    ranked = sorted(range(len(photos)), key=lambda place: seed_for(seed, "fedd pictures", photos.images[place]))
    tensors, shown = {}, []
    for tone in TONES:
        for place in [p for p in ranked if photos.rows[p]["skin_tone"] == tone][:PICTURES_PER_TONE]:
            name, row = photos.images[place], photos.rows[place]
            parts = {"photo": photos.pixels[place].transpose(1, 2, 0), "truth": photos.truth[place]}
            parts["predicted"] = predicted[place]
            if uncertainty is not None:
                parts["uncertainty"] = np.round(np.clip(uncertainty[place], 0, 1) * 255)
            for part, values in parts.items():
                tensors[f"{name}/{part}"] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.uint8))
            shown.append({"image_id": name, "tone": tone, "malignant": row.get("malignant")})
    return to_bytes(tensors, {"cgddi": canonical({"images": shown})})
