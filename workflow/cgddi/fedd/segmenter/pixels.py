"""The pixels a segmenter learns from: stored maps beside human masks, and how pixels are drawn from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cgddi.core.images import TONES
from cgddi.fedd.features.files import FeatureFiles
from cgddi.fedd.segmenter import lowres
from cgddi.fedd.segmenter.ensemble import centred
from cgddi.fedd.study import Photos
from cgddi.job.gpu import send

REWEIGHT_RATE = 0.5
"""Variant reweight: step of group DRO's tone weights (Sagawa et al. 2020, algorithm 1)."""


@dataclass(frozen=True)
class Pixels:
    """Photos of one role: native maps, masks and tones.

    Args:
        maps: per block (N, C, h, w), float16, channels last. truth: class ids, int64 (N, size, size).
        tones: indices into TONES, int64 (N,).
    """

    maps: list[torch.Tensor]
    truth: torch.Tensor
    tones: torch.Tensor

    @property
    def size(self) -> int:
        """Side of the masks."""
        return self.truth.shape[1]

    def at(self, image: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features, float32 (P, sum of channels), and class ids (P,) of single pixels.

        Args:
            image: which photo (P,). place: row * size + column (P,).
        """
        x = lowres.sample(self.maps, image, place // self.size, place % self.size, self.size)
        return x, self.truth.flatten(1)[image, place]


def load_pixels(
    files: FeatureFiles, photos: Photos, blocks: Sequence[int], device: torch.device | str, centre: bool = False
) -> Pixels:
    """Maps of photos beside their masks.

    Args:
        files: feature files that hold every photo. photos: with masks. blocks: decoder blocks, in order.
        centre: take each channel less its mean over the photo (see `centred`).
    """
    maps = [[files.maps(name, [block])[block] for block in blocks] for name in photos.images]
    if centre:
        maps = [[centred(block_map) for block_map in each] for each in maps]
    return Pixels(
        maps=[block.to(device) for block in lowres.stack(maps)],
        truth=torch.from_numpy(photos.truth).to(device, torch.int64),
        tones=torch.tensor([TONES.index(row["skin_tone"]) for row in photos.rows], device=device),
    )


class PixelSampler:
    """Training pixels of each member, uniform over photos and places (DatasetDDPM), from the member's own generator."""

    def __init__(self, data: Pixels, generators: Sequence[torch.Generator]):
        self.data, self.generators, self.tones = data, generators, data.tones.cpu()
        self.tone_weights = torch.bincount(self.tones, minlength=len(TONES)) / len(self.tones)

    def reweigh(self, iou: torch.Tensor) -> None:
        """Group DRO's exponentiated-gradient ascent on the tones' weights; a tone without lesion pixels counts as average.

        Args:
            iou: lesion IoU by tone (3,).
        """
        loss = 1 - iou
        loss = torch.where(torch.isfinite(loss), loss, loss[torch.isfinite(loss)].mean())
        weights = self.tone_weights * torch.exp(REWEIGHT_RATE * loss)
        self.tone_weights = weights / weights.sum()

    def take(self, steps: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (steps, batch, E, channels) and class ids (steps, batch, E)."""
        chances = (self.tone_weights / torch.bincount(self.tones, minlength=len(TONES)).clamp_min(1))[self.tones]
        drawn = []
        for generator in self.generators:
            image = torch.multinomial(chances, steps * batch, replacement=True, generator=generator)
            drawn.append((image, torch.randint(self.data.size**2, (steps * batch,), generator=generator)))
        device = self.data.truth.device
        image, place = (send(torch.stack(part, 1).flatten(), device) for part in zip(*drawn, strict=True))
        x, y = self.data.at(image, place)
        shape = (steps, batch, len(self.generators))
        return x.view(*shape, -1), y.view(shape)


@dataclass(frozen=True)
class ValidationPixels:
    """Fixed pixels on which training is watched.

    Args:
        x: features (P, channels). y: class ids (P,). tone: indices into TONES (P,). weight: pixels that each stands for (P,).
    """

    x: torch.Tensor
    y: torch.Tensor
    tone: torch.Tensor
    weight: torch.Tensor


def validation_pixels(data: Pixels, per_image: int, seed: int) -> ValidationPixels:
    """From each photo as many pixels of each class it has, weighed so that sums estimate those over all its pixels.

    Lesions are 1.6% of the pixels; drawn evenly, too few would be among them to see how a segmenter does.
    """
    generator = torch.Generator().manual_seed(seed)
    image, place, weight = [], [], []
    for number, truth in enumerate(data.truth.cpu().flatten(1)):
        classes, counts = truth.unique(return_counts=True)
        for class_id, count in zip(classes.tolist(), counts.tolist(), strict=True):
            take = min(count, max(1, per_image // len(classes)))
            pixels = (truth == class_id).nonzero()[:, 0]
            place.append(pixels[torch.randperm(count, generator=generator)[:take]])
            image.append(torch.full((take,), number))
            weight.append(torch.full((take,), count / take))
    image, place = torch.cat(image).to(data.truth.device), torch.cat(place).to(data.truth.device)
    x, y = data.at(image, place)
    return ValidationPixels(x, y, data.tones[image], torch.cat(weight).to(x))
