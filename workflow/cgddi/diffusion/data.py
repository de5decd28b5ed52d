"""What a training sees: photos out of archives, their captions, latents and loss weights, and the batch of every step.

All randomness comes from counters (seed, step), so a run that goes on from a checkpoint sees what an undisturbed one would have.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cgddi.core.archive import Archive, sha256
from cgddi.core.errors import Problem, UserError, refuse
from cgddi.core.images import CLASSES, LESION, MARKER, RULER, TONES, UNKNOWN, decode_png
from cgddi.core.labels import labelled
from cgddi.core.seeds import seed_for
from cgddi.diffusion.backbone import Backbone, Prompts
from cgddi.diffusion.cache import Store
from cgddi.diffusion.settings import TrainingSettings
from cgddi.job.gpu import send

# ---- photos and captions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photo:
    """One image of an archive.

    Args:
        id: image id (unique among the photos of a job).
        tone: light, medium or dark.
        sha256: of its PNG bytes: what caches key on.
        pixels: (H, W, 3) uint8.
        mask: (H, W) uint8 class ids, or None.
    """

    id: str
    tone: str
    sha256: str
    pixels: np.ndarray
    mask: np.ndarray | None
    row: Mapping[str, Any]


def read_photos(
    archives: Iterable[str | Path],
    wanted: Sequence[str] | None = None,
    labels: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Photo]:
    """Read photos by image id, in the order of `wanted` (else sorted by archive, then key).

    Args:
        archives: masks archives, or canvases.
        wanted: image ids; None: all, also those of unknown tone.
        labels: image id -> its tone, where the archives do not tell it (see `core.labels`).

    Raises:
        InvalidInput: every photo that is missing, damaged, or of an unknown tone, in one list.
    """
    found: dict[str, Photo] = {}
    problems: list[Problem] = []
    failed: set[str] = set()
    chosen = None if wanted is None else set(wanted)
    for path in archives:
        archive, faults = Archive(path), defaultdict(list)
        for row in labelled(archive.rows, labels or {}):
            name = row.get("image_id") or row["key"]
            if chosen is not None and name not in chosen:
                continue
            try:
                found[name] = _photo(archive, row, name, TONES if chosen is not None else (*TONES, UNKNOWN))
            except (UserError, OSError, SyntaxError, ValueError) as error:
                failed.add(name)
                faults[str(error)].append(name)
        for error, names in faults.items():  # an archive that is not whole damages all of its images
            images = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            problems.append(Problem(str(path), f"cannot read {images} ({error})", "Delete the archive and run again."))
    for name in wanted or []:
        if name not in found and name not in failed:
            problems.append(
                Problem("--photos", f"image {name} is in no archive", "Give the masks archive that holds it.")
            )
    refuse(problems)
    return [found[name] for name in (wanted if wanted is not None else found)]


def _photo(archive: Archive, row: Mapping[str, Any], name: str, tones: Sequence[str]) -> Photo:
    pixels = decode_png(archive.read(row))
    mask = decode_png(archive.read(row, "mask.png")) if "mask.png" in row["members"] else None
    if mask is not None and mask.shape != pixels.shape[:2]:
        raise ValueError(f"mask is {mask.shape}, image {pixels.shape[:2]}")
    if row.get("tone") not in tones:
        raise ValueError(f"tone {row.get('tone')!r} is none of {', '.join(tones)}")
    return Photo(name, row["tone"], row["sha256"], pixels, mask, row)


def read_canvases(archives: Sequence[Path], split: Path | None) -> list[Photo]:
    """Healthy canvases that may be used in training, sorted by id.

    Args:
        split: csv (image_id, role); only those of role train are given. None gives all.

    Raises:
        UserError: the file is not a split.
    """
    photos = sorted(read_photos(archives), key=lambda photo: photo.id)
    if split is None:
        return photos
    with open(split, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not {"image_id", "role"} <= set(rows[0]):
        raise UserError(f"{split}: needs the columns image_id and role. Run the split stage again.")
    allowed = {row["image_id"] for row in rows if row["role"] == "train"}
    return [photo for photo in photos if photo.id in allowed]


def caption(template: str, photo: Photo, settings: TrainingSettings, token: str = "") -> str:
    """A prompt template filled in for a photo, with the suffix for a ruler, a marker or both where its row or mask shows one."""
    text = template.format(token=token, tone=photo.tone)
    if not settings.suffixes:
        return text
    ruler, marker = photo.row.get("has_ruler"), photo.row.get("has_marker")
    if photo.mask is not None:
        ruler = bool((photo.mask == RULER).any()) if ruler is None else ruler
        marker = bool((photo.mask == MARKER).any()) if marker is None else marker
    if ruler and marker:
        return text + settings.both_suffix
    return text + (settings.ruler_suffix if ruler else settings.marker_suffix if marker else "")


def training_facts(photos: Sequence[Photo], settings: TrainingSettings) -> list[Any]:
    """All of photos that a training depends on, for keys: pixels, tone, caption's suffix, mask where it weighs the loss."""
    masks = [photo.mask if weighs_loss(settings) else None for photo in photos]
    return [
        [photo.sha256, photo.tone, caption("", photo, settings), None if mask is None else sha256(mask.tobytes())]
        for photo, mask in zip(photos, masks, strict=True)
    ]


def weighs_loss(settings: TrainingSettings) -> bool:
    """Whether masks decide how much a place counts."""
    return settings.lesion_weight != 1 or bool(settings.ignore_mask_classes)


def fit_square(pixels: np.ndarray, size: int, mask: bool = False) -> np.ndarray:
    """The centre square of an image, resampled to size x size (Lanczos; masks: nearest).

    Args:
        pixels: (H, W, 3) or, for a mask, (H, W); uint8.
        size: side in px.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    if side == size:
        return square
    method = Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(square).resize((size, size), method))


# ---- what is computed once ---------------------------------------------------------------------------------------------------


def latents_of(
    backbone: Backbone, store: Store, photos: Sequence[Photo], size: int, mirrored: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior mean and standard deviation of every photo's latents, from the cache or encoded now.

    Each photo is encoded by itself, so that its latents do not depend on which others were cached already.

    Args:
        size: side of the images in px.
        mirrored: also of the mirror image, as a second view.

    Returns:
        Two float32 tensors (photos, views, C, h, w) on the CPU, in the denoiser's units.
    """
    kept = []
    for photo in photos:

        def compute(photo: Photo = photo) -> dict[str, torch.Tensor]:
            pixels = fit_square(photo.pixels, size)
            views = np.stack([pixels, pixels[:, ::-1]] if mirrored else [pixels])
            return dict(zip(("mean", "std"), backbone.encode_images(views), strict=True))

        place = [str(backbone.vae.dtype), backbone.device.type]
        kept.append(store.get("latents", [backbone.digests["vae"], photo.sha256, size, mirrored, *place], compute))
    return torch.stack([one["mean"] for one in kept]), torch.stack([one["std"] for one in kept])


def loss_weights(photos: Sequence[Photo], size: int, cells: int, settings: TrainingSettings) -> torch.Tensor:
    """Loss weights of latent cells from the masks: `lesion_weight` on lesion, 0 on ignored classes, 1 elsewhere and without a mask.

    A cell that holds several classes gets their mean by area. Each photo is scaled to mean 1 so that the learning rate keeps its
    meaning; one that would be ignored entirely keeps weight 1 everywhere.

    Args:
        size: side of the image in px.
        cells: side of the latents.

    Returns:
        (photos, 2, 1, cells, cells) float32: as it is, and mirrored.
    """
    weights = torch.ones(len(photos), 1, cells, cells)
    values = np.ones(256, np.float32)
    values[LESION] = settings.lesion_weight
    values[[CLASSES[name] for name in settings.ignore_mask_classes]] = 0
    for number, photo in enumerate(photos):
        if photo.mask is not None:
            each = torch.from_numpy(values[fit_square(photo.mask, size, mask=True)])[None]
            each = torch.nn.functional.adaptive_avg_pool2d(each, cells)
            weights[number] = each / each.mean() if each.mean() > 1e-3 else 1
    return torch.stack([weights, weights.flip(-1)], dim=1)


def prompts_of(backbone: Backbone, store: Store, prompts: Sequence[str]) -> Prompts:
    """Encode prompts through the cache; float32 on the backbone's device."""
    parts = []
    for prompt in prompts:
        kept = store.get(
            "prompts",
            backbone.prompt_facts(prompt),
            lambda prompt=prompt: {k: v.cpu() for k, v in backbone.encode_prompts([prompt]).tensors().items()},
        )
        parts.append(Prompts(kept["embeds"], kept.get("pooled")))
    return Prompts.cat(parts).to(backbone.device)


# ---- the batch of a step -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageStream:
    """Images of one kind, from which every step draws.

    Args:
        seed: of its draws and noise (from names, see `seed_for`).
        captions: per photo, the prompts of which one is drawn.
        tone_exponent: see `tone_probabilities`.
        count: images per step.
        weight: of their mean loss.
    """

    seed: int
    photos: Sequence[Photo]
    captions: Sequence[Sequence[str]]
    tone_exponent: float
    count: int
    weight: float = 1.0


def tone_probabilities(photos: Sequence[Photo], exponent: float) -> np.ndarray:
    """Probability of each photo: its tone's frequency ** -exponent, scaled to sum 1.

    Args:
        exponent: 0 draws photos evenly, 1 draws tones evenly (those present), .5 is in between.
    """
    counts = {tone: sum(photo.tone == tone for photo in photos) for tone in TONES}
    weights = np.array([counts[photo.tone] ** -exponent for photo in photos], np.float64)
    return weights / weights.sum()


@dataclass(frozen=True)
class LatentBank:
    """Latents of all images of a job, on the device.

    Args:
        mean, std: (N, views, C, h, w).
        weights: (N, views, 1, h, w) loss weights, or None for 1 everywhere.
    """

    mean: torch.Tensor
    std: torch.Tensor
    weights: torch.Tensor | None


Batch = dict[str, torch.Tensor]
"""latents, noise (B, C, h, w); timesteps, prompt (B,) int64; with a mask's weights also weights (B, 1, h, w)."""


class TrainingData:
    """The batch of every step.

    Args:
        backbone: encodes the images, where the cache does not hold them; its tokens are in place.
        streams: the kinds of images, in the order in which they stand in a batch.
        settings: image size, mirroring, loss weights.
        parts: into how many equal parts a step is cut (accumulation x processes).

    Raises:
        UserError: the parts do not divide the images of each stream, or the model cannot take the size.
    """

    def __init__(
        self,
        backbone: Backbone,
        store: Store,
        streams: Sequence[ImageStream],
        settings: TrainingSettings,
        parts: int = 1,
    ):
        self.streams, self.settings, self.device = streams, settings, backbone.device
        self.timesteps = backbone.schedule.num_train_timesteps
        self.photos = [photo for stream in streams for photo in stream.photos]
        self.prompts = list(dict.fromkeys(text for s in streams for texts in s.captions for text in texts))
        self.edges = [np.cumsum(tone_probabilities(s.photos, s.tone_exponent))[:-1] for s in streams]
        counts = [stream.count for stream in streams]
        if any(count % parts for count in counts):
            raise UserError(f"{parts} parts (accumulation x processes) do not divide the {counts} images of a step.")
        # Each part has the make-up of the whole: its share of every stream.
        kinds = torch.arange(sum(counts)).split(counts)
        self.columns = torch.cat([kind.reshape(parts, -1) for kind in kinds], dim=1)
        self.counts = [count // parts for count in counts]
        _, cells, _ = backbone.latent_shape(settings.image_size)
        mean, std = latents_of(backbone, store, self.photos, settings.image_size, settings.hflip > 0)
        weights = None
        if weighs_loss(settings):
            weights = loss_weights(self.photos, settings.image_size, cells, settings).to(self.device)
        self.bank = LatentBank(mean.to(self.device), std.to(self.device), weights)
        self.random_latents = bool((std > 1e-4).any())

    def draw(self, step: int) -> dict[str, np.ndarray]:
        """Image, mirrored or not, timestep and prompt of each sample of a step, as int64 numbers (B,)."""
        parts: dict[str, list[np.ndarray]] = {"image": [], "view": [], "timesteps": [], "prompt": []}
        start = 0
        for stream, edges in zip(self.streams, self.edges, strict=True):
            u = np.random.Generator(np.random.Philox(key=stream.seed, counter=step)).random((4, stream.count))
            chosen = np.searchsorted(edges, u[0], side="right")
            parts["image"].append(start + chosen)
            parts["view"].append(u[1] < self.settings.hflip)
            parts["timesteps"].append((u[2] * self.timesteps).astype(np.int64))
            texts = [stream.captions[image] for image in chosen]
            words = [options[int(value * len(options))] for options, value in zip(texts, u[3], strict=True)]
            parts["prompt"].append(np.array([self.prompts.index(word) for word in words]))
            start += len(stream.photos)
        return {name: np.concatenate(values).astype(np.int64) for name, values in parts.items()}

    def at(self, step: int, share: slice = slice(None)) -> Batch:
        """A step's batch on the device, part after part.

        Args:
            step: 0-based.
        """
        numbers = self.draw(step)
        fixed = torch.from_numpy(np.stack([numbers[name] for name in ("image", "view", "timesteps", "prompt")]))
        noise, posterior = self._noise(step, "noise"), self._noise(step, "posterior") if self.random_latents else None
        columns = self.columns[share].flatten()
        image, view, timesteps, prompt = send(fixed[:, columns], self.device)
        latents = self.bank.mean[image, view]
        if posterior is not None:
            latents = latents + self.bank.std[image, view] * send(posterior[columns], self.device)
        batch = {
            "latents": latents,
            "noise": send(noise[columns], self.device),
            "timesteps": timesteps,
            "prompt": prompt,
        }
        if self.bank.weights is not None:
            batch["weights"] = self.bank.weights[image, view]
        return batch

    def _noise(self, step: int, name: str) -> torch.Tensor:
        """Standard normal noise of a step, (B, C, h, w), drawn on the CPU so that every device sees the same."""
        shape = self.bank.mean.shape[2:]
        return torch.cat([normal(seed_for(s.seed, name, step), (s.count, *shape)) for s in self.streams])

    def images_of(self, step: int, share: slice = slice(None)) -> list[str]:
        """Ids of the images of a step, in the order of the samples of `at`."""
        images = self.draw(step)["image"][self.columns[share].flatten()]
        return [self.photos[number].id for number in images]


def normal(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise of a seed, float32 on the CPU."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
