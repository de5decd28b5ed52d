"""The features of photos at one timestep, from one forward pass each: native maps, pooled vectors and cluster pictures."""

import math
import warnings
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from cgddi.core.errors import InvalidInput, Problem
from cgddi.core.seeds import seed_for
from cgddi.fedd.features import backbones
from cgddi.fedd.features.files import ImageFeatures, write_features
from cgddi.fedd.settings import FeaturesSettings
from cgddi.fedd.study import read_photos
from cgddi.job import runtime

WIDTH = 512
"""Length of a pooled vector."""
CLUSTERS = 3
"""K of the K-means pictures (FEDD)."""


def run_features(
    spec: Mapping[str, Any],
    settings: FeaturesSettings,
    output: str | Path,
    threads: int,
    metrics: str | Path | None = None,
) -> None:
    """Write the feature file of a batch of photos (see `cgddi fedd features --help`).

    Raises:
        UserError: a model or block that cannot be used. InvalidInput: photos that cannot be read or have no finite features.
    """
    facts = {"stage": "fedd_features", "cohort": spec["cohort"], "batch": spec["batch"], "timestep": spec["timestep"]}
    with runtime.usage_log(metrics, **facts) as usage:
        photos = read_photos(spec["rows"], settings.size, spec["crop"], masks=False)
        backbone = backbones.load(spec["model"], runtime.start(threads)).in_precision(settings.precision)
        features = extract(
            backbone,
            photos.images,
            photos.pixels,
            seed=int(spec["seed"]),
            timestep=int(spec["timestep"]),
            maps=spec.get("maps") or [],
            pooled=range(len(backbone.decoder_blocks)) if spec["pooled"] else (),
            showcase=spec.get("showcase") or [],
            batch=settings.batch,
            precision=settings.precision,
            shared_noise=settings.noise == "shared",
        )
        write_features(
            output,
            features,
            spec,
            [row["file"] for row in spec["rows"]],
            model=backbone.digest,
            size=settings.size,
            timestep=backbone.clip(spec["timestep"]),
            crop=spec["crop"],
            blocks=len(backbone.decoder_blocks),
        )
        usage["images"] = len(features)


def noise_for(seed: int, image_id: str, timestep: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """The noise of one photo at one timestep: by name, so it does not matter which photos stand beside it, or in what order.

    A deviation: ddpm-segmentation (`share_noise`), and so the paper, gives all photos the same: `fedd.features.noise: shared`.

    Args:
        seed: the project's seed. image_id: the photo; "" is the noise that all share.
        timestep: as it is used (1000 is 999). shape: (C, h, w).
    """
    generator = torch.Generator().manual_seed(seed_for(seed, "fedd", image_id, timestep))
    return torch.randn(shape, generator=generator)


def extract(
    backbone: backbones.FeatureBackbone,
    images: Sequence[str],
    pixels: np.ndarray,
    *,
    seed: int,
    timestep: int,
    maps: Collection[int],
    pooled: Collection[int],
    showcase: Collection[str] = (),
    batch: int = 8,
    precision: str = "fp32",
    shared_noise: bool = False,
) -> dict[str, ImageFeatures]:
    """Features of photos, by image id.

    Args:
        images: ids. pixels: their photos, uint8 (N, 3, size, size), of a size the model takes.
        timestep: 0 to 1000.
        maps: decoder blocks whose native maps are kept. pooled: those whose pooled vectors are kept.
        showcase: image ids that get cluster pictures of all these blocks.
        batch: photos per forward pass on a GPU. A CPU takes them one by one: as fast there, and no bit of a photo's
            features then depends on its neighbours.
        shared_noise: whether all photos get the same noise.

    Raises:
        UserError: blocks the model lacks, or a size it does not take.
        InvalidInput: the photos whose features are not finite.
    """
    blocks = [*maps, *pooled]
    backbone.check_blocks(blocks)
    shape, timestep = backbone.input_shape(pixels.shape[-1]), backbone.clip(timestep)
    features = {name: ImageFeatures() for name in images}
    overflown: dict[str, list[int]] = defaultdict(list)
    chunk = batch if backbone.device.type == "cuda" else 1
    for first in tqdm(range(0, len(images), chunk), desc=f"features t={timestep}", unit="batch"):
        names = images[first : first + chunk]

        seen: dict[int, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]] = {}
        shown = not set(showcase).isdisjoint(names)

        def keep(block: int, activations: torch.Tensor, seen=seen, shown=shown) -> None:
            stored = activations.to(torch.float16)
            vectors = pool(stored.float()).half() if block in pooled else None
            seen[block] = stored.isfinite().flatten(1).all(1), vectors, stored if shown or block in maps else None

        noise = torch.stack([noise_for(seed, "" if shared_noise else name, timestep, shape) for name in names])
        backbone.run(pixels[first : first + chunk], noise, timestep, blocks, keep, precision)
        # Only now is anything read back: the device was not waited for at each block.
        for block, (finite, vectors, stored) in seen.items():
            vectors, stored = (None if part is None else part.cpu() for part in (vectors, stored))
            for place, (name, whole) in enumerate(zip(names, finite.tolist(), strict=True)):
                if not whole:
                    overflown[name].append(block)
                    continue
                if block in maps:
                    features[name].maps[block] = stored[place].contiguous()
                if vectors is not None:
                    features[name].pooled[block] = vectors[place].clone()
                if name in showcase:
                    start = seed_for(seed, "fedd kmeans", name, timestep, block)
                    features[name].kmeans[block] = cluster(stored[place], start)
    if overflown:
        raise InvalidInput(
            Problem(
                f"image {name}",
                f"features of decoder block {', '.join(map(str, blocks))} are not finite numbers in float16",
                f"Set fedd.features.precision: fp32; else check the weights in {backbone.folder}, and look at the photo.",
            )
            for name, blocks in overflown.items()
        )
    return features


def pool(features: torch.Tensor) -> torch.Tensor:
    """Feature maps max-pooled in two dimensions, then in one, to 512 numbers (FEDD).

    The plane is max-pooled to g x g cells, g the least number with C g^2 >= 512: one cell for 512 channels and more, 2 x 2 for
    256 and for 128. The C g^2 values, channel by channel and each row by row, are then max-pooled to 512: 512 stay as they are,
    1024 in adjacent pairs, and of any other number L bin i takes the values floor(i L / 512) to ceil((i + 1) L / 512) - 1
    (adaptive pooling; fewer than 512 values are repeated).

    Args:
        features: (B, C, h, w).

    Returns:
        (B, 512), in the input's type.
    """
    batch, channels, height, width = features.shape
    cells = max(1, math.ceil(math.sqrt(WIDTH / channels)))
    plane = functional.adaptive_max_pool2d(features, (min(cells, height), min(cells, width)))
    return functional.adaptive_max_pool1d(plane.reshape(batch, 1, -1), WIDTH)[:, 0]


def cluster(features: torch.Tensor, seed: int) -> torch.Tensor:
    """K-means (K = 3) of a map's cells by their channels, which shows the blocks that tell lesion from skin (FEDD).

    Args:
        features: (C, h, w). seed: of the first centres.

    Returns:
        (h, w) uint8: 0 for the largest cluster, then by size (equal sizes: by the first cell).
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    channels, height, width = features.shape
    cells = features.detach().float().cpu().reshape(channels, -1).T.contiguous().numpy()
    with threadpool_limits(1), warnings.catch_warnings():  # one thread: the same sums in the same order on any machine
        warnings.simplefilter("ignore")  # a flat map has fewer than three distinct cells
        labels = KMeans(min(CLUSTERS, len(cells)), n_init=3, random_state=seed % 2**32).fit(cells).labels_
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    rank = np.empty(names.max() + 1, np.uint8)
    rank[names[np.lexsort((first, -counts))]] = np.arange(len(names), dtype=np.uint8)
    return torch.from_numpy(rank[labels].reshape(height, width))
