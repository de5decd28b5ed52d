"""The pixels a segmenter learns from: stored maps, masks, and how pixels are drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cgddi.core.errors import InvalidInput, Problem
from cgddi.core.images import LESION, MARKER, SKIN, TONES
from cgddi.fedd import lowres
from cgddi.fedd.features_io import FeatureFiles
from cgddi.fedd.segmenter import centred


@dataclass(frozen=True)
class Pixels:
    """Photos of one role: native maps, masks and tones.

    Args:
        maps: per block (N, C, h, w), float16, channels last.
        truth: class ids, int64 (N, size, size).
        tones: indices into TONES, int64 (N,).
        images: ids.
    """

    maps: list[torch.Tensor]
    truth: torch.Tensor
    tones: torch.Tensor
    images: tuple[str, ...]

    @property
    def size(self) -> int:
        """Side of the masks."""
        return self.truth.shape[1]

    def features(self, image: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Features of single pixels, float32 (P, sum of channels)."""
        return lowres.sample(self.maps, image, row, column, self.size)


def load_pixels(
    files: FeatureFiles,
    rows: Sequence[Mapping[str, Any]],
    truth: np.ndarray,
    blocks: Sequence[int],
    device: torch.device | str,
    centre: bool = False,
) -> Pixels:
    """Maps of the rows' photos beside their masks.

    Args:
        files: feature files that hold every photo.
        rows: image_id and skin_tone of each. truth: class ids (N, size, size). blocks: decoder blocks, in order.
        centre: take each channel less its mean over the photo (see `centred`).

    Raises:
        InvalidInput: features that are NaN or infinite, or of other shapes than the rest; every photo is named.
    """
    found, problems = [], []
    for row in rows:
        maps = list(files.maps(row["image_id"], blocks).values())
        if not all(torch.isfinite(block).all() for block in maps):
            message = "its features hold values that are not numbers (NaN or infinite)"
            remedy = "Look at the photo; make the features again, in single precision if the device ran in half."
            problems.append(Problem(f"image {row['image_id']}", message, remedy))
        elif found and [block.shape for block in maps] != [block.shape for block in found[0]]:
            message = "its features have other shapes than the other photos'"
            problems.append(Problem(f"image {row['image_id']}", message, "Make all features with one model."))
        found.append([centred(block) for block in maps] if centre else maps)
    if problems:
        raise InvalidInput(problems)
    return Pixels(
        maps=[block.to(device) for block in lowres.stack(found)],
        truth=torch.from_numpy(truth).to(device, torch.int64),
        tones=torch.tensor([TONES.index(row["skin_tone"]) for row in rows], device=device),
        images=tuple(row["image_id"] for row in rows),
    )


def missing_maps(files: FeatureFiles, rows: Sequence[Mapping[str, Any]], blocks: Sequence[int]) -> list[Problem]:
    """Photos without the features a segmenter needs."""
    problems = []
    for row in rows:
        lacking = sorted(set(blocks) - set(files.blocks(row["image_id"])))
        if lacking:
            message = f"no map of block {', '.join(map(str, lacking))} in the feature files"
            remedy = "Run `cgddi fedd features` for this photo and these blocks."
            problems.append(Problem(f"image {row['image_id']}", message, remedy))
    return problems


@dataclass(frozen=True)
class Held:
    """Fixed validation pixels.

    Args:
        x: features (P, channels). y: class ids (P,). tone: indices into TONES (P,).
        weight: pixels that each stands for (P,).
    """

    x: torch.Tensor
    y: torch.Tensor
    tone: torch.Tensor
    weight: torch.Tensor


def held_pixels(data: Pixels, per_image: int, seed: int) -> Held:
    """Validation pixels: from each photo as many of each class it has, weighed so that sums estimate those over all its pixels.

    Lesions are 1.6% of the pixels; drawn evenly, too few would be among them to see how a segmenter does.

    Args:
        per_image: pixels per photo, about. seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    image, place, weight = [], [], []
    for number, truth in enumerate(data.truth.cpu().flatten(1)):
        classes, counts = truth.unique(return_counts=True)
        for class_id, count in zip(classes.tolist(), counts.tolist(), strict=True):
            pixels = (truth == class_id).nonzero()[:, 0]
            take = min(count, max(1, per_image // len(classes)))
            place.append(pixels[torch.randperm(count, generator=generator)[:take]])
            image.append(torch.full((take,), number))
            weight.append(torch.full((take,), count / take))
    image, place = torch.cat(image).to(data.truth.device), torch.cat(place).to(data.truth.device)
    x = data.features(image, place // data.size, place % data.size)
    y = data.truth.flatten(1)[image, place]
    return Held(x, y, data.tones[image], torch.cat(weight).to(x))


def skin_statistics(data: Pixels) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel over each photo's skin (over the whole photo where it has none).

    Returns:
        Two float32 tensors (N, sum of channels).
    """
    means, deviations = [], []
    for block in data.maps:
        skin = (data.truth == SKIN).float()[:, None]
        share = torch.nn.functional.adaptive_avg_pool2d(skin, block.shape[2:])
        inside = (share > 0.5).float().flatten(2)
        inside = torch.where(inside.sum(2, keepdim=True) < 2, torch.ones_like(inside), inside)
        mean, deviation = [], []
        for values, weight in zip(block, inside, strict=True):  # one photo at a time: float32 copies stay small
            values = values.float().flatten(1)
            total = weight.sum()
            mean.append((values * weight).sum(1) / total)
            deviation.append((((values - mean[-1][:, None]) ** 2 * weight).sum(1) / total).sqrt())
        means.append(torch.stack(mean))
        deviations.append(torch.stack(deviation))
    return torch.cat(means, 1), torch.cat(deviations, 1).clamp_min(1e-4)


ON_SKIN = (LESION, MARKER, SKIN)
"""Classes whose features carry the skin's tone."""
