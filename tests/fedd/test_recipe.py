"""What decides FEDD's numbers, each against a plain computation: networks one by one, maps upsampled in full, metrics by hand."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from cgddi.core.images import TONES
from cgddi.core.seeds import seed_for
from cgddi.fedd.features.files import FeatureFiles
from cgddi.fedd.settings import FeddSettings
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from tests.fedd.specs import fedd
from tests.fedd.study import SIZE, make_study

UNEVEN = {"light": 4, "medium": 2, "dark": 1}
"""Training photos by tone: who is drawn how often shows."""


def test_defaults_are_the_published_recipe():
    settings = FeddSettings()
    features, segmenter, probe = settings.features, settings.segmenter, settings.probe
    assert (features.size, features.timestep, features.blocks) == (256, 100, (6, 8))
    assert features.ablation_timesteps == tuple(range(0, 1001, 50))
    assert (segmenter.ensemble, segmenter.hidden, segmenter.learning_rate, segmenter.batch_pixels) == (
        5,
        (128, 32),
        1e-3,
        64,
    )
    assert (probe.hidden, probe.dropout, probe.weight_decay, probe.epochs) == ((64, 32), (0.5, 0.25), 1e-5, 500)
    subsets = settings.subsets
    assert subsets.train_per_tone == {"5": 10, "10": 20, "15": 30, "20": 40}
    assert (subsets.validation_per_tone, subsets.test_per_tone, subsets.balance) == (10, 10, "tone_and_malignancy")
    assert subsets.keep_to_training and settings.masks_from.variant == "plain" and settings.masks_from.subset == "20"
    assert settings.baselines.learning_rate == 1e-4
    assert features.precision == settings.baselines.precision == "fp32"


# ---- segmenter -------------------------------------------------------------------------------------------------------


def plain_network(inputs, hidden, outputs, generator, dropout=(0, 0)):
    """An ordinary MLP whose weights come from a generator as nn.Linear would draw them; dropout takes from the same generator."""

    class Dropout(nn.Module):
        def __init__(self, rate):
            super().__init__()
            self.rate = rate

        def forward(self, x):
            if not (self.training and self.rate):
                return x
            return x * (torch.rand(x.shape, generator=generator) >= self.rate) / (1 - self.rate)

    layers, width = [], inputs
    for out, rate in zip((*hidden, outputs), (*dropout, None), strict=True):
        layer = nn.Linear(width, out)
        nn.init.uniform_(layer.weight, -1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
        nn.init.uniform_(layer.bias, -1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
        layers += [layer] if rate is None else [layer, nn.ReLU(), nn.BatchNorm1d(out), Dropout(rate)]
        width = out
    return nn.Sequential(*layers)


def upsampled(files, row, blocks, centre):
    """All pixels' features: every map brought to full size, joined."""
    maps = [part.float() for part in files.maps(row["image_id"], blocks).values()]
    maps = [(part - part.mean((1, 2), keepdim=True)).half().float() for part in maps] if centre else maps
    wide = [functional.interpolate(part[None], (SIZE, SIZE), mode="bilinear", align_corners=False) for part in maps]
    return torch.cat(wide, 1)[0].flatten(1).T


def plain_segmenter(spec, files, per_tone_loss):
    """Train each member alone on upsampled features, as DatasetDDPM does; gives (best steps, history, test masks, doubt)."""
    settings, blocks, variant = spec["settings"], spec["blocks"], spec["variant"]
    data = {}
    for role in ("train", "validation", "test"):
        x = torch.stack([upsampled(files, row, blocks, variant == "centre") for row in spec[role]])
        y = torch.stack([torch.from_numpy(np.load(row["mask"])).long().flatten() for row in spec[role]])
        data[role] = x, y, torch.tensor([TONES.index(row["skin_tone"]) for row in spec[role]])
    names = (spec["seed"], "fedd segmenter", spec["subset"], spec["run_seed"])
    generators = [torch.Generator().manual_seed(seed_for(*names, "member", k)) for k in range(settings["ensemble"])]
    networks = [plain_network(data["train"][0].shape[2], settings["hidden"], 5, generator) for generator in generators]
    optimizers = [torch.optim.Adam(network.parameters(), settings["learning_rate"]) for network in networks]
    x, y, tones = data["train"]
    tone_weights = torch.tensor([(tones == tone).float().mean() for tone in range(3)])
    best = [(math.inf, 0, None)] * len(networks)
    history, batch, every = [], settings["batch_pixels"], settings["check_every"]
    for step in range(every, settings["steps"] + 1, every):
        if step - every - max(at for _, at, _ in best) >= settings["patience"] * every:
            break
        chances = torch.tensor([tone_weights[tone] / (tones == tone).sum() for tone in tones])
        for network, optimizer, generator in zip(networks, optimizers, generators, strict=True):
            network.train()
            for first in range(0, every, 20):
                count = min(20, every - first) * batch
                image = torch.multinomial(chances, count, replacement=True, generator=generator)
                place = torch.randint(SIZE * SIZE, (count,), generator=generator)
                for part in torch.arange(count).split(batch):
                    loss = functional.cross_entropy(network(x[image[part], place[part]]), y[image[part], place[part]])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        held_x, held_y, held_tones = data["validation"]  # fewer pixels than are looked at: all of them count
        with torch.no_grad():
            logits = torch.stack([network.eval()(held_x.flatten(0, 1)) for network in networks], 1)
        votes = functional.one_hot(logits.argmax(2), 5).sum(1) + 0.5 * logits.softmax(2).mean(1)
        lesion, truth = votes.argmax(1) == 1, held_y.flatten() == 1
        pixel_tones = held_tones.repeat_interleave(SIZE * SIZE)
        iou = [
            ((lesion & truth)[pixel_tones == t].sum() / (lesion | truth)[pixel_tones == t].sum()).item()
            for t in range(3)
        ]
        losses = [
            [
                functional.cross_entropy(logits[pixel_tones == t, k], held_y.flatten()[pixel_tones == t]).item()
                for t in range(3)
            ]
            for k in range(len(networks))
        ]
        history.append((step, np.mean(losses), iou, tone_weights.tolist()))
        for k, network in enumerate(networks):
            score = per_tone_loss(losses[k])
            if score < best[k][0] and step - best[k][1] <= settings["patience"] * every:
                best[k] = score, step, {name: value.clone() for name, value in network.state_dict().items()}
        if variant == "reweight":
            tone_weights = tone_weights * torch.exp(0.5 * (1 - torch.tensor(iou)))
            tone_weights = tone_weights / tone_weights.sum()
    for network, (_, _, state) in zip(networks, best, strict=True):
        network.load_state_dict(state)
    with torch.no_grad():
        members = torch.stack([network.eval()(data["test"][0].flatten(0, 1)) for network in networks], 1)
    share = functional.one_hot(members.argmax(2), 5).float().mean(1)
    mask = (share * len(networks) + 0.5 * members.softmax(2).mean(1)).argmax(1)
    doubt = torch.special.entr(share).sum(1) / math.log(min(len(networks), 5))
    shape = (len(spec["test"]), SIZE, SIZE)
    return [at for _, at, _ in best], history, mask.view(shape).numpy(), doubt.view(shape).numpy()


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A hard study with few dark photos, all pixels of its validation photos looked at."""
    folder = tmp_path_factory.mktemp("uneven")
    spec = make_study(folder, 0.7, {"train": 4, "validation": 1, "test": 1}, tone_shift=3.0)
    kept = [row for row in spec["train"] if int(row["image_id"][-1]) < UNEVEN[row["skin_tone"]]]
    settings = {"steps": 400, "check_every": 10, "patience": 2, "hidden": [16, 8], "ensemble": 3, "batch_pixels": 16}
    return folder, {**spec, "train": kept, "settings": {**settings, "learning_rate": 0.02}}


@pytest.mark.parametrize(("variant", "score"), [("plain", np.mean), ("reweight", max), ("centre", np.mean)])
def test_a_segmenter_is_an_ensemble_of_plain_networks_on_upsampled_pixels(
    uneven, tmp_path, monkeypatch, variant, score
):
    """Each member alone, on maps upsampled in full, ends with the same figures: draws, loss, best step, vote and doubt."""
    from cgddi.fedd.segmenter import train

    monkeypatch.setattr(train, "VALIDATION_PIXELS", 10**6)
    folder, spec = uneven
    spec = {**spec, "variant": variant}
    record = fedd("segmenter", spec, tmp_path, "--features", str(folder / "features.safetensors"))
    steps, history, masks, doubt = plain_segmenter(spec, FeatureFiles([folder / "features.safetensors"]), score)
    assert record["chosen_steps"] == steps and [line["step"] for line in record["history"]] == [
        line[0] for line in history
    ]
    assert history[-1][0] < 400, "patience decides"
    for line, (_, loss, iou, weights) in zip(record["history"], history, strict=True):
        assert line["loss"] == pytest.approx(loss, abs=2e-3)
        assert [line["lesion_iou"][tone] for tone in TONES] == pytest.approx(iou, abs=0.02)
        assert [line["tone_weights"][tone] for tone in TONES] == pytest.approx(weights, abs=0.005)
    shown = load_file(tmp_path / "out/pictures.safetensors")
    for place, row in enumerate(spec["test"]):
        ours = shown[f"{row['image_id']}/predicted"].numpy()
        assert (ours == masks[place]).mean() > 0.98
        uncertainty = shown[f"{row['image_id']}/uncertainty"].numpy() / 255
        assert np.abs(uncertainty - doubt[place]).mean() < 0.02 and uncertainty.max() > 0.5


def test_looking_at_some_pixels_estimates_the_loss_over_all(uneven, tmp_path, monkeypatch):
    from cgddi.fedd.segmenter import train

    folder, spec = uneven
    spec = {**spec, "settings": {**spec["settings"], "steps": 10}}
    found = []
    for pixels in (10**6, 300):
        monkeypatch.setattr(train, "VALIDATION_PIXELS", pixels)
        record = fedd("segmenter", spec, tmp_path / str(pixels), "--features", str(folder / "features.safetensors"))
        found.append(record["history"][0])
    assert found[0]["loss"] != found[1]["loss"] and found[0]["loss"] == pytest.approx(found[1]["loss"], rel=0.15)
    iou = [list(line["lesion_iou"].values()) for line in found]
    assert iou[0] == pytest.approx(iou[1], abs=0.12)


def test_all_runs_of_a_study_are_watched_on_the_same_pixels(uneven, tmp_path, monkeypatch):
    from cgddi.fedd.segmenter import train

    folder, spec = uneven
    spec, drawn = {**spec, "settings": {**spec["settings"], "steps": 10}}, []
    monkeypatch.setattr(train, "VALIDATION_PIXELS", 100)
    real = train.validation_pixels
    monkeypatch.setattr(train, "validation_pixels", lambda *args: drawn.append(real(*args)) or drawn[-1])
    for run_seed in (0, 1):
        fedd(
            "segmenter",
            {**spec, "run_seed": run_seed},
            tmp_path / str(run_seed),
            "--features",
            str(folder / "features.safetensors"),
        )
    assert torch.equal(drawn[0].x, drawn[1].x) and torch.equal(drawn[0].y, drawn[1].y)


# ---- probe -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardise", [True, False])
def test_probes_are_plain_networks_with_dropout_and_weight_decay(uneven, tmp_path, standardise):
    """Every block and seed trained alone in full batches gives the same epochs and probabilities."""
    folder, spec = uneven
    settings = {"epochs": 25, "patience": 4, "weight_decay": 0.05, "learning_rate": 0.01, "standardise": standardise}
    spec = {**spec, "settings": settings, "seeds": [0, 3]}
    record = fedd("probe", spec, tmp_path, "--features", str(folder / "features.safetensors"))
    with open(tmp_path / "out/predictions.csv", newline="") as handle:
        lines = list(csv.DictReader(handle))
    files = FeatureFiles([folder / "features.safetensors"])
    states = {}
    for block in (1, 2):
        x = {
            r: torch.stack([files.pooled(row["image_id"], block).float() for row in spec[r]])
            for r in ("train", "validation", "test")
        }
        if standardise:
            mean, std = x["train"].mean(0), x["train"].std(0)
            x = {role: (part - mean) / std for role, part in x.items()}
        y = {role: torch.tensor([[float(row["malignant"])] for row in spec[role]]) for role in x}
        for seed in (0, 3):
            generator = torch.Generator().manual_seed(seed_for(spec["seed"], "fedd probe", spec["subset"], block, seed))
            network = plain_network(512, (64, 32), 1, generator, (0.5, 0.25))
            optimizer = torch.optim.Adam(network.parameters(), 0.01, weight_decay=0.05)
            lowest, chosen = math.inf, 0
            for epoch in range(1, 26):
                loss = functional.binary_cross_entropy_with_logits(network.train()(x["train"]), y["train"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    value = functional.binary_cross_entropy_with_logits(
                        network.eval()(x["validation"]), y["validation"]
                    ).item()
                    if value < lowest and epoch - chosen <= 4:
                        lowest, chosen = value, epoch
                        states[block, seed] = {r: network(x[r])[:, 0].sigmoid() for r in ("validation", "test")}
            probe = next(p for p in record["probes"] if (p["block"], p["seed"]) == (block, seed))
            assert probe["chosen_epoch"] == chosen and probe["validation_loss"] == pytest.approx(lowest, abs=2e-3)
    for (block, seed), chances in states.items():
        for role, values in chances.items():
            mine = {
                x["image_id"]: float(x["probability"])
                for x in lines
                if (x["block"], x["seed"], x["role"]) == (str(block), str(seed), role)
            }
            assert [mine[row["image_id"]] for row in spec[role]] == pytest.approx(values.tolist(), abs=3e-3)
