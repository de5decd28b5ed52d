"""Pictures of an index, decoded once, and FairDisCo's augmentation of whole batches on the device."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms import v2

from cgddi.core.archive import read_member, sha256
from cgddi.core.backbones import MEAN, STD
from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.stages.classify.settings import ClassifySettings

CROP_AREA, CROP_RATIO, ROTATION, MIRRORING = (0.8, 1.0), (3 / 4, 4 / 3), 15.0, 0.5
"""RandomResizedCrop's share of the area and its aspect ratios, RandomRotation's degrees, RandomHorizontalFlip's probability."""

MEMORY = 8 << 30
"""Bytes of decoded pictures that are kept: 32,000 of 287 px."""


class Pictures:
    """Pictures of index rows as one uint8 array, decoded at their first use and kept as far as `memory` allows.

    Each is read when it is first drawn (or by `load`); where not all fit, those drawn first are kept and the others are decoded
    again and again, by as many threads as the job has. What is read is checked against the index (sha256).

    Args:
        rows: index rows with columns id, archive, start, size, sha256.
        settings: sizes.
        fixed: the test view (shorter side to `resize_to`, centre crop to `image_size`); else a square from which the smallest
            crop that `random_views` draws still has `resize_to` pixels, unless the archives' own pictures are smaller.
        threads: that read and decode.
        memory: bytes.
    """

    def __init__(self, rows: pd.DataFrame, settings: ClassifySettings, fixed: bool, threads: int, memory: int = MEMORY):
        self.rows = rows[["id", "archive", "start", "size", "sha256"]].to_numpy(dtype=object)
        self.settings, self.fixed = settings, fixed
        self.side = settings.image_size if fixed else self._largest(rows)
        self.pool = ThreadPoolExecutor(max(1, threads))
        room = min(len(rows), memory // (3 * self.side**2))
        self.kept = torch.empty((room, 3, self.side, self.side), dtype=torch.uint8)
        self.place = np.full(len(rows), -1)
        self.used = 0

    def _largest(self, rows: pd.DataFrame) -> int:
        """Side of the square that training pictures are kept at; pictures of one archive are of one size."""
        native = 1
        for row in rows.drop_duplicates("archive").itertuples(index=False):
            with suppress(OSError, UserError):  # named when it is read
                data = io.BytesIO(read_member(row.archive, row.start, row.size))
                with Image.open(data) as picture:
                    native = max(native, *picture.size)
        return min(native, math.ceil(self.settings.resize_to / math.sqrt(CROP_AREA[0])))

    def load(self) -> Pictures:
        """Read all pictures now, if they fit in memory.

        Raises:
            InvalidInput: names every picture that is not what the index says.
        """
        if len(self.kept) == len(self.rows):
            self._read(np.flatnonzero(self.place < 0))
        return self

    def __getitem__(self, places: np.ndarray) -> torch.Tensor:
        """Pictures at places (B,): uint8 (B, 3, side, side)."""
        missing = np.unique(places[self.place[places] < 0])
        strange = self._read(missing) if len(missing) else {}
        if not strange:
            return self.kept[torch.from_numpy(self.place[places])]
        return torch.stack([strange[p] if p in strange else self.kept[self.place[p]] for p in places.tolist()])

    def _read(self, places: np.ndarray) -> dict[int, torch.Tensor]:
        """Decode pictures: kept while there is room, and those that are not by place."""
        problems, strange = [], {}
        for place, found in zip(places.tolist(), self.pool.map(self._decode, places), strict=True):
            if isinstance(found, Problem):
                problems.append(found)
            elif self.used < len(self.kept):
                self.kept[self.used], self.place[place] = found, self.used
                self.used += 1
            else:
                strange[place] = found
        if problems:
            raise InvalidInput(problems)
        return strange

    def _decode(self, place: int) -> torch.Tensor | Problem:
        name, archive, start, size, digest = self.rows[place]
        remedy = "Delete the archive and run the workflow again."
        try:
            data = read_member(archive, start, size)
            if sha256(data) != digest:
                return Problem(archive, f"image {name} is not what the index says (sha256)", remedy)
            with Image.open(io.BytesIO(data)) as picture:
                picture = picture.convert("RGB")
        except UserError:
            return Problem(archive, f"the archive ends before image {name}", remedy)
        except FileNotFoundError:
            return Problem(archive, "the archive is missing", remedy)
        except OSError as error:
            return Problem(archive, f"image {name} cannot be read ({error})", remedy)
        if self.fixed:
            picture = v2.functional.resize(picture, [self.settings.resize_to])
            picture = v2.functional.center_crop(picture, [self.side, self.side])
        elif picture.size != (self.side, self.side):
            picture = picture.resize((self.side, self.side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(picture).transpose(2, 0, 1))

    def batches(self, places: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Pictures of batch after batch, each read while the one before it is worked on; in page-locked memory beside a GPU."""

        def read(batch: np.ndarray) -> torch.Tensor:
            return self[batch].pin_memory() if torch.cuda.is_available() else self[batch]

        with ThreadPoolExecutor(1) as ahead:
            coming = [ahead.submit(read, batch) for batch in places[:2]]
            for number in range(len(places)):
                yield coming.pop(0).result()
                if number + 2 < len(places):
                    coming.append(ahead.submit(read, places[number + 2]))


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
        settings: sizes.

    Returns:
        float32 (B, 3, image_size, image_size), normalised as ImageNet's.
    """
    if pictures.device.type == "cpu" and len(pictures) > 8:  # a few at a time stay in the processor's cache
        parts = zip(pictures.split(8), views.split(8), strict=True)
        return torch.cat([augment(*part, settings) for part in parts])
    centre, half, angle, sign = views[:, None, None, 0:2], views[:, None, None, 2:4], views[:, 4], views[:, 5]
    cos, sin, nothing = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # A point of the result, mirrored, then turned: in -1 to 1 over the crop, of which the centre crop shows the middle.
    turn = torch.stack([cos * sign, sin, nothing, -sin * sign, cos, nothing], dim=1).view(-1, 2, 3)
    size = (len(pictures), 3, settings.image_size, settings.image_size)
    point = functional.affine_grid(turn * (settings.image_size / settings.resize_to), size, align_corners=False)
    within = (point.abs().amax(dim=-1) <= 1)[:, None]
    point.mul_(half).add_(centre)
    shown = functional.grid_sample(pictures.float(), point, padding_mode="border", align_corners=False)
    return normalise(shown.mul_(within))


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels 0 to 255 (B, 3, H, W), uint8 or float32, with ImageNet's mean and standard deviation; float32 is changed in place."""
    mean, std = ([255 * value for value in values] for values in (MEAN, STD))
    return v2.functional.normalize(pixels.float(), mean, std, inplace=True)
