"""The recipe of FEDD's baselines, beside plain loops and losses by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from cgddi.core.seeds import seed_for
from cgddi.fedd.baselines.train import augmented, loss_of, to_input
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional
from torchvision.transforms import v2

from tests.fedd.photos import write_study
from tests.fedd.specs import fedd


def read(rows):
    """Photos and masks at 64 px, by Pillow."""
    pixels = [
        np.asarray(Image.open(row["file"]).resize((64, 64), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
        for row in rows
    ]
    masks = [
        Image.fromarray(np.load(row["mask"]).astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)
        for row in rows
    ]
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(np.stack(pixels)) / 255 - mean) / std, torch.from_numpy(np.stack(masks)).long()


def test_a_unet_is_trained_by_adam_on_cross_entropy_and_dice(tmp_path):
    """Two epochs written out: order, loss, steps; the last lone photo is left out; the epoch of the best mean IoU is kept."""
    import segmentation_models_pytorch as smp

    study = write_study(tmp_path / "study", 3)
    study["train"] = study["train"][:7]
    settings = {
        "weights": "random",
        "epochs": 2,
        "batch_size": 3,
        "learning_rate": 1e-4,
        "dice_weight": 0.5,
        "augment": False,
    }
    base = {
        "task": "segmentation",
        "network": "mobilenet_v2",
        "subset": "5",
        "run_seed": 2,
        "size": 64,
        "crop": "resize",
    }
    spec = {**base, "seed": 1, "id_map": None, "settings": settings, **study}
    record = fedd("baseline", spec, tmp_path, "--metrics", str(tmp_path / "metrics.jsonl"))
    used = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (used["images"], used["steps"]) == (12, 4)

    torch.manual_seed(seed_for(1, "fedd baseline", "segmentation", "mobilenet_v2", 2))
    network = smp.Unet("mobilenet_v2", encoder_weights=None, classes=5)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    x, y = read(study["train"])
    held_x, held_y = read(study["validation"])
    for line in record["history"]:
        losses = []
        for batch in torch.randperm(7).split(3)[:2]:
            logits = network.train()(x[batch])
            chances, truth = logits.softmax(1), functional.one_hot(y[batch], 5).permute(0, 3, 1, 2)
            both, total = ((chances * truth).sum((0, 2, 3)), (chances + truth).sum((0, 2, 3)))
            dice = ((1 - 2 * both / total) * (truth.sum((0, 2, 3)) > 0)).mean()  # absent classes cost nothing
            loss = functional.cross_entropy(logits, y[batch]) + 0.5 * dice
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert line["train_loss"] == pytest.approx(np.mean(losses), rel=0.015)  # Adam turns noise of 1e-7 into steps
        with torch.no_grad():
            logits = torch.cat([network.eval()(part) for part in held_x.split(3)])
        predicted = logits.argmax(1)
        iou = [((predicted == k) & (held_y == k)).sum() / ((predicted == k) | (held_y == k)).sum() for k in range(5)]
        assert line["score"] == pytest.approx(np.nanmean(iou), abs=0.02)
        assert line["loss"] == pytest.approx(functional.cross_entropy(logits, held_y).item(), rel=0.02)
    best = max(record["history"], key=lambda line: (line["score"], -line["loss"]))
    assert record["chosen_epoch"] == best["epoch"]


def test_a_classifier_stops_when_validation_does_not_improve(tmp_path):
    """A learning rate that wrecks it: the loss rises, training stops after its patience, and the best epoch's weights are kept."""
    study = write_study(tmp_path / "study", 2)
    settings = {"weights": "random", "epochs": 40, "patience": 2, "batch_size": 3, "learning_rate": 0.01}
    base = {
        "task": "classification",
        "network": "mobilenetv2_100",
        "subset": "5",
        "run_seed": 0,
        "size": 32,
        "crop": "resize",
    }
    record = fedd("baseline", {**base, "seed": 2, "settings": settings, **study}, tmp_path)
    losses = [line["loss"] for line in record["history"]]
    assert losses[-1] > min(losses) + 0.1
    assert [-line["score"] for line in record["history"]] == losses
    assert record["chosen_epoch"] == 1 + int(np.argmin(losses)) and len(losses) == record["chosen_epoch"] + 2 < 40
    table = pd.read_csv(tmp_path / "out/predictions.csv").query("role == 'validation'")
    chance = np.where(table["malignant"], table["probability"], 1 - table["probability"])
    assert -np.log(np.maximum(chance, 1e-7)).mean() == pytest.approx(min(losses), abs=1e-3)


def test_losses_by_hand():
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    both = functional.cross_entropy(logits, labels)
    assert loss_of("classification", 1.0)(logits, labels) == both
    assert loss_of("classification", 1.0)((logits, -logits), labels) == both + 0.4 * functional.cross_entropy(
        -logits, labels
    )


def test_views_are_flipped_turned_to_30_degrees_and_relit_by_a_fifth():
    """A quarter disc of class 1 on grey: where its mass lies tells flips and angle, its grey the light."""
    y, x = np.mgrid[:64, :64] - 31.5
    mask = torch.from_numpy(((x > 0) & (y > 0) & (x**2 + y**2 < 324)).astype(np.int64))
    photo = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    torch.manual_seed(0)
    views, masks = augmented(photo.expand(300, -1, -1, -1), mask.expand(300, -1, -1))
    angles, quarters = [], []
    for view in masks.numpy():
        down, right = (np.nonzero(view)[axis].mean() - 31.5 for axis in (0, 1))
        quarters.append((right < 0, down < 0))
        angles.append(math.degrees(math.atan2(abs(down), abs(right))) - 45)
    assert np.mean(quarters, axis=0) == pytest.approx(0.5, abs=0.1)
    assert (
        25 < np.abs(angles).max() < 32
        and abs(np.mean(angles)) < 3
        and np.std(angles) == pytest.approx(60 / math.sqrt(12), abs=2)
    )
    light = views.float().mean((1, 2, 3)) / 128
    assert 0.77 < light.min() < 0.83 and 1.17 < light.max() < 1.22
    assert (masks.sum((1, 2)) / mask.sum()).sub(1).abs().max() < 0.1, "mirrored borders add no piece of the disc"


def test_pixels_come_as_torchvision_normalises_them():
    pixels = torch.arange(48, dtype=torch.uint8).mul(5).view(1, 3, 4, 4)
    ready = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
    )
    assert torch.equal(to_input(pixels), ready(pixels))
