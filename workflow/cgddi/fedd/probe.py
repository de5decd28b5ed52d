"""Malignancy probes: small networks on pooled block features, all blocks and seeds of one timestep trained at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cgddi.core.archive import record_for, write_atomic, write_record
from cgddi.core.errors import Problem, UserError, refuse
from cgddi.core.seeds import seed_for
from cgddi.fedd.features.files import FeatureFiles
from cgddi.fedd.segmenter.ensemble import EnsembleMLP, EnsembleTraining
from cgddi.fedd.settings import ProbeSettings
from cgddi.fedd.study import check_both_kinds, open_study, predictions_csv, roles_of, study_checkpoint, tone_counts
from cgddi.job import runtime
from cgddi.job.checkpoint import Checkpoint
from cgddi.job.trackers import reporting

LEARNT = ("train", "validation")
"""Roles of photos whose malignancy a probe is told."""


@dataclass(frozen=True)
class Pooled:
    """Pooled features of the photos of one role.

    Args:
        x: float32 (N, blocks, 512). y: 1 malignant, 0 benign, float32 (N,); empty where nothing is learnt.
    """

    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True)
class TrainedProbes:
    """Trained probes, one per (block, seed).

    Args:
        networks: in evaluation mode, each at its best epoch. epochs: best epoch of each. losses: validation loss there.
    """

    networks: EnsembleMLP
    epochs: list[int]
    losses: list[float]


def run_probe(
    spec: Mapping[str, Any],
    settings: ProbeSettings,
    features: Sequence[str | Path],
    output: str | Path,
    threads: int,
    metrics: str | Path | None = None,
    state: str | Path | None = None,
) -> None:
    """Train and test the probes of one subset and timestep (see `cgddi fedd probe --help`).

    Raises:
        UserError: features of another timestep, a training photo that is also tested, training photos of one class only.
        InvalidInput: photos without pooled features, or learnt from without known malignancy.
    """
    subset, timestep, seeds = str(spec["subset"]), int(spec["timestep"]), [int(seed) for seed in spec["seeds"]]
    with runtime.usage_log(metrics, stage="fedd_probe", subset=subset, timestep=timestep) as usage:
        device, report = runtime.start(threads), reporting(metrics)
        files = open_study(features, spec)
        blocks = files.blocks(spec["train"][0]["image_id"], "pooled")
        data = load_pooled(files, spec, blocks, device)
        names = (int(spec["seed"]), "fedd probe", subset)
        checkpoint = study_checkpoint(state, "probe", spec, features)
        trained = fit(data["train"], data["validation"], settings, blocks, seeds, names, checkpoint, report.log)
        report.end_training()
        probes = [(block, seed) for block in blocks for seed in seeds]
        lines = [
            {**row, "role": role, "block": block, "seed": seed, "probability": chance}
            for role in roles_of(spec)[1:]
            for row, chances in zip(spec[role], predict(trained.networks, data[role].x, len(seeds)), strict=True)
            for (block, seed), chance in zip(probes, chances.tolist(), strict=True)
        ]
        usage.update(images=len(spec["train"]), steps=settings.epochs)
    record = record_for(
        spec,
        sorted(map(str, features)),
        subset=subset,
        timestep=timestep,
        blocks=blocks,
        seeds=seeds,
        training_images=sorted(row["image_id"] for row in spec["train"]),
        counts={role: tone_counts(spec[role]) for role in roles_of(spec)},
        features={name: files.facts.get(name) for name in ("model", "size", "crop")},
        probes=[
            {"block": block, "seed": seed, "chosen_epoch": epoch, "validation_loss": round(loss, 6)}
            for (block, seed), epoch, loss in zip(probes, trained.epochs, trained.losses, strict=True)
        ],
    )
    write_atomic(Path(output) / "predictions.csv", predictions_csv(lines))
    write_record(Path(output) / "record.json", record, [Path(output) / "predictions.csv"])
    checkpoint.remove()


def load_pooled(
    files: FeatureFiles, spec: Mapping[str, Any], blocks: Sequence[int], device: torch.device | str = "cpu"
) -> dict[str, Pooled]:
    """Pooled features and labels by role.

    Raises:
        UserError: training photos of one class only. InvalidInput: every photo without features or label.
    """
    rows = [row for role in roles_of(spec) for row in spec[role]]
    problems = [
        Problem(f"image {row['image_id']}", "malignancy is unknown", "Fill in its column malignant.")
        for role in LEARNT
        for row in spec[role]
        if row["malignant"] is None
    ]
    refuse(problems)
    files.check_images([row["image_id"] for row in rows], blocks, "pooled")
    check_both_kinds(spec["train"], spec["subset"])
    data = {}
    for role in roles_of(spec):
        x = [torch.stack([files.pooled(row["image_id"], block).float() for block in blocks]) for row in spec[role]]
        y = [float(row["malignant"]) for row in spec[role]] if role in LEARNT else []
        data[role] = Pooled(torch.stack(x).to(device), torch.tensor(y, device=device))
    return data


def fit(
    train: Pooled,
    validation: Pooled,
    settings: ProbeSettings,
    blocks: Sequence[int],
    seeds: Sequence[int],
    seed_names: Sequence[Any],
    checkpoint: Checkpoint | None = None,
    report: Callable[..., None] = lambda values, step: None,
) -> TrainedProbes:
    """Train one network 512-64-32-1 per block and seed by full-batch Adam on binary cross-entropy (FEDD, section 2.2).

    Members are apart: each has its own generator (named by block and seed) for weights and dropout, and keeps the epoch of its
    lowest validation loss, of those before `patience` epochs without a lower one. The state is kept from epoch to epoch, and
    `report` takes the members' mean losses on training and validation photos, and the epoch.
    """
    members = [(place, block, seed) for place, block in enumerate(blocks) for seed in seeds]
    networks = EnsembleMLP(len(members), train.x.shape[2], settings.hidden, 1, settings.dropout)
    generators = [torch.Generator().manual_seed(seed_for(*seed_names, block, seed)) for _, block, seed in members]
    networks.draw(generators)
    networks.to(train.x.device)
    places = torch.tensor([place for place, *_ in members], device=train.x.device)
    shift, scale = train.x.mean(0)[places], train.x.std(0).clamp_min(1e-4)[places]
    if not settings.standardise:
        shift, scale = torch.zeros_like(shift), torch.ones_like(scale)
    x, held_x = ((part.x[:, places] - shift) / scale for part in (train, validation))
    y, held_y = (part.y[:, None].expand(-1, len(members)) for part in (train, validation))
    optimizer = torch.optim.Adam(
        networks.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
    )
    training = EnsembleTraining(networks, generators, optimizer, settings.patience)
    best, curve, checkpoint = training.best, [], checkpoint or Checkpoint(None, "probe", None)
    if saved := checkpoint.take_up():
        curve = saved["curve"]
        training.load_state_dict(saved)
    for epoch, figures in enumerate(curve, 1):
        report(figures, step=epoch)
    with checkpoint.kept(lambda: {"curve": curve, **training.state_dict()}) as look:
        for epoch in range(len(curve) + 1, settings.epochs + 1):
            networks.train()
            loss = functional.binary_cross_entropy_with_logits(networks(x)[..., 0], y)
            training.step(loss)
            networks.eval()
            with torch.no_grad():
                losses = functional.binary_cross_entropy_with_logits(networks(held_x)[..., 0], held_y, reduction="none")
            # one wait for the device
            train_loss, losses = torch.cat([loss.detach()[None], losses.mean(0)]).cpu().tensor_split([1])
            if not torch.isfinite(losses).all():
                raise UserError(f"a probe's loss is not a number at epoch {epoch}. Lower fedd.probe.learning_rate.")
            curve.append({"train_loss": train_loss.item(), "held_out/loss": losses.mean().item()})
            report(curve[-1], step=epoch)
            best.look(epoch, losses)
            if best.stop(epoch):
                break
            look()
    best.restore()
    networks.fold(shift, scale)
    return TrainedProbes(networks, best.chosen.tolist(), best.lowest.tolist())


@torch.inference_mode()
def predict(networks: EnsembleMLP, x: torch.Tensor, seeds: int) -> np.ndarray:
    """Probability of malignancy, float64 (N, blocks * seeds), of pooled features x (N, blocks, 512)."""
    return networks(x.repeat_interleave(seeds, 1))[..., 0].double().sigmoid().cpu().numpy()
