"""Features by which images are compared: thumbnails, or the pooled output of a timm backbone."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cgddi.core.archive import read_member, sha256
from cgddi.core.errors import UserError
from cgddi.job.gpu import send
from cgddi.stages.audit.settings import FeatureSettings

THUMBNAIL = 16
BATCH = 64


def load_image(row) -> Image.Image:
    """The picture of one index row, checked against its SHA-256."""
    data = read_member(row.archive, row.start, row.size)
    if sha256(data) != row.sha256:
        raise UserError(
            f"{row.archive}: image {row.id} does not match the index (sha256). Delete the archive and run again."
        )
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")


def ahead(work: Callable[[Any], Any], items: Iterable[Any], threads: int) -> Iterator[Any]:
    """Results of `work` in the order of the items, made by threads while those before are used; some are under way at a time."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        coming: deque[Future] = deque()
        for item in items:
            coming.append(pool.submit(work, item))
            if len(coming) > 4 * max(1, threads):
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def rows_of(table: pd.DataFrame) -> list:
    """Index rows as named tuples."""
    return list(table.itertuples(index=False))


def describe(settings: FeatureSettings) -> str:
    """What the features are, for the record and the report."""
    if settings.weights == "pixels":
        return f"{THUMBNAIL}x{THUMBNAIL} colour thumbnails"
    source = settings.weights if settings.weights in ("hub", "random") else Path(settings.weights).name
    return f"{settings.backbone} pooled features, weights {source}, {settings.image_size} px"


def extract(pictures: Iterable[Image.Image], settings: FeatureSettings, seed: int, threads: int = 1) -> np.ndarray:
    """Features of pictures.

    Args:
        pictures: RGB images of any size.
        seed: of the random weights, where those are asked for.
        threads: that resample pictures.

    Returns:
        float32 (N, D).
    """
    if settings.weights == "pixels":
        size = (THUMBNAIL, THUMBNAIL)
        rows = [np.asarray(p.resize(size, Image.Resampling.BOX), dtype=np.float32).ravel() / 255 for p in pictures]
        return np.stack(rows) if rows else np.zeros((0, THUMBNAIL * THUMBNAIL * 3), np.float32)
    import torch

    from cgddi.core.backbones import create_backbone, imagenet

    torch.manual_seed(seed)
    model, _ = create_backbone(settings.backbone, settings.weights, image_size=settings.image_size)
    side = (settings.image_size, settings.image_size)

    def prepare(picture: Image.Image) -> np.ndarray:
        return np.asarray(picture.resize(side, Image.Resampling.BILINEAR))

    def run(pixels):
        mean, std = imagenet(pixels.device)
        return model((pixels.float() / 255 - mean) / std).flatten(1)

    found = run_network(model, run, ahead(prepare, pictures, threads))
    return found if len(found) else np.zeros((0, model.num_features), np.float32)


def run_network(model, run: Callable[[Any], Any], pictures: Iterable[np.ndarray]) -> np.ndarray:
    """What a network says of pictures, `BATCH` of one size at a time, on the GPU where there is one.

    Args:
        model: the network, which is moved there. run: (N, 3, H, W) uint8 to (N, D). pictures: (H, W, 3) uint8 each.

    Returns:
        float32 (N, D); (0,) where there is no picture.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.eval().to(device)
    found, batch = [], []

    def flush() -> None:
        if batch:
            with torch.inference_mode():
                found.append(
                    run(send(torch.from_numpy(np.stack(batch)), device).permute(0, 3, 1, 2)).float().cpu().numpy()
                )
            batch.clear()

    for pixels in pictures:
        if batch and batch[0].shape != pixels.shape:
            flush()
        batch.append(pixels)
        if len(batch) == BATCH:
            flush()
    flush()
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def unit(features: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """Features centred and scaled to length one, so that a dot product is a cosine similarity; (N, D) -> (N, D)."""
    features = features - (features.mean(axis=1, keepdims=True) if centre is None else centre)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def draw_by_name(table: pd.DataFrame, count: int, groups: Sequence[str]) -> pd.DataFrame:
    """At most `count` rows per group, chosen by the hash of their id: adding images changes the draw little, order never."""
    order = table.assign(_draw=[sha256(name) for name in table["id"]]).sort_values("_draw")
    return order.groupby(list(groups), sort=True).head(count).drop(columns="_draw").sort_values("id", ignore_index=True)
