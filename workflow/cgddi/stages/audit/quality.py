"""Flat and black images, colours, the distance of each kind to held-out real photos (FID, KID, LPIPS), and the tone of the skin."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from cgddi.core.archive import Archive
from cgddi.core.colour import fitted_cuts, rgb_to_lab, skin_angle, tone_of_angle
from cgddi.core.images import SKIN, TONES, decode_png
from cgddi.core.labels import with_labels
from cgddi.core.lineage import generator_images
from cgddi.core.seeds import seed_for
from cgddi.stages.audit.features import ahead, describe, draw_by_name, extract, load_image, rows_of, run_network
from cgddi.stages.audit.settings import AuditSettings

FLAT, BLACK = 2.0, 8.0
"""An image whose grey levels (0..255) have a standard deviation below the first is flat, a mean below the second black."""
KID_SUBSET, KID_SUBSETS = 50, 50
"""Images per subset, at most those there are, and subsets of KID (Binkowski 2018)."""
PAIRS = 5
"""Held-out photos of its tone, at most those there are, that each image is compared with by LPIPS."""
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


class PairwiseLpips:
    """LPIPS of images against held-out photos of their tone, drawn by the image's name."""

    def __init__(self, source: str, seed: int):
        import torch

        from cgddi.stages.audit.networks import LPIPS_SIZE, load_lpips

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network, self.side, self.seed = load_lpips(source).to(self.device), LPIPS_SIZE, seed
        self.photos: dict[str, list[np.ndarray]] = {}
        self.name = f"LPIPS of {self.network.pnet_type}, {self.side} px, {PAIRS} photos an image"

    def scaled(self, picture: Image.Image) -> np.ndarray:
        """A picture as the network takes it, (S, S, 3) uint8."""
        return np.asarray(picture.resize((self.side, self.side), Image.Resampling.BILINEAR))

    def add(self, tone: str, pixels: np.ndarray) -> None:
        """Take a held-out photo."""
        self.photos.setdefault(tone, []).append(pixels)

    def of(self, name: str, tone: str, pixels: np.ndarray) -> float:
        """Mean over photos of the tone; NaN where there is none."""
        import torch

        photos = self.photos.get(tone, [])
        if not photos:
            return float("nan")
        rng = np.random.default_rng(seed_for(self.seed, "lpips", name))
        drawn = [photos[k] for k in rng.choice(len(photos), min(PAIRS, len(photos)), replace=False)]
        pair = torch.from_numpy(np.stack([pixels, *drawn])).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            return float(self.network(pair[:1].expand(len(drawn), -1, -1, -1), pair[1:]).mean())


def held_out(index: pd.DataFrame, labels: Mapping[str, Mapping[str, Any]]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Validation and test photos that images are compared with, and how many they are.

    Args:
        index: a split's index. labels: image id -> tone, of photos whose labels the index does not tell.

    Returns:
        Rows of known tone that no generator learnt from; all of them where generators learnt from each (`generator_scope: all`,
        as published). Counts: images, seen_by_generators.
    """
    rows = with_labels(index[(index["role"] != "train") & (index["kind"] == "real")], labels)
    rows = rows[rows["tone"].isin(TONES)]
    seen = rows["image_id"].isin(set().union(*generator_images(index[index["role"] == "train"]).values()))
    used = rows if seen.all() else rows[~seen]
    counts = {"images": len(used), "seen_by_generators": int(seen.sum()) if seen.all() else 0}
    return used.sort_values("id", ignore_index=True), counts


def audit_quality(
    index: pd.DataFrame,
    settings: AuditSettings,
    seed: int,
    threads: int = 1,
    labels: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Quality of the training images by kind and tone; `threads` decode and measure them while a GPU takes their features.

    Args:
        index: a split's index. settings: of stage audit. seed: of the spec. threads: that decode and measure pictures.
        labels: image id -> tone of the held-out photos (and what else `labels_of` gives).

    Returns:
        by_kind: kind -> tone -> {images, flat, black, lab_mean, lab_std, fid, kid, kid_std, lpips, real_images}; kind `all` is of
        all synthetic images drawn, `real` of training photos: as near as photographs come. flat_images and black_images (ids);
        features: what FID and KID were measured on; perceptual: what LPIPS is; held_out: the photos that images are compared with,
        those of their tone (`held_out`). Figures of no or of one photo are undefined (null). With fewer images than features FID
        is biased upwards; KID is not.
    """
    train = draw_by_name(index[index["role"] == "train"], settings.images_per_tone, ["kind", "tone"])
    held, counts = held_out(index, labels or {})
    lpips = PairwiseLpips(settings.lpips, seed) if settings.lpips else None
    facts: dict[str, list[Any]] = {"flat": [], "black": [], "lpips": []}
    colours: list[np.ndarray] = []

    def measure(row):
        picture = load_image(row)
        grey = np.asarray(picture.convert("L"), dtype=np.float32)
        colour = rgb_to_lab(np.asarray(picture.resize((32, 32)))).reshape(-1, 3).mean(axis=0)
        small = lpips.scaled(picture) if lpips else None
        return row, picture, float(grey.std()) < FLAT, float(grey.mean()) < BLACK, colour, small

    def pictures() -> Iterator[Image.Image]:
        rows = tqdm([*rows_of(held), *rows_of(train)], desc="measure quality", unit="image")
        for number, (row, picture, flat, black, colour, small) in enumerate(ahead(measure, rows, threads)):
            if number < len(held):
                if lpips:
                    lpips.add(row.tone, small)
            else:
                facts["flat"].append(flat)
                facts["black"].append(black)
                facts["lpips"].append(lpips.of(row.id, row.tone, small) if lpips else None)
                colours.append(colour)
            yield picture

    if settings.inception:
        from cgddi.stages.audit.networks import load_inception

        network = load_inception(settings.inception)
        features = run_network(network, network, (np.asarray(picture) for picture in pictures()))
    else:
        features = extract(pictures(), settings.features, seed, threads)
    real, features = features[: len(held)], features[len(held) :]
    train = train.assign(**facts)
    colour = np.asarray(colours).reshape(-1, 3)

    def cell(kind: str, tone: str, rows: pd.DataFrame) -> dict[str, Any]:
        photos = real[held.index[held["tone"] == tone]]
        kid = kernel_distance(photos, features[rows.index], seed_for(seed, "kid", kind, tone))
        return {
            "images": len(rows),
            "flat": int(rows["flat"].sum()),
            "black": int(rows["black"].sum()),
            "lab_mean": [round(float(v), 3) for v in colour[rows.index].mean(axis=0)],
            "lab_std": [round(float(v), 3) for v in colour[rows.index].std(axis=0)],
            "real_images": len(photos),
            "fid": frechet_distance(photos, features[rows.index]),
            **dict(zip(("kid", "kid_std"), kid or (None, None), strict=True)),
            "lpips": round(float(rows["lpips"].mean()), 6) if lpips and len(photos) else None,
        }

    by_kind: dict[str, Any] = {}
    for (kind, tone), rows in train.groupby(["kind", "tone"], sort=True):
        by_kind.setdefault(kind, {})[tone] = cell(kind, tone, rows)
    for tone, rows in train[train["kind"] != "real"].groupby("tone", sort=True):
        by_kind.setdefault("all", {})[tone] = cell("all", tone, rows)
    return {
        "images": len(train),
        "by_kind": by_kind,
        "flat_images": train["id"][train["flat"]].tolist(),
        "black_images": train["id"][train["black"]].tolist(),
        "features": "Inception-v3 of 2015, 299 px" if settings.inception else describe(settings.features),
        "perceptual": lpips.name if lpips else None,
        "held_out": counts,
        "drawn_per_kind_and_tone": settings.images_per_tone,
    }


def audit_tone(index: pd.DataFrame, photos: Sequence[str], settings: AuditSettings) -> dict[str, Any]:
    """Measured tone of real, healthy, mapped and semantic training images, by kind and labelled tone.

    Args:
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
