"""Flat and black images, colours, and the distance of each kind of image to real training images by tone (FID, KID)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from torchmetrics.image.kid import KernelInceptionDistance
from tqdm import tqdm

from cgddi.core.colour import rgb_to_lab
from cgddi.core.seeds import seed_for
from cgddi.stages.audit.features import describe, draw_by_name, extract, load_image, rows_of
from cgddi.stages.audit.settings import AuditSettings

FLAT, BLACK = 2.0, 8.0
"""An image whose grey levels (0..255) have a standard deviation below the first is flat, a mean below the second black."""
KID_SUBSET, KID_SUBSETS = 50, 50
"""Images per subset, at most those there are, and subsets of KID (Binkowski 2018)."""


class _Given(torch.nn.Module):
    """Hands features that were computed beforehand to a torchmetrics metric."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def frechet_distance(real: np.ndarray, other: np.ndarray) -> float | None:
    """Frechet distance of two sets of features, |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel 2017); None below two images.

    With centred features X = QR, the trace of the root is the nuclear norm of R1 R2^T over the root of (n1 - 1)(n2 - 1): the
    same value as torchmetrics', which takes minutes to find the eigenvalues of S1 S2 where there are fewer images than features.

    Args:
        real, other: (N, D).
    """
    if min(len(real), len(other)) < 2:
        return None
    factors, means, traces = [], [], []
    for features in (real.astype(np.float64), other.astype(np.float64)):
        means.append(features.mean(axis=0))
        centred = (features - means[-1]) / np.sqrt(len(features) - 1)
        factors.append(np.linalg.qr(centred, mode="r"))
        traces.append(np.square(centred).sum())
    root = np.linalg.norm(factors[0] @ factors[1].T, "nuc")
    return round(float(np.square(means[0] - means[1]).sum() + sum(traces) - 2 * root), 6)


def kernel_distance(real: np.ndarray, other: np.ndarray, seed: int) -> tuple[float, float] | None:
    """Kernel distance (mean, standard deviation over subsets) of two sets of features, by torchmetrics; None below two."""
    subset = min(KID_SUBSET, len(real), len(other))
    if subset < 2:
        return None
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the features are kept: they are few
        metric = KernelInceptionDistance(feature=_Given(real.shape[1]), subsets=KID_SUBSETS, subset_size=subset)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(other), real=False)
    mean, deviation = metric.compute()
    return round(float(mean), 6), round(float(deviation), 6)


def audit_quality(index: pd.DataFrame, settings: AuditSettings, seed: int) -> dict[str, Any]:
    """Quality of the training images by kind and tone.

    Returns:
        by_kind: kind -> tone -> {images, flat, black, lab_mean, lab_std, fid, kid, kid_std}; flat_images and black_images (ids);
        features: what FID and KID were computed on. Distances are to the real training images of the same tone and undefined
        (null) below two images. With fewer images than feature dimensions FID is biased upwards; KID is not.
    """
    train = draw_by_name(index[index["role"] == "train"], settings.images_per_tone, ["kind", "tone"])
    facts = {"flat": [], "black": []}
    colours: list[np.ndarray] = []

    def pictures():
        for row in tqdm(rows_of(train), desc="measure quality", unit="image"):
            picture = load_image(row)
            grey = np.asarray(picture.convert("L"), dtype=np.float32)
            facts["flat"].append(float(grey.std()) < FLAT)
            facts["black"].append(float(grey.mean()) < BLACK)
            colours.append(rgb_to_lab(np.asarray(picture.resize((32, 32)))).reshape(-1, 3).mean(axis=0))
            yield picture

    features = extract(pictures(), settings.features, seed)
    train = train.assign(**facts)
    colour = np.asarray(colours).reshape(-1, 3)
    by_kind: dict[str, Any] = {}
    for (kind, tone), rows in train.groupby(["kind", "tone"], sort=True):
        real = features[train.index[(train["kind"] == "real") & (train["tone"] == tone)]]
        entry: dict[str, Any] = {
            "images": len(rows),
            "flat": int(rows["flat"].sum()),
            "black": int(rows["black"].sum()),
            "lab_mean": [round(float(v), 3) for v in colour[rows.index].mean(axis=0)],
            "lab_std": [round(float(v), 3) for v in colour[rows.index].std(axis=0)],
        }
        if kind != "real":
            kid = kernel_distance(real, features[rows.index], seed_for(seed, "kid", kind, tone))
            entry["fid"] = frechet_distance(real, features[rows.index])
            entry["kid"], entry["kid_std"] = kid if kid else (None, None)
            entry["real_images"] = len(real)
        by_kind.setdefault(kind, {})[tone] = entry
    return {
        "images": len(train),
        "by_kind": by_kind,
        "flat_images": train["id"][train["flat"]].tolist(),
        "black_images": train["id"][train["black"]].tolist(),
        "features": describe(settings.features),
        "drawn_per_kind_and_tone": settings.images_per_tone,
    }
