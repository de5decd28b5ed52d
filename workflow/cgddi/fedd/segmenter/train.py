"""Train the ensemble of pixel networks of one subset on stored features, all members at once, and test it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from cgddi.core.archive import record_for, write_atomic, write_record
from cgddi.core.errors import UserError
from cgddi.core.images import CLASSES, LESION, TONES
from cgddi.core.seeds import seed_for
from cgddi.fedd.segmenter.ensemble import EnsembleMLP, EnsembleTraining, Segmenter, vote
from cgddi.fedd.segmenter.pixels import Pixels, PixelSampler, ValidationPixels, load_pixels, validation_pixels
from cgddi.fedd.settings import SegmenterSettings
from cgddi.fedd.study import (
    iou_csv,
    open_study,
    pictures,
    read_photos,
    roles_of,
    study_checkpoint,
    tone_counts,
    without_covered,
)
from cgddi.job import runtime
from cgddi.job.checkpoint import Checkpoint
from cgddi.job.trackers import reporting

CHUNK = 20
"""Steps whose pixels are gathered at once."""
VALIDATION_PIXELS = 1000
"""Pixels of each validation photo that are looked at, the same number of each class it has (project's choice)."""


def run_segmenter(
    spec: Mapping[str, Any],
    settings: SegmenterSettings,
    features: Sequence[str | Path],
    output: str | Path,
    threads: int,
    metrics: str | Path | None = None,
    state: str | Path | None = None,
) -> None:
    """Train and test one segmenter (see `cgddi fedd segmenter --help`).

    Raises:
        UserError: features of other settings than the spec's, a training photo that is also tested, no lesion to learn.
        InvalidInput: photos without features or with a bad mask, all of them.
    """
    variant, run_seed, blocks = spec["variant"], int(spec["run_seed"]), list(spec["blocks"])
    facts = {"variant": variant, "subset": str(spec["subset"]), "run_seed": run_seed}
    with runtime.usage_log(metrics, stage="fedd_segmenter", **facts) as usage:
        device, report = runtime.start(threads), reporting(metrics)
        files = open_study(features, spec)
        files.check_images([row["image_id"] for role in roles_of(spec) for row in spec[role]], blocks, "map")
        photos = {
            role: read_photos(spec[role], int(spec["size"]), spec["crop"], spec.get("id_map"))
            for role in roles_of(spec)
        }
        photos["train"], left_out = without_covered(photos["train"])
        train, validation = (
            load_pixels(files, photos[role], blocks, device, variant == "centre") for role in ("train", "validation")
        )
        # The same pixels and initial weights for every variant: their difference is the treatment of tones alone.
        names = (int(spec["seed"]), "fedd segmenter", str(spec["subset"]), run_seed)
        checkpoint = study_checkpoint(state, "segmenter", spec, features)
        trained = fit(train, validation, settings, variant, names, checkpoint, report.log)
        report.end_training()
        usage.update(images=len(photos["train"]), steps=trained.history[-1]["step"])
        known = {
            **facts,
            "blocks": blocks,
            "channels": [block.shape[1] for block in train.maps],
            **{name: files.facts[name] for name in ("model", "size", "timestep", "crop")},
            "settings": settings.model_dump(mode="json"),
            "training_images": sorted(photos["train"].images),
        }
        segmenter = Segmenter(trained.networks, known)
        out = Path(output)
        disagreement = {}
        for role in roles_of(spec)[1:]:
            masks = [segmenter.predict(files.maps(name, blocks)) for name in photos[role].images]
            predicted, uncertainty = (np.stack(part) for part in zip(*masks, strict=True))
            write_atomic(out / f"{role}.csv", iou_csv(photos[role].rows, predicted, photos[role].truth))
            disagreement[role] = mean_disagreement(uncertainty, predicted == photos[role].truth)
            if role == "test":
                shown = pictures(photos["test"], predicted, uncertainty, int(spec["seed"]))
    write_atomic(out / "pictures.safetensors", shown)
    segmenter.save(out / "weights.safetensors")
    seen = {row[key] for role in roles_of(spec) for row in spec[role] for key in ("file", "mask")}
    record = record_for(
        spec,
        sorted({*map(str, features), *seen}),
        **known,
        counts={role: tone_counts(photos[role].rows) for role in roles_of(spec)},
        left_out=left_out,
        history=trained.history,
        chosen_steps=trained.chosen_steps,
        disagreement=disagreement,
    )
    names = ("weights.safetensors", "test.csv", "validation.csv", "pictures.safetensors")
    write_record(out / "record.json", record, [out / name for name in names])
    checkpoint.remove()


@dataclass(frozen=True)
class TrainedEnsemble:
    """A trained ensemble and how it went.

    Args:
        networks: in evaluation mode, each member at its best step.
        history: per check: step, loss (mean over members and tones), lesion_iou by tone, tone_weights.
        chosen_steps: best step of each member.
    """

    networks: EnsembleMLP
    history: list[dict[str, Any]]
    chosen_steps: list[int]


def fit(
    train: Pixels,
    validation: Pixels,
    settings: SegmenterSettings,
    variant: str,
    seed_names: Sequence[Any],
    checkpoint: Checkpoint | None = None,
    report: Callable[..., None] = lambda values, step: None,
) -> TrainedEnsemble:
    """Train an ensemble by Adam on cross-entropy, each member on its own batches of pixels.

    Every member has its own initial weights and pixels (seeds by name and member, so another number of members changes none).
    Each member keeps the weights of its lowest validation loss, of those before `patience` checks without a lower one.

    Variants: `plain`; `reweight`: pixels are drawn by tone with weights that grow while lesion IoU on validation photos is
    poor (group DRO, Sagawa et al. 2020, algorithm 1, with 1 - lesion IoU on held-out pixels as the group's loss), and a member's
    validation loss is that of its worst tone; `centre` differs from plain in the features alone, which are given less each photo's
    own mean.

    Args:
        train, validation: photos; nothing else is read. settings: of the segmenter. variant: plain, reweight or centre.
        seed_names: project seed and names of the run, for `seed_for`. checkpoint: where the state is kept; None keeps none.
        report: takes the figures of each check and its step.

    Raises:
        UserError: no lesion in any training mask, or the loss is not a number.
        Terminated: SIGTERM came; the state is kept.
    """
    if not (train.truth == LESION).any():
        raise UserError("none of the training masks has a lesion (class 1). Look at masks.id_map and the masks.")
    members = range(settings.ensemble)
    generators = [torch.Generator().manual_seed(seed_for(*seed_names, "member", member)) for member in members]
    channels = sum(block.shape[1] for block in train.maps)
    networks = EnsembleMLP(len(members), channels, settings.hidden, len(CLASSES))
    networks.draw(generators)
    networks.to(train.truth.device)
    held = validation_pixels(validation, VALIDATION_PIXELS, seed_for(seed_names[0], "fedd validation pixels"))
    sampler = PixelSampler(train, generators)
    optimizer = torch.optim.Adam(networks.parameters(), lr=settings.learning_rate, foreach=True)
    training = EnsembleTraining(networks, generators, optimizer, settings.patience * settings.check_every)
    best, history, step = training.best, [], 0
    checkpoint = checkpoint or Checkpoint(None, "segmenter", None)
    if saved := checkpoint.take_up():
        step, history, sampler.tone_weights = saved["step"], saved["history"], saved["tone_weights"]
        training.load_state_dict(saved)
    for line in history:
        report(_figures(line), step=line["step"])

    def state() -> dict[str, Any]:
        return {"step": step, "history": history, "tone_weights": sampler.tone_weights, **training.state_dict()}

    with (
        checkpoint.kept(state) as look,
        tqdm(total=settings.steps, initial=step, desc="segmenter", unit="step", mininterval=5) as bar,
    ):
        while step < settings.steps and not best.stop(step):
            until = min((step // settings.check_every + 1) * settings.check_every, settings.steps)
            networks.train()
            while step < until:
                count = min(CHUNK, until - step)
                for x, y in zip(*sampler.take(count, settings.batch_pixels), strict=True):
                    training.step(functional.cross_entropy(networks(x).flatten(0, 1), y.flatten()))
                step += count
                bar.update(count)
                if step < until:
                    look()
            losses, iou = check(networks, held)
            if not torch.isfinite(losses).all():
                raise UserError(
                    f"the segmenter's loss is not a number at step {step}. Lower fedd.segmenter.learning_rate."
                )
            best.look(step, losses.max(1).values if variant == "reweight" else losses.mean(1))
            history.append(_history_line(step, losses, iou, sampler.tone_weights))
            report(_figures(history[-1]), step=step)
            if variant == "reweight":
                sampler.reweigh(iou)
            look()
    best.restore()
    return TrainedEnsemble(networks, history, best.chosen.tolist())


@torch.no_grad()
def check(networks: EnsembleMLP, held: ValidationPixels) -> tuple[torch.Tensor, torch.Tensor]:
    """How the members do on validation pixels; leaves the networks in evaluation mode.

    Returns:
        Cross-entropy per member and tone that has pixels (E, tones), and the lesion IoU of the vote by tone (3,), NaN where a tone
        has no lesion pixel in truth or prediction; both estimated for all pixels of the photos.
    """
    networks.eval()
    logits = torch.cat([networks.shared(part) for part in held.x.split(4096)])
    each = held.y[:, None].expand(logits.shape[:2])
    loss = functional.cross_entropy(logits.movedim(2, 1), each, reduction="none")
    predicted = vote(logits)[0]
    losses, iou = [], []
    for tone in range(len(TONES)):
        mine = held.tone == tone
        weight = held.weight[mine]
        truth, ours = held.y[mine] == LESION, predicted[mine] == LESION
        iou.append((weight * (truth & ours)).sum() / (weight * (truth | ours)).sum())
        if mine.any():
            losses.append((loss[mine] * weight[:, None]).sum(0) / weight.sum())
    return torch.stack(losses, 1).cpu(), torch.stack(iou).cpu()


def _history_line(step: int, losses: torch.Tensor, iou: torch.Tensor, weights: torch.Tensor) -> dict[str, Any]:
    """One check for the record; undefined figures are null."""
    by_tone = {tone: round(v, 5) if v == v else None for tone, v in zip(TONES, iou.tolist(), strict=True)}
    tone_weights = {tone: round(v, 5) for tone, v in zip(TONES, weights.tolist(), strict=True)}
    return {"step": step, "loss": round(losses.mean().item(), 5), "lesion_iou": by_tone, "tone_weights": tone_weights}


def _figures(line: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a check that trackers show: those that are defined."""
    by_tone = {f"{name}/{tone}": v for name in ("lesion_iou", "tone_weights") for tone, v in line[name].items()}
    return {name: v for name, v in {"held_out/loss": line["loss"], **by_tone}.items() if v is not None}


def mean_disagreement(uncertainty: np.ndarray, right: np.ndarray) -> dict[str, float | None]:
    """Mean disagreement of the members on pixels they have right, and on those they have wrong (null: there are none)."""
    means = {"right": uncertainty[right], "wrong": uncertainty[~right]}
    return {name: round(float(values.mean()), 5) if values.size else None for name, values in means.items()}
