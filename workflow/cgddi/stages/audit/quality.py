"""Flat and black images, colours, the distance of each kind to real training images (FID, KID), and the tone of the skin."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cgddi.core.archive import Archive
from cgddi.core.colour import fitted_cuts, rgb_to_lab, skin_angle, tone_of_angle
from cgddi.core.images import SKIN, TONES, decode_png
from cgddi.core.seeds import seed_for
from cgddi.stages.audit.features import ahead, describe, draw_by_name, extract, load_image, rows_of
from cgddi.stages.audit.settings import AuditSettings

FLAT, BLACK = 2.0, 8.0
"""An image whose grey levels (0..255) have a standard deviation below the first is flat, a mean below the second black."""
KID_SUBSET, KID_SUBSETS = 50, 50
"""Images per subset, at most those there are, and subsets of KID (Binkowski 2018)."""
FOLDS = 10
"""Parts of the real photos that are judged by cuts fitted to the others."""


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
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    class Given(torch.nn.Module):
        """Hands features that were computed beforehand to the metric."""

        num_features = real.shape[1]

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the features are kept: they are few
        metric = KernelInceptionDistance(feature=Given(), subsets=KID_SUBSETS, subset_size=subset)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(other), real=False)
    mean, deviation = metric.compute()
    return round(float(mean), 6), round(float(deviation), 6)


def audit_quality(index: pd.DataFrame, settings: AuditSettings, seed: int, threads: int = 1) -> dict[str, Any]:
    """Quality of the training images by kind and tone; `threads` decode and measure them while a GPU takes their features.

    Returns:
        by_kind: kind -> tone -> {images, flat, black, lab_mean, lab_std, fid, kid, kid_std}; flat_images and black_images (ids);
        features: what FID and KID were computed on. Distances are to the real training images of the same tone and undefined
        (null) below two images. With fewer images than feature dimensions FID is biased upwards; KID is not.
    """
    train = draw_by_name(index[index["role"] == "train"], settings.images_per_tone, ["kind", "tone"])
    facts = {"flat": [], "black": []}
    colours: list[np.ndarray] = []

    def measure(row):
        picture = load_image(row)
        grey = np.asarray(picture.convert("L"), dtype=np.float32)
        colour = rgb_to_lab(np.asarray(picture.resize((32, 32)))).reshape(-1, 3).mean(axis=0)
        return picture, float(grey.std()) < FLAT, float(grey.mean()) < BLACK, colour

    def pictures():
        for picture, flat, black, colour in ahead(
            measure, tqdm(rows_of(train), desc="measure quality", unit="image"), threads
        ):
            facts["flat"].append(flat)
            facts["black"].append(black)
            colours.append(colour)
            yield picture

    features = extract(pictures(), settings.features, seed, threads)
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


def audit_tone(index: pd.DataFrame, photos: Sequence[str], settings: AuditSettings) -> dict[str, Any]:
    """Measured tone of real, healthy, mapped and semantic training images, by kind and labelled tone.

    Args:
        index: a split's index.
        photos: photo archives; the five-class mask of an image's canvas (or of the photo itself) says where its skin is.
        settings: cuts and how many images per kind and tone are measured.

    Returns:
        by_kind: kind -> labelled tone -> {images, agree, agreement, relative: agreement over that of the real photos of the tone,
        measured: tone -> count, angle: quartiles}; agreement by kind; cuts and where they are from. Cuts fitted to real photos
        judge a real photo as fitted without it.
    """
    masks = {}
    for path in photos:
        archive = Archive(path)
        for row in archive.rows:
            if "mask.png" in row["members"]:
                masks[row["image_id"]] = archive, row
    train = draw_by_name(index[index["role"] == "train"], settings.images_per_tone, ["kind", "tone"])
    measured = []
    for row in tqdm(rows_of(train), desc="measure tone", unit="image"):
        picture = load_image(row)
        place = masks.get(row.canvas if isinstance(row.canvas, str) else row.image_id)
        skin = decode_png(place[0].read(place[1], "mask.png"), picture.width) == SKIN if place else None
        angle = skin_angle(np.asarray(picture), skin)
        measured.append((row.kind, row.tone, angle, place is not None))
    frame = pd.DataFrame(measured, columns=["kind", "tone", "angle", "masked"])
    cuts, frame["measured"] = _told_apart(frame, settings.ita_cuts)
    by_kind: dict[str, Any] = {}
    for (kind, tone), rows in frame.groupby(["kind", "tone"], sort=True):
        by_kind.setdefault(kind, {})[tone] = {
            "images": len(rows),
            "with_skin_mask": int(rows["masked"].sum()),
            "agree": int((rows["measured"] == tone).sum()),
            "agreement": round(float((rows["measured"] == tone).mean()), 4),
            "measured": {name: int((rows["measured"] == name).sum()) for name in TONES},
            "angle_quartiles": [round(float(q), 2) for q in np.percentile(rows["angle"], [25, 50, 75])],
        }
    real = by_kind.get("real", {})
    for tones in by_kind.values():
        for tone, cell in tones.items():
            usual = real.get(tone, {}).get("agreement")
            cell["relative"] = round(cell["agreement"] / usual, 4) if usual else None
    agreement = frame.assign(agree=frame["measured"] == frame["tone"]).groupby("kind")["agree"].mean()
    return {
        "images": len(frame),
        "by_kind": by_kind,
        "agreement": {kind: round(float(value), 4) for kind, value in agreement.items()},
        "cuts": [round(cut, 2) for cut in cuts],
        "cuts_from": "settings" if settings.ita_cuts else "real training photos",
        "measure": "median ITA (degrees) over skin pixels of the canvas mask",
    }


def _told_apart(frame: pd.DataFrame, given: tuple[float, float] | None) -> tuple[tuple[float, float], list[str]]:
    """The cuts, and the tone of each image by its angle.

    Args:
        frame: columns kind, tone, angle.
        given: cuts of the settings; None fits them to the real photos, and to nine tenths of them for the tenth that is judged.
    """
    if given:
        return given, [tone_of_angle(angle, given) for angle in frame["angle"]]
    real = frame[frame["kind"] == "real"]
    if real.empty:
        real = frame
    cuts = fitted_cuts(real["angle"], real["tone"])
    measured = pd.Series([tone_of_angle(angle, cuts) for angle in frame["angle"]], frame.index)
    for part in range(FOLDS if len(real) >= FOLDS else 0):
        own = real.index[part::FOLDS]
        others = real.drop(index=own)
        without = fitted_cuts(others["angle"], others["tone"])
        measured[own] = [tone_of_angle(angle, without) for angle in real["angle"][own]]
    return cuts, measured.tolist()
