"""FairDisCo's augmentation: views drawn on the CPU; on the device one pass crops, turns, mirrors and normalises a whole batch."""

import math
from functools import cache

import numpy as np
import torch
from torch.nn import functional

from cgddi.core.backbones import MEAN, STD
from cgddi.stages.classify.settings import ClassifySettings

CROP_AREA, CROP_RATIO, ROTATION, MIRRORING = (0.8, 1.0), (3 / 4, 4 / 3), 15.0, 0.5
"""RandomResizedCrop's share of the area and its aspect ratios, RandomRotation's degrees, RandomHorizontalFlip's probability."""


def side_to_keep(settings: ClassifySettings) -> int:
    """Side of the square from which the smallest crop that is drawn still has `resize_to` pixels."""
    return math.ceil(settings.resize_to / math.sqrt(CROP_AREA[0]))


def random_views(count: int, rng: np.random.Generator) -> np.ndarray:
    """What RandomResizedCrop, RandomRotation and RandomHorizontalFlip draw for each of `count` square pictures.

    The crop as torchvision's `get_params`: area and logarithm of the aspect ratio uniform, ten tries, else the whole picture.

    Returns:
        float32 (count, 6): centre x, y and half width, half height of the crop, in -1 to 1 over the picture; the angle in radians;
        1 or, mirrored, -1.
    """
    area = rng.uniform(*CROP_AREA, (count, 10))
    ratio = np.exp(rng.uniform(*np.log(CROP_RATIO), (count, 10)))
    sides = np.sqrt(np.stack([area * ratio, area / ratio], axis=-1))
    fits = (sides <= 1).all(axis=-1)
    half = sides[np.arange(count), fits.argmax(axis=1)]
    half[~fits.any(axis=1)] = 1
    centre = (1 - half) * rng.uniform(-1, 1, (count, 2))
    angle = np.radians(rng.uniform(-ROTATION, ROTATION, count))
    sign = np.where(rng.random(count) < MIRRORING, -1, 1)
    return np.concatenate([centre, half, angle[:, None], sign[:, None]], axis=1).astype(np.float32)


def augment(pictures: torch.Tensor, views: torch.Tensor, settings: ClassifySettings) -> torch.Tensor:
    """Crop, rotate, mirror and centre-crop a batch in one bilinear resampling, and normalise it.

    torchvision.transforms.v2 draws one view for a whole batch; here each picture has its own. Published code resamples twice, for
    the crop (bilinear) and the rotation (nearest); as there, what a rotation brings in from beyond the crop is black.

    Args:
        pictures: uint8 (B, 3, S, S).
        views: float32 (B, 6), see `random_views`.

    Returns:
        float32 (B, 3, image_size, image_size), normalised as ImageNet's.
    """
    size = settings.image_size
    if pictures.device.type == "cpu" and len(pictures) > 2:  # what is worked on stays in the processor's cache
        images = torch.empty(len(pictures), 3, size, size)
        for start in range(0, len(pictures), 2):
            few = slice(start, start + 2)
            images[few] = augment(pictures[few], views[few], settings)
        return images
    centre_x, centre_y, half_x, half_y, angle, sign = views[:, :, None].unbind(1)
    cos, sin = angle.cos(), angle.sin()
    # A point of the centre crop, in -1 to 1 over what the crop is resized to, is mirrored and then turned: a sum of its column's
    # part and its row's part, within the crop and, scaled and moved, within the picture (there one complex number for x and y).
    along = (torch.arange(size, device=views.device) * 2.0 + (1 - size)) / settings.resize_to
    column_x, row_x = along * (cos * sign), along * sin
    column_y, row_y = along * (-sin * sign), along * cos
    column = torch.complex(column_x * half_x + centre_x, column_y * half_y + centre_y)
    row = torch.complex(row_x * half_x, row_y * half_y)
    point = torch.view_as_real(column[:, None, :] + row[:, :, None])
    shown = functional.grid_sample(pictures.float(), point, padding_mode="border", align_corners=False)
    x, y = column_x[:, None, :] + row_x[:, :, None], column_y[:, None, :] + row_y[:, :, None]
    within = torch.maximum(x.abs_(), y.abs_()).le_(1)  # 1 in the crop, 0 beyond it
    return normalise(shown.mul_(within[:, None]))


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels 0 to 255 (B, 3, H, W), uint8 or float32, with ImageNet's mean and standard deviation; float32 is changed in place."""
    mean, std = _imagenet(pixels.device)
    return pixels.float().sub_(mean).div_(std)


@cache
def _imagenet(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over 0 to 255, (3, 1, 1): on a GPU a copy per batch would wait for it."""
    mean, std = (torch.tensor([255 * value for value in values]).view(3, 1, 1) for values in (MEAN, STD))
    return mean.to(device), std.to(device)
