"""The training loop: epochs over the archives, the best epoch chosen on held-out images, and predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from cgddi.core.errors import UserError
from cgddi.stages.classify.data import ArchiveImages, InOrder, loader, to_input
from cgddi.stages.classify.losses import reweighing
from cgddi.stages.classify.sampling import BalancedSampler, Shuffled, sampling_weights
from cgddi.stages.classify.settings import ClassifySettings, Training

CHECK_EVERY = 25
"""Steps between looks at the loss: each look waits for the device."""


@dataclass
class Fit:
    """How a training run went: its epochs, the one whose weights the model holds, and the work done."""

    history: list[dict[str, Any]] = field(default_factory=list)
    chosen_epoch: int = 0
    images: int = 0
    steps: int = 0


def make_sampler(rows: pd.DataFrame, method: str, settings: ClassifySettings, ratio: float | None, seed: int):
    """The sampler of a method: reweighting sees every image once per epoch, resampling balances (tone, class)."""
    count = settings.images_per_epoch or min(len(rows), settings.max_train_images or len(rows))
    if method == "reweighting":
        return Shuffled(sampling_weights(rows, "none"), count, seed)
    grouping = "tone_class" if method == "resampling" else settings.sampler
    return BalancedSampler(sampling_weights(rows, grouping, ratio, settings.kind_shares), count, seed)


@torch.inference_mode()
def predict(model: nn.Module, rows: pd.DataFrame, settings: ClassifySettings, device, seed: int) -> np.ndarray:
    """Class probabilities of rows in their test view, float64 (N, C).

    Raises:
        UserError: a probability is NaN.
    """
    model.eval()
    found = []
    images = ArchiveImages(rows, settings, seed)
    on_gpu = device.type == "cuda"
    for pixels, *_ in loader(images, InOrder(len(rows)), 64, settings.workers if len(rows) > 1000 else 0):
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu and settings.amp):
            logits = model(to_input(pixels, device, on_gpu and settings.amp))
        found.append(functional.softmax(logits.float(), dim=1).double().cpu().numpy())
    probabilities = np.concatenate(found)
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise UserError(
            f"the classifier's prediction for image {rows['image_id'].iloc[bad[0]]} is NaN ({len(bad)} such images). "
            "Lower learning_rate or set clip_norm."
        )
    return probabilities


def score(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy and cross-entropy of probabilities (N, C) against labels (N,)."""
    predicted = probabilities.argmax(axis=1)
    chosen = probabilities[np.arange(len(labels)), labels]
    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)])),
        "loss": float(-np.log(np.maximum(chosen, 1e-12)).mean()),
    }


def train(
    model: nn.Module,
    rows: pd.DataFrame,
    held: pd.DataFrame | None,
    method: str,
    settings: ClassifySettings,
    training: Training,
    device: torch.device,
    seed: int,
    ratio: float | None = None,
    finetune: bool = False,
) -> Fit:
    """Train a model in place; afterwards it holds the weights of the chosen epoch.

    Args:
        model: see `cgddi.stages.classify.methods`.
        rows: training rows.
        held: rows on which the epoch is chosen; None keeps the last epoch.
        method: decides sampling and loss weights.
        settings, training: how.
        device: where.
        seed: of sampling and augmentation.
        ratio: real : synthetic draws.
        finetune: the model starts from another regime's weights: lower rate, early stop.

    Raises:
        UserError: the loss is NaN or infinite.
    """
    rate = settings.finetune_learning_rate if finetune else training.learning_rate
    epochs = settings.finetune_epochs if finetune else training.epochs
    on_gpu = device.type == "cuda" and settings.amp
    model.to(device, memory_format=torch.channels_last if on_gpu else torch.preserve_format)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rate, fused=device.type == "cuda")
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, training.lr_step or epochs + 1, training.lr_gamma)
    images = ArchiveImages(rows, settings, seed)
    sampler = make_sampler(rows, method, settings, ratio, seed)
    batches = loader(
        images, sampler, training.batch_size, settings.workers, drop_last=len(sampler) >= training.batch_size
    )
    weights = None
    if method == "reweighting":
        weights = torch.from_numpy(reweighing(rows["label"].to_numpy(), rows["tone_id"].to_numpy())).to(device)
    fit, best, best_state, waited = Fit(), (-math.inf, -math.inf), None, 0
    for epoch in range(epochs):
        model.train()
        sums: dict[str, torch.Tensor] = {}
        seen = 0
        for pixels, labels, tones, row in tqdm(batches, desc=f"epoch {epoch + 1}/{epochs}", unit="batch"):
            labels, tones = labels.to(device, non_blocking=True), tones.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                weight = None if weights is None else weights[row.to(device)]
                parts = model.losses(to_input(pixels, device, on_gpu), labels, tones, weight)
            loss = torch.stack([part.float() for part in parts.values()]).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if training.clip_norm:
                nn.utils.clip_grad_norm_(parameters, training.clip_norm)
            optimizer.step()
            fit.steps += 1
            fit.images += len(labels)
            seen += len(labels)
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + part.detach().double() * len(labels)
            if fit.steps % CHECK_EVERY == 0:
                _check_finite(sums, epoch, fit.steps)
        _check_finite(sums, epoch, fit.steps)
        schedule.step()
        terms = {name: round(float(value) / seen, 6) for name, value in sums.items()}
        entry: dict[str, Any] = {"epoch": epoch + 1, "train_loss": round(sum(terms.values()), 6), "terms": terms}
        fit.history.append(entry)
        if held is None:
            fit.chosen_epoch = epoch + 1
            continue
        found = score(predict(model, held, settings, device, seed), held["label"].to_numpy())
        entry["held_out"] = {name: round(value, 6) for name, value in found.items()}
        metric = -found["loss"] if settings.selection_metric == "loss" else found[settings.selection_metric]
        if (metric, -found["loss"]) > best:
            best, waited, fit.chosen_epoch = (metric, -found["loss"]), 0, epoch + 1
            best_state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        else:
            waited += 1
            if finetune and waited >= settings.patience:
                break
    if best_state is not None:
        model.load_state_dict(best_state)
    return fit


def _check_finite(sums: dict[str, torch.Tensor], epoch: int, step: int) -> None:
    bad = [name for name, value in sums.items() if not math.isfinite(float(value))]
    if bad:
        raise UserError(
            f"the loss became NaN or infinite in epoch {epoch + 1}, by step {step} (term: {', '.join(bad)}). "
            "Lower learning_rate or set clip_norm."
        )
