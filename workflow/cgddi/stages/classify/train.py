"""The training loop: epochs over the drawn pictures, the best epoch chosen on held-out images, and predictions."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from cgddi.core.errors import UserError
from cgddi.diffusion.graphs import GraphedStep
from cgddi.job.checkpoint import Checkpoint, random_state, restore_optimizer, restore_random
from cgddi.stages.classify.augment import augment, normalise, random_views
from cgddi.stages.classify.data import Pictures
from cgddi.stages.classify.methods import reweighing
from cgddi.stages.classify.rows import Rows, draws
from cgddi.stages.classify.settings import ClassifySettings, Regime, training_of


@dataclass
class TrainingState:
    """Where a training stands: what a checkpoint needs beside the network and the optimiser."""

    epoch: int = 0
    batch: int = 0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    """Epochs that are done, batches of the one under way, and the sum of each of its loss terms."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Per epoch the learning rate, the loss with its terms, and the scores on the held-out images."""
    chosen_epoch: int = 0
    best: list[float] = field(default_factory=lambda: [-math.inf, -math.inf])
    best_weights: dict[str, torch.Tensor] | None = None
    start_weights: dict[str, torch.Tensor] | None = None
    """The best weights before the epochs that a regime which starts from this one takes (see `turn`)."""
    waited: int = 0
    images: int = 0
    steps: int = 0
    """Work done by this process; what a killed one did before is not in it."""


class Losses(nn.Module):
    """A method's losses as the forward pass of a module, as gradients are gathered over several processes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images, labels, tones, weight) -> dict[str, torch.Tensor]:
        """Terms to be added up; see `cgddi.stages.classify.methods`."""
        return self.model.losses(images, labels, tones, weight)


@torch.inference_mode()
def predict(accelerator: Accelerator, model: nn.Module, pictures: Pictures, names: list[str]) -> np.ndarray:
    """Class probabilities of pictures in their test view, float64 (N, C).

    Raises:
        UserError: a probability is NaN; `names` says of which image.
    """
    model.eval()
    found = []
    for pixels in pictures.batches(np.array_split(np.arange(len(names)), range(64, len(names), 64))):
        with accelerator.autocast():
            logits = model(_input(normalise(pixels.to(accelerator.device, non_blocking=True))))
        found.append(functional.softmax(logits.float(), dim=1).double())
    probabilities = torch.cat(found).cpu().numpy()  # the one copy that waits for the device
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise UserError(
            f"the classifier's prediction for image {names[bad[0]]} is NaN ({len(bad)} such images). "
            "Lower learning_rate or set clip_norm."
        )
    return probabilities


def _input(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last)  # a quarter faster on CPUs, more on GPUs


def score(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy and cross-entropy of probabilities (N, C) against labels (N,)."""
    predicted = probabilities.argmax(axis=1)
    chosen = probabilities[np.arange(len(labels)), labels]
    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)])),
        "loss": float(-np.log(np.maximum(chosen, 1e-12)).mean()),
    }


def epoch_images(settings: ClassifySettings, batch_size: int, images: int) -> int:
    """Images that an epoch draws, in whole batches, of so many training images."""
    count = settings.images_per_epoch or images
    return max(count // batch_size * batch_size, min(count, batch_size))


def turn(settings: ClassifySettings, epochs: int) -> int | None:
    """Epochs after which a regime that starts from another's weights takes over, so that both take as many steps in all; None where
    its epochs come on top (published), or none would be left."""
    before = epochs - settings.finetune_epochs
    return before if settings.images_per_epoch and before > 0 else None


def train(
    accelerator: Accelerator,
    model: nn.Module,
    rows: Rows,
    regime: Regime,
    method: str,
    settings: ClassifySettings,
    seed: int,
    threads: int = 1,
    checkpoint: Checkpoint | None = None,
) -> TrainingState:
    """Train a model in place, from the last checkpoint if there is one; afterwards it holds the weights of the chosen epoch.

    Several processes share each batch evenly; batch normalisation, terms over pairs of images and means of weighted images are
    of each process's own share. The first process chooses the epoch.

    Args:
        accelerator: see `job.trackers.reporting`.
        model: see `cgddi.stages.classify.methods`.
        rows: training rows, and those on which the epoch is chosen.
        regime: real : synthetic draws; one that starts from another's weights has its own rate and epochs, and stops early where
            these come on top.
        method: decides sampling and loss weights.
        seed: of draws and augmentation.
        threads: that decode pictures, or processes where many are to be decoded.
        checkpoint: where the state is kept; None keeps none. Several processes look at the end of an epoch only.

    Raises:
        UserError: the loss is NaN or infinite.
        InvalidInput: a picture is not what the index says.
        Terminated: SIGTERM came; the state is kept.
    """
    training = training_of(settings, method)
    finetune = regime.init is not None
    rate = settings.finetune_learning_rate if finetune else training.learning_rate
    epochs = settings.finetune_epochs if finetune else training.epochs
    count = settings.images_per_epoch or len(rows.train)
    whole = epoch_images(settings, training.batch_size, len(rows.train))
    last_of_start = None if finetune else turn(settings, epochs)
    share, odd = divmod(min(count, training.batch_size), accelerator.num_processes)
    if odd:
        raise UserError(
            f"{accelerator.num_processes} processes cannot share a batch of {min(count, training.batch_size)} images evenly. Set "
            "batch_size to a multiple, or classify.num_processes to 1."
        )
    device = accelerator.device
    pictures = Pictures(rows.train, settings, False, threads)
    held = {"validation": rows.validation, "test": rows.test, "last": None}[settings.selection]
    held_pictures = None if held is None else Pictures(held, settings, True, threads).load()
    if epochs * count >= len(rows.train):  # else few of them are ever drawn
        pictures.load()
    about = {name: torch.tensor(rows.train[name].to_numpy(), device=device) for name in ("label", "tone_id")}
    if method == "reweighting":
        weight = reweighing(rows.train["label"].to_numpy(), rows.train["tone_id"].to_numpy())
        about["weight"] = torch.from_numpy(weight).to(device)

    model.to(device, memory_format=torch.channels_last)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, training.lr_step or epochs + 1, training.lr_gamma)
    network, optimizer = accelerator.prepare(Losses(model), optimizer)

    state, checkpoint = TrainingState(), checkpoint or Checkpoint(None, "classify", None)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": accelerator.scaler}
    parts = {name: part for name, part in parts.items() if part is not None}
    _take_up(checkpoint, state, parts)
    if not accelerator.is_main_process:
        checkpoint.path = None
    for entry in state.history:
        _show(accelerator, entry)
    names: list[str] = []

    def forward_backward(given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Loss terms of a batch, detached, in the order of `names`; its gradients are added to the parameters'."""
        images = _input(augment(given["pixels"], given["views"], settings))
        terms = network(images, given["label"], given["tone_id"], given.get("weight"))
        names[:] = terms
        each = torch.stack([term.float() for term in terms.values()])
        accelerator.backward(each.sum())
        return each.detach()

    finished = False
    drawn = draws(rows.train, method, settings, regime.ratio, seed, range(state.epoch, epochs))
    several = accelerator.num_processes > 1
    graph, graphed = None, settings.cuda_graphs and device.type == "cuda" and not several
    with checkpoint.kept(lambda: _state(state, parts), seconds=0 if several else None, at_once=several) as look:
        for places in drawn:
            epoch = state.epoch
            views = torch.from_numpy(random_views(len(places), np.random.default_rng((seed, epoch, 1)))).to(device)
            which = torch.from_numpy(places).to(device)
            first = range(accelerator.process_index * share, whole, training.batch_size)
            mine = [slice(start, start + share) for start in first]
            left = mine[state.batch :]
            model.train()
            batches = zip(left, pictures.batches([places[batch] for batch in left]), strict=True)
            bar = {"total": len(mine), "initial": state.batch, "unit": "batch"}
            for batch, pixels in tqdm(
                batches, f"epoch {epoch + 1}/{epochs}", **bar, disable=not accelerator.is_main_process
            ):
                row = which[batch]
                given = {"pixels": pixels.to(device, non_blocking=True), "views": views[batch]}
                given |= {name: values[row] for name, values in about.items()}
                optimizer.zero_grad(set_to_none=graph is None)
                if graphed and graph is None:
                    graph = record(forward_backward, model, parameters, given)
                terms = (graph or forward_backward)(given).double() * len(row)
                if training.clip_norm:
                    accelerator.clip_grad_norm_(parameters, training.clip_norm)
                optimizer.step()
                for name, term in zip(names, terms.unbind(), strict=True):
                    state.sums[name] = state.sums.get(name, 0.0) + term
                state.steps += 1
                state.images += len(row) * accelerator.num_processes
                state.batch += 1
                if not several:
                    look()
            means = accelerator.reduce(torch.stack([value.to(device) for value in state.sums.values()])).tolist()
            if bad := [name for name, value in zip(state.sums, means, strict=True) if not math.isfinite(value)]:
                raise UserError(
                    f"the loss became NaN or infinite in epoch {epoch + 1} (term: {', '.join(bad)}). "
                    "Lower learning_rate or set clip_norm."
                )
            entry: dict[str, Any] = {"epoch": epoch + 1, "learning_rate": schedule.get_last_lr()[0]}
            entry["terms"] = {name: round(value / whole, 6) for name, value in zip(state.sums, means, strict=True)}
            entry["train_loss"] = round(sum(entry["terms"].values()), 6)
            schedule.step()
            state.history.append(entry)
            if held is None:
                state.chosen_epoch = epoch + 1
            else:
                probabilities = predict(accelerator, model, held_pictures, held["image_id"].tolist())
                [scores] = broadcast_object_list([score(probabilities, held["label"].to_numpy())])
                entry["held_out"] = {name: round(value, 6) for name, value in scores.items()}
                waited = _choose(state, model, scores, settings)
                finished = finetune and not settings.images_per_epoch and waited >= settings.patience
            if epoch + 1 == last_of_start:
                state.start_weights = state.best_weights or _weights(model)
            _show(accelerator, entry)
            state.epoch, state.batch, state.sums = epoch + 1, 0, {}
            if finished:
                break
            look()
    if state.best_weights is not None:
        model.load_state_dict(state.best_weights)
    return state


def record(
    work: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
    model: nn.Module,
    parameters: list[nn.Parameter],
    given: Mapping[str, torch.Tensor],
) -> GraphedStep:
    """A step as a CUDA graph; the rounds before its recording leave running means and random numbers as they were."""
    before, random = {name: value.clone() for name, value in model.named_buffers()}, random_state()
    graph = GraphedStep(work, parameters, given)
    for name, value in model.named_buffers():
        value.copy_(before[name])
    restore_random(random)
    return graph


def _show(accelerator: Accelerator, entry: dict[str, Any]) -> None:
    """An epoch's figures, to the trackers."""
    held_out = {f"held_out/{name}": value for name, value in entry.get("held_out", {}).items()}
    terms = {f"terms/{name}": value for name, value in entry["terms"].items()}
    figures = {name: entry[name] for name in ("train_loss", "learning_rate")}
    accelerator.log({**figures, **terms, **held_out}, step=entry["epoch"])


def _state(state: TrainingState, parts: dict[str, Any]) -> dict[str, Any]:
    """All that a training needs to go on."""
    own = {name: value for name, value in vars(state).items() if name not in ("images", "steps")}
    return {"own": own, "random": random_state(), **{name: part.state_dict() for name, part in parts.items()}}


def _take_up(checkpoint: Checkpoint, state: TrainingState, parts: dict[str, Any]) -> None:
    """Put the last state that was kept, if there is one, into its places."""
    if (saved := checkpoint.take_up()) is None:
        return
    vars(state).update(saved["own"])
    for name, part in parts.items():
        if name == "optimizer":
            restore_optimizer(part, saved[name])
        else:
            part.load_state_dict(saved[name])
    restore_random(saved["random"])


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _choose(state: TrainingState, model: nn.Module, scores: dict[str, float], settings: ClassifySettings) -> int:
    """Keep the weights if the epoch is the best so far; returns how many epochs it has been since the best."""
    found = [scores[settings.selection_metric], -scores["loss"]]
    if found > state.best:
        state.best, state.waited, state.chosen_epoch = found, 0, len(state.history)
        state.best_weights = _weights(model)
    else:
        state.waited += 1
    return state.waited
