"""The features of a batch of photos at one timestep: maps, pooled vectors and cluster pictures, from one forward pass each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.core.images import photo_to_size, read_photo
from cgddi.core.seeds import seed_for
from cgddi.fedd.backbones import FeatureBackbone
from cgddi.fedd.features_io import ImageFeatures
from cgddi.fedd.pooling import cluster, pool


def read_batch(rows: Sequence[Mapping[str, Any]], size: int, crop: str) -> dict[str, np.ndarray]:
    """Photos at the model's size, image id -> (size, size, 3) uint8.

    Args:
        rows: image_id and file of each photo.
        size: side in px.
        crop: "resize" or "square" (see `core.images`), as the masks of the cohort are made.

    Raises:
        InvalidInput: every photo that is named twice or cannot be read, in one list.
    """
    photos: dict[str, np.ndarray] = {}
    problems = []
    for row in rows:
        name = row["image_id"]
        try:
            if name in photos:
                raise UserError("it is named twice. Name it once.")
            photos[name] = np.array(photo_to_size(read_photo(row["file"])[0], size, crop))  # torch wants it writable
        except UserError as error:
            message, _, remedy = str(error).rpartition(". ")
            problems.append(Problem(f"image {name}", message or str(error), remedy or "Mend or remove its row."))
    if problems:
        raise InvalidInput(problems)
    return photos


def noise_for(seed: int, image_id: str, timestep: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """The noise of one photo at one timestep: by name, so it does not matter which photos stand beside it, or in what order.

    Args:
        seed: the project's seed.
        image_id: the photo.
        timestep: as it is used (1000 is 999).
        shape: (C, h, w) of the UNet's input.
    """
    draw = torch.Generator().manual_seed(seed_for(seed, "fedd", image_id, timestep))
    return torch.randn(shape, generator=draw)


def extract(
    backbone: FeatureBackbone,
    photos: Mapping[str, np.ndarray],
    seed: int,
    timestep: int,
    maps: Sequence[int],
    pooled: Sequence[int],
    showcase: Collection[str] = (),
    batch: int = 8,
) -> dict[str, ImageFeatures]:
    """Features of photos. On a GPU it computes in float16, and again in float32 where that overflowed.

    Args:
        backbone: the model.
        photos: image id -> (H, W, 3) uint8, all of one size the model takes.
        seed: the project's seed.
        timestep: 0 to 1000.
        maps: decoder blocks whose native maps are kept.
        pooled: decoder blocks whose pooled vectors are kept.
        showcase: image ids that get cluster pictures of all these blocks.
        batch: photos per forward pass on a GPU. A CPU takes them one by one: as fast there, and no bit of a photo's
            features then depends on its neighbours.

    Raises:
        UserError: blocks the model lacks, or a size it does not take.
        InvalidInput: the photos whose features are not finite.
    """
    backbone.check_blocks([*maps, *pooled])
    names = list(photos)
    shape = backbone.input_shape(photos[names[0]].shape[0]) if names else (0, 0, 0)
    timestep, on_gpu = backbone.clip(timestep), backbone.on_gpu
    features: dict[str, ImageFeatures] = {}
    problems: list[Problem] = []
    chunk = batch if on_gpu else 1
    for first in tqdm(range(0, len(names), chunk), desc=f"features t={timestep}", unit="batch"):
        part = names[first : first + chunk]
        pixels = np.stack([photos[name] for name in part])
        noise = torch.stack([noise_for(seed, name, timestep, shape) for name in part])
        for half in (True, False) if on_gpu else (False,):
            collected = _Collected(part, seed, timestep, maps, pooled, showcase)
            backbone.run(pixels, noise, timestep, [*maps, *pooled], collected.take, half)
            if not collected.bad:
                break
        problems += [
            Problem(
                f"image {name}",
                f"features of decoder block {', '.join(map(str, blocks))} are not finite numbers in float16",
                f"Check the weights in {backbone.folder}, and look at the photo.",
            )
            for name, blocks in collected.bad.items()
        ]
        features |= collected.features
    if problems:
        raise InvalidInput(problems)
    return features


class _Collected:
    """What is kept of one forward pass, as its blocks come by."""

    def __init__(self, names, seed, timestep, maps, pooled, showcase):
        self.names, self.seed, self.timestep = names, seed, timestep
        self.maps, self.pooled, self.showcase = set(maps), set(pooled), set(showcase)
        self.features = {name: ImageFeatures({}, {}, {}) for name in names}
        self.bad: dict[str, list[int]] = defaultdict(list)

    def take(self, block: int, activations: torch.Tensor) -> None:
        """Keep what was asked for of one block's activations (B, C, h, w)."""
        stored = activations.to(torch.float16)
        finite = torch.isfinite(stored).flatten(1).all(1).tolist()
        pooled = pool(stored.float()).half().cpu() if block in self.pooled else None
        on_cpu = stored.cpu() if block in self.maps else None
        for number, name in enumerate(self.names):
            if not finite[number]:
                self.bad[name].append(block)
                continue
            found = self.features[name]
            if on_cpu is not None:
                found.maps[block] = on_cpu[number].contiguous()
            if pooled is not None:
                found.pooled[block] = pooled[number].clone()
            if name in self.showcase:
                seed = seed_for(self.seed, "fedd kmeans", name, self.timestep, block)
                found.kmeans[block] = cluster(stored[number], seed)
