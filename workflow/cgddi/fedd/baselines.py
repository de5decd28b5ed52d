"""One baseline run: read the subset, build the network, train it, test it, write the results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgddi.core.archive import canonical, record_for, write_atomic, write_record
from cgddi.core.errors import UserError
from cgddi.core.seeds import seed_for
from cgddi.diffusion.weights import write_tensors
from cgddi.fedd.baselines_networks import build_classifier, build_deepderm, build_unet
from cgddi.fedd.baselines_train import Fit, predict, train
from cgddi.fedd.photos import Photos, read_photos, without_covered
from cgddi.fedd.results import iou_csv, pictures, predictions_csv
from cgddi.fedd.settings import CLASSIFICATION_NETWORKS, SEGMENTATION_NETWORKS, BaselinesSettings
from cgddi.fedd.study_input import ROLES, check_roles, tone_counts
from cgddi.job import runtime

NETWORKS = {"segmentation": SEGMENTATION_NETWORKS, "classification": CLASSIFICATION_NETWORKS}


def build(
    task: str, network: str, settings: BaselinesSettings, size: int
) -> tuple[torch.nn.Module, dict[str, Any], int, float]:
    """The network, facts for the record, the side of its input in pixels, and the threshold of a classifier.

    Raises:
        UserError: no such task or network, weights that cannot be had, or a side no U-Net takes.
    """
    if network not in NETWORKS.get(task, ()):
        known = "; ".join(f"{name}: {', '.join(networks)}" for name, networks in NETWORKS.items())
        raise UserError(f"no {task} baseline {network!r}. There are {known}.")
    weights = settings.weights_of(task, network)
    if task == "segmentation":
        if size % 32:
            raise UserError(
                f"U-Nets halve their input five times, so fedd.features.size must be a multiple of 32, not {size}."
            )
        return *build_unet(network, weights), size, 0.5
    if network == "deepderm":
        threshold = 0.5 if settings.deepderm.finetune else settings.deepderm.threshold
        return *build_deepderm(weights), settings.deepderm.size, threshold
    return *build_classifier(network, weights, size), size, 0.5


def run_baseline(
    spec: Mapping[str, Any],
    settings: BaselinesSettings,
    output: str | Path,
    threads: int,
    metrics: str | Path | None = None,
) -> None:
    """Train and test one baseline (see `cgddi fedd baseline --help`).

    Args:
        spec: the job's spec. settings: how to train. output: folder. threads: CPU threads. metrics: usage log, or None.

    Raises:
        UserError: see `build` and `train`. InvalidInput: photos or masks that cannot be read.
    """
    task, network, run_seed = spec["task"], spec["network"], int(spec["run_seed"])
    facts = {"task": task, "network": network, "subset": str(spec["subset"]), "run_seed": run_seed}
    with runtime.usage_log(metrics, stage="fedd_baseline", **facts) as usage:
        device = runtime.start(threads)
        check_roles(spec)
        seed = seed_for(int(spec["seed"]), "fedd baseline", task, network, run_seed)
        torch.manual_seed(seed)
        model, model_facts, size, threshold = build(task, network, settings, int(spec["size"]))
        masks = task == "segmentation"
        photos = {role: read_photos(spec[role], size, spec["crop"], spec.get("id_map"), masks) for role in ROLES}
        fit, left_out = Fit(), []
        if masks:
            photos["train"], left_out = without_covered(photos["train"])
        if network == "deepderm" and not settings.deepderm.finetune:
            model.to(device)
        else:
            if not masks:
                _two_kinds(photos["train"], spec["subset"])
            fit = train(model, photos["train"], photos["validation"], task, settings, device, seed)
        found = {role: predict(model, photos[role], settings, device) for role in ("validation", "test")}
        usage.update(images=fit.images, steps=fit.steps)
    out = Path(output)
    files = [row[key] for role in ROLES for row in spec[role] for key in ("file", "mask")[: 1 + masks]]
    record = record_for(
        spec,
        sorted(set(files)),
        **facts,
        training_images=sorted(row["image_id"] for row in photos["train"].rows) if fit.steps else [],
        model=model_facts,
        counts={role: tone_counts(photos[role].rows) for role in ROLES},
        left_out=left_out,
        history=fit.history,
        chosen_epoch=fit.chosen_epoch,
    )
    if masks:
        predicted = {role: found[role].argmax(1).astype(np.uint8) for role in found}
        for role in found:
            write_atomic(out / f"{role}.csv", iou_csv(photos[role].rows, predicted[role], photos[role].truth))
        test = photos["test"]
        shown = pictures(test.rows, test.pixels, test.truth, predicted["test"], None, int(spec["seed"]))
        write_atomic(out / "pictures.safetensors", shown)
    else:
        record["threshold"] = threshold
        lines = [
            {**row, "role": role, "block": None, "seed": run_seed, "probability": float(chance[1])}
            for role in found
            for row, chance in zip(photos[role].rows, found[role], strict=True)
        ]
        write_atomic(out / "predictions.csv", predictions_csv(lines))
    metadata = {"cgddi": canonical({"task": task, "network": network})}
    write_tensors(out / "weights.safetensors", model.state_dict(), metadata)
    write_record(out / "record.json", record)


def _two_kinds(photos: Photos, subset: str) -> None:
    kinds = {bool(row["malignant"]) for row in photos.rows}
    if len(kinds) < 2:
        raise UserError(
            f"all training photos of subset {subset} are {'malignant' if True in kinds else 'benign'}; a classifier learns from "
            "both kinds. Raise fedd.subsets.train_per_tone, or set fedd.subsets.balance: tone_and_malignancy."
        )
