"""One baseline of the study: train a network on the photos of one subset, keep its best epoch on validation, and test it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from segmentation_models_pytorch.losses import DiceLoss
from torch import nn
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from tqdm import tqdm

from cgddi.core.archive import canonical, record_for, write_atomic, write_record
from cgddi.core.backbones import imagenet
from cgddi.core.errors import UserError
from cgddi.core.metrics import class_counts
from cgddi.core.seeds import seed_for
from cgddi.diffusion.weights import write_tensors
from cgddi.fedd.baselines.networks import build
from cgddi.fedd.settings import BaselinesSettings
from cgddi.fedd.study import (
    Photos,
    check_both_kinds,
    check_roles,
    iou_csv,
    pictures,
    predictions_csv,
    read_photos,
    roles_of,
    study_checkpoint,
    tone_counts,
    without_covered,
)
from cgddi.job import runtime
from cgddi.job.checkpoint import Checkpoint, random_state, restore_optimizer, restore_random
from cgddi.job.gpu import send
from cgddi.job.trackers import reporting

AUXILIARY_WEIGHT = 0.4
"""Weight of Inception-v3's auxiliary loss in training (torchvision's own training recipe; Szegedy 2015: 0.3)."""
ROTATION = 30
"""Largest rotation in degrees."""
JITTER = 0.2
"""Largest change of brightness, contrast and saturation, as a share."""


def to_input(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (..., 3, H, W) to what the networks take, by torchvision's operations."""
    mean, std = imagenet(pixels.device)
    return pixels.float().mul_(1 / 255).sub_(mean).div_(std)


def run_baseline(
    spec: Mapping[str, Any],
    settings: BaselinesSettings,
    output: str | Path,
    threads: int,
    metrics: str | Path | None = None,
    state: str | Path | None = None,
) -> None:
    """Train and test one baseline (see `cgddi fedd baseline --help`).

    Raises:
        UserError: see `build` and `train`. InvalidInput: photos or masks that cannot be read.
    """
    task, network, run_seed = spec["task"], spec["network"], int(spec["run_seed"])
    facts = {"task": task, "network": network, "subset": str(spec["subset"]), "run_seed": run_seed}
    with runtime.usage_log(metrics, stage="fedd_baseline", **facts) as usage:
        runtime.start(threads)
        accelerator = reporting(metrics, settings.precision)
        check_roles(spec)
        torch.manual_seed(seed_for(int(spec["seed"]), "fedd baseline", task, network, run_seed))
        baseline = build(task, network, settings, int(spec["size"]))
        masks = task == "segmentation"
        photos = {
            role: read_photos(spec[role], baseline.size, spec["crop"], spec.get("id_map"), masks)
            for role in roles_of(spec)
        }
        left_out: list[dict[str, str]] = []
        history, checkpoint = TrainingHistory(), study_checkpoint(state, "baseline", spec)
        if masks:
            photos["train"], left_out = without_covered(photos["train"])
        if network == "deepderm" and not settings.deepderm_finetune:
            accelerator.prepare(baseline.model)
        else:
            if not masks:
                check_both_kinds(spec["train"], spec["subset"])
            data = photos["train"], photos["validation"]
            history = train(baseline.model, *data, task, settings, accelerator, checkpoint)
        predicted = {role: predict(baseline.model, photos[role], settings, accelerator) for role in roles_of(spec)[1:]}
        accelerator.end_training()
        usage.update(images=history.images, steps=history.steps)
    out = Path(output)
    files = [row[key] for role in roles_of(spec) for row in spec[role] for key in ("file", "mask")[: 1 + masks]]
    record = record_for(
        spec,
        sorted(set(files)),
        **facts,
        training_images=sorted(photos["train"].images) if history.epochs else [],
        model=baseline.facts,
        counts={role: tone_counts(photos[role].rows) for role in roles_of(spec)},
        left_out=left_out,
        history=history.epochs,
        chosen_epoch=history.chosen_epoch,
    )
    if masks:
        classes = {role: chances.argmax(1).astype(np.uint8) for role, chances in predicted.items()}
        for role in classes:
            write_atomic(out / f"{role}.csv", iou_csv(photos[role].rows, classes[role], photos[role].truth))
        shown = pictures(photos["test"], classes["test"], None, int(spec["seed"]))
        write_atomic(out / "pictures.safetensors", shown)
    else:
        record["threshold"] = baseline.threshold
        lines = [
            {**row, "role": role, "block": None, "seed": run_seed, "probability": float(chance[1])}
            for role, chances in predicted.items()
            for row, chance in zip(photos[role].rows, chances, strict=True)
        ]
        write_atomic(out / "predictions.csv", predictions_csv(lines))
    metadata = {"cgddi": canonical({"task": task, "network": network})}
    write_tensors(out / "weights.safetensors", baseline.model.state_dict(), metadata)
    beside = ["weights.safetensors", "test.csv" if masks else "predictions.csv"]
    write_record(out / "record.json", record, [out / name for name in beside])
    checkpoint.remove()


@dataclass
class TrainingHistory:
    """How a training went: its epochs, the one whose weights the model holds, and the work that this process did."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    chosen_epoch: int = 0
    images: int = 0
    steps: int = 0


def train(
    model: nn.Module,
    photos: Photos,
    validation: Photos,
    task: str,
    settings: BaselinesSettings,
    accelerator: Accelerator,
    checkpoint: Checkpoint | None = None,
) -> TrainingHistory:
    """Train a model in place by Adam; afterwards it holds the weights of the best epoch on validation.

    Order, augmentation and dropout come from torch's global generator.

    Args:
        model: see `cgddi.fedd.baselines.networks`.
        photos: training photos. validation: those that choose the epoch.
        task: "segmentation" or "classification".
        settings: how. accelerator: where, in which precision, and whom it reports to.
        checkpoint: where the state is kept from epoch to epoch; None keeps none.

    Raises:
        UserError: the loss is NaN or infinite.
        Terminated: SIGTERM came; the state is kept.
    """
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=settings.learning_rate))
    pixels, labels = (
        part.to(accelerator.device) for part in (torch.from_numpy(photos.pixels), labels_of(photos, task))
    )
    loss_function = loss_of(task, settings.dice_weight)
    history, best, best_state = TrainingHistory(), [-math.inf, -math.inf], {}
    checkpoint = checkpoint or Checkpoint(None, "baseline", None)
    parts = {"model": model, "optimizer": optimizer, "scaler": accelerator.scaler}
    parts = {name: part for name, part in parts.items() if part is not None}
    if saved := checkpoint.take_up():
        history.epochs, history.chosen_epoch = saved["epochs"], saved["chosen_epoch"]
        best, best_state = saved["best"], saved["best_state"]
        restore_optimizer(optimizer, saved["optimizer"])
        for name in parts.keys() - {"optimizer"}:
            parts[name].load_state_dict(saved[name])
        restore_random(saved["random"])
    for line in history.epochs:
        _show(accelerator, line)

    def state() -> dict[str, Any]:
        own = {"epochs": history.epochs, "chosen_epoch": history.chosen_epoch, "best": best, "best_state": best_state}
        return {**own, "random": random_state(), **{name: part.state_dict() for name, part in parts.items()}}

    done = len(history.epochs)
    epochs = tqdm(
        range(done + 1, settings.epochs + 1),
        desc=f"train on {len(photos)} photos",
        total=settings.epochs,
        initial=done,
        unit="epoch",
    )
    with checkpoint.kept(state) as look:
        for epoch in epochs:
            model.train()
            losses = []
            for batch in torch.randperm(len(photos)).split(settings.batch_size):
                if len(batch) == 1 < len(photos):
                    continue  # batch normalisation needs two
                chosen = send(batch, accelerator.device)  # as an index on the CPU it would be sent twice
                views, targets = pixels[chosen], labels[chosen]
                if settings.augment:
                    views, targets = augmented(views, targets)
                loss = loss_function(model(to_input(views)), targets)
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                losses.append(loss.detach())
                history.steps += 1
                history.images += len(batch)
            mean_loss = float(torch.stack(losses).mean())
            if not math.isfinite(mean_loss):
                raise UserError(
                    f"the loss became NaN or infinite in epoch {epoch}. Lower fedd.baselines.learning_rate."
                )
            score, validation_loss = validate(predict(model, validation, settings, accelerator), validation, task)
            line = {"epoch": epoch, "train_loss": mean_loss, "score": score, "loss": validation_loss}
            history.epochs.append({name: round(value, 6) for name, value in line.items()})
            _show(accelerator, history.epochs[-1])
            epochs.set_postfix(loss=f"{mean_loss:.3f}", score=f"{score:.3f}")
            if [score, -validation_loss] > best:
                best, history.chosen_epoch = [score, -validation_loss], epoch
                best_state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
            elif epoch - history.chosen_epoch >= settings.patience:
                break
            look()
    model.load_state_dict(best_state)
    return history


def _show(accelerator: Accelerator, line: Mapping[str, Any]) -> None:
    """An epoch's figures, to the trackers."""
    held_out = {f"held_out/{name}": line[name] for name in ("score", "loss")}
    accelerator.log({"train_loss": line["train_loss"], **held_out}, step=line["epoch"])


def augmented(pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A random view of each photo, and the same view of its mask where the labels are masks.

    Borders are mirrored before a rotation, so that no made-up background enters a mask.

    Args:
        pixels: uint8 (B, 3, H, W). labels: int64 (B, H, W), or (B,), which stay as they are.
    """
    side = pixels.shape[-1]
    view = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.Pad(math.ceil(0.19 * side), padding_mode="reflect"),  # (cos 30 + sin 30 - 1) / 2 of the side
            v2.RandomRotation(ROTATION, InterpolationMode.BILINEAR),
            v2.CenterCrop(side),
            v2.ColorJitter(JITTER, JITTER, JITTER),
        ]
    )
    pairs = [
        view(tv_tensors.Image(photo), tv_tensors.Mask(label) if label.ndim else label)
        for photo, label in zip(pixels, labels, strict=True)
    ]
    views, targets = (
        torch.stack([part.as_subclass(torch.Tensor) for part in parts]) for parts in zip(*pairs, strict=True)
    )
    return views, targets


def labels_of(photos: Photos, task: str) -> torch.Tensor:
    """What a task learns: class ids (N, H, W) for segmentation, 1 for malignant (N,) for classification; int64."""
    if task == "segmentation":
        return torch.from_numpy(photos.truth.astype(np.int64))
    return torch.tensor([int(row["malignant"]) for row in photos.rows])


def loss_of(task: str, dice_weight: float):
    """Loss of (outputs, labels): cross-entropy, plus Dice for segmentation and the auxiliary head's share for Inception-v3."""
    dice = DiceLoss("multiclass")

    def loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        if isinstance(outputs, tuple):
            main, auxiliary = (functional.cross_entropy(part, labels) for part in outputs)
            return main + AUXILIARY_WEIGHT * auxiliary
        value = functional.cross_entropy(outputs, labels)
        return value + dice_weight * dice(outputs, labels) if task == "segmentation" else value

    return loss


@torch.inference_mode()
def predict(model: nn.Module, photos: Photos, settings: BaselinesSettings, accelerator: Accelerator) -> np.ndarray:
    """Class probabilities, float32: (N, 5, H, W) of a U-Net, (N, 2) of a classifier.

    Raises:
        UserError: a probability is NaN.
    """
    model.eval()
    batches = torch.from_numpy(photos.pixels).split(settings.batch_size)
    logits = [model(to_input(send(batch, accelerator.device))).float() for batch in batches]
    probabilities = torch.cat([functional.softmax(part, dim=1).cpu() for part in logits]).numpy()
    if not np.isfinite(probabilities).all():
        raise UserError("the network predicts NaN. Lower fedd.baselines.learning_rate.")
    return probabilities


def validate(probabilities: np.ndarray, photos: Photos, task: str) -> tuple[float, float]:
    """Score and cross-entropy on validation photos: a higher score is better, mean IoU or for a classifier minus the loss.

    The mean is over the classes that occur, of intersection over union pooled over all pixels.
    """
    labels = labels_of(photos, task).numpy()
    chosen = np.take_along_axis(probabilities, labels[:, None], axis=1)
    loss = float(-np.log(np.maximum(chosen, 1e-7)).mean(dtype=np.float64))
    if task == "classification":
        return -loss, loss
    both, either = class_counts(probabilities.argmax(1), labels).sum(0)[:, :2].T
    return float((both[either > 0] / either[either > 0]).mean()), loss
