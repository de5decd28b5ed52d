"""Images straight from the archives: byte ranges of the tars, decoded and augmented in worker processes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset, Sampler

from cgddi.core.archive import sha256
from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.stages.classify.augment import test_picture, train_picture
from cgddi.stages.classify.settings import ClassifySettings

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's normalisation."""


class ArchiveImages(Dataset):
    """Images of an index as uint8 tensors, read by byte range; the archives stay packed and images never pile up in memory.

    An item is asked for by (row, draw): `draw` seeds its augmentation, so a run is the same for any number of workers. A draw
    below zero gives the fixed test view.

    Args:
        rows: index rows with columns archive, start, size, label, tone_id.
        settings: sizes and augmentation.
        seed: of the augmentation.
    """

    def __init__(self, rows: pd.DataFrame, settings: ClassifySettings, seed: int):
        self.settings, self.seed = settings, seed
        names, places = np.unique(rows["archive"].to_numpy(dtype=object), return_inverse=True)
        self.archives = [str(name) for name in names]
        self.place = np.stack([places, rows["start"].to_numpy(), rows["size"].to_numpy()], axis=1).astype(np.int64)
        self.label = torch.tensor(rows["label"].to_numpy(dtype=np.int64))
        self.tone = torch.tensor(rows["tone_id"].to_numpy(dtype=np.int64))
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.place)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}

    def __del__(self) -> None:
        for handle in getattr(self, "_open", {}).values():
            os.close(handle)

    def read(self, row: int) -> bytearray:
        """PNG bytes of a row.

        Raises:
            UserError: the archive ends before them.
        """
        archive, start, size = (int(value) for value in self.place[row])
        if archive not in self._open:
            if len(self._open) >= 256:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[archive] = os.open(self.archives[archive], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        data = bytearray(size)
        if os.preadv(self._open[archive], [data], start) != size:
            raise UserError(f"{self.archives[archive]}: ends before an image the index names. Delete it and run again.")
        return data

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        row, draw = item
        picture = decode(self.read(row))
        if draw < 0:
            pixels = test_picture(picture, self.settings)
        else:
            pixels = train_picture(picture, self.settings, np.random.default_rng((self.seed, draw)))
        return torch.from_numpy(pixels), self.label[row], self.tone[row], row


def decode(png: bytes | bytearray) -> Image.Image:
    """RGB picture of PNG bytes."""
    picture = Image.open(io.BytesIO(png))
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")


class InOrder(Sampler):
    """Every row once, in order, in its test view."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((row, -1) for row in range(self.count))


def loader(
    images: ArchiveImages, sampler: Sampler, batch_size: int, workers: int, drop_last: bool = False
) -> DataLoader:
    """Batches of (pixels uint8 (B, 3, H, W), label (B,), tone (B,), row (B,)); workers decode ahead of the training process."""
    return DataLoader(
        images,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def to_input(pixels: torch.Tensor, device: torch.device, channels_last: bool) -> torch.Tensor:
    """uint8 (B, 3, H, W) -> normalised float32 on the device."""
    pixels = pixels.to(device, non_blocking=True)
    if channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    scale = 1 / (torch.tensor(STD, device=device)[:, None, None] * 255)
    shift = -torch.tensor(MEAN, device=device)[:, None, None] / torch.tensor(STD, device=device)[:, None, None]
    if device.type != "cpu":
        return pixels.float().mul_(scale).add_(shift)
    out = torch.empty(pixels.shape)
    for place, picture in enumerate(pixels):  # one picture at a time stays in the processor's cache
        out[place].copy_(picture).mul_(scale).add_(shift)
    return out


def verify(rows: pd.DataFrame, threads: int) -> None:
    """Check that every image is in its archive, is what the index says (sha256) and can be opened.

    Args:
        rows: index rows. threads: archives read at a time.

    Raises:
        InvalidInput: names every image that is not.
    """
    groups = [(archive, part) for archive, part in rows.groupby("archive", sort=True)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        problems = [problem for found in pool.map(lambda group: _faults(*group), groups) for problem in found]
    if problems:
        raise InvalidInput(problems)


def _faults(path: str, rows: pd.DataFrame) -> list[Problem]:
    """What is wrong with the images of one archive."""
    remedy = "Delete the archive and run the workflow again."
    found = []
    try:
        with open(path, "rb") as handle:
            for row in rows.itertuples(index=False):
                handle.seek(row.start)
                data = handle.read(row.size)
                if len(data) != row.size or sha256(data) != row.sha256:
                    found.append(Problem(path, f"image {row.id} is not what the index says (sha256)", remedy))
                    continue
                try:
                    Image.open(io.BytesIO(data)).close()
                except (UnidentifiedImageError, OSError) as error:
                    found.append(Problem(path, f"image {row.id} cannot be opened ({error})", remedy))
    except OSError as error:
        found.append(Problem(path, f"archive cannot be read ({error.strerror})", "Run the workflow again."))
    return found
