"""Training of a baseline on photos in memory: augmented batches, the best epoch on validation kept, early stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from cgddi.core.errors import UserError
from cgddi.fedd.baselines_augment import augmented
from cgddi.fedd.baselines_networks import AUXILIARY_WEIGHT, CLASSES
from cgddi.fedd.photos import Photos
from cgddi.fedd.settings import BaselinesSettings
from cgddi.stages.classify.data import MEAN, STD


@dataclass
class Fit:
    """How a training went: its epochs, the one whose weights the model holds, and the work done."""

    history: list[dict[str, Any]] = field(default_factory=list)
    chosen_epoch: int = 0
    images: int = 0
    steps: int = 0


def to_unit(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 (N, 3, H, W) -> float32 in 0..1 on the device."""
    return torch.from_numpy(pixels).to(device).float() / 255


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Float pixels in 0..1, (N, 3, H, W), with ImageNet's mean and deviation taken out."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
    return (pixels - mean) / std


def labels_of(photos: Photos, task: str) -> torch.Tensor:
    """What a task learns: class ids (N, H, W) for segmentation, 1 for malignant (N,) for classification; int64."""
    if task == "segmentation":
        return torch.from_numpy(photos.truth.astype(np.int64))
    return torch.tensor([int(row["malignant"]) for row in photos.rows])


def loss_of(task: str, settings: BaselinesSettings) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Cross-entropy, plus Dice for segmentation and the auxiliary head's share for Inception-v3."""
    dice = DiceLoss("multiclass")

    def loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        if isinstance(outputs, tuple):
            main, auxiliary = (functional.cross_entropy(part.float(), labels) for part in outputs)
            return main + AUXILIARY_WEIGHT * auxiliary
        value = functional.cross_entropy(outputs.float(), labels)
        if task == "segmentation" and settings.dice_weight:
            value = value + settings.dice_weight * dice(outputs.float(), labels)
        return value

    return loss


@torch.inference_mode()
def predict(model: nn.Module, photos: Photos, settings: BaselinesSettings, device: torch.device) -> np.ndarray:
    """Class probabilities, float32: (N, 5, H, W) of a U-Net, (N, 2) of a classifier.

    Raises:
        UserError: a probability is NaN.
    """
    model.eval()
    found = []
    for start in range(0, len(photos), settings.batch_size):
        pixels = normalised(to_unit(photos.pixels[start : start + settings.batch_size], device))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(pixels)
        found.append(functional.softmax(logits.float(), dim=1).cpu().numpy())
    probabilities = np.concatenate(found)
    if not np.isfinite(probabilities).all():
        raise UserError("the network predicts NaN. Lower fedd.baselines.learning_rate.")
    return probabilities


def mean_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes that occur of intersection / union, pooled over all pixels; class ids of equal shape."""
    values = []
    for class_id in range(CLASSES):
        union = ((predicted == class_id) | (truth == class_id)).sum()
        if union:
            values.append(((predicted == class_id) & (truth == class_id)).sum() / union)
    return float(np.mean(values))


def held_out(
    model: nn.Module, photos: Photos, task: str, settings: BaselinesSettings, device: torch.device
) -> tuple[float, float]:
    """(score, -loss) on held-out photos, higher being better: mean IoU, or minus the cross-entropy for a classifier."""
    probabilities = predict(model, photos, settings, device)
    labels = labels_of(photos, task).numpy()
    chosen = np.take_along_axis(probabilities, labels[:, None], axis=1)
    loss = float(-np.log(np.maximum(chosen, 1e-7)).mean(dtype=np.float64))
    return (mean_iou(probabilities.argmax(1), labels) if task == "segmentation" else -loss), -loss


def train(
    model: nn.Module,
    photos: Photos,
    validation: Photos,
    task: str,
    settings: BaselinesSettings,
    device: torch.device,
    seed: int,
) -> Fit:
    """Train a model in place; afterwards it holds the weights of the best epoch on validation.

    Args:
        model: see `cgddi.fedd.baselines_networks`.
        photos: training photos. validation: those that choose the epoch.
        task: "segmentation" or "classification".
        settings: how.
        device: where; on CUDA in bfloat16 where that is safe.
        seed: of order and augmentation.

    Raises:
        UserError: the loss is NaN or infinite.
    """
    model.to(device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=device.type == "cuda")
    loss_function = loss_of(task, settings)
    pixels, labels = to_unit(photos.pixels, device), labels_of(photos, task).to(device)
    fit, best, best_state, waited = Fit(), (-math.inf, -math.inf), None, 0
    epochs = tqdm(range(settings.epochs), desc=f"train on {len(photos)} photos", unit="epoch")
    for epoch in epochs:
        model.train()
        losses = []
        for batch in torch.randperm(len(photos), generator=generator).split(settings.batch_size):
            if len(batch) < 2 and fit.steps:
                continue  # batch normalisation needs two
            views, masks = augmented(
                pixels[batch], labels[batch] if task == "segmentation" else None, settings.augment, generator
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                outputs = model(normalised(views))
            loss = loss_function(outputs, labels[batch] if masks is None else masks)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            fit.steps += 1
            fit.images += len(batch)
        mean_loss = float(torch.stack(losses).mean())
        if not math.isfinite(mean_loss):
            raise UserError(
                f"the loss became NaN or infinite in epoch {epoch + 1}. Lower fedd.baselines.learning_rate."
            )
        found = held_out(model, validation, task, settings, device)
        fit.history.append(
            {
                "epoch": epoch + 1,
                "train_loss": round(mean_loss, 6),
                "score": round(found[0], 6),
                "loss": -round(found[1], 6),
            }
        )
        epochs.set_postfix(loss=f"{mean_loss:.3f}", score=f"{found[0]:.3f}")
        if found > best:
            best, waited, fit.chosen_epoch = found, 0, epoch + 1
            best_state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        else:
            waited += 1
            if waited >= settings.patience:
                break
    if best_state is not None:
        model.load_state_dict(best_state)
    return fit
