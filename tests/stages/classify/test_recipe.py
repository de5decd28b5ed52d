"""What decides a classifier's numbers, on uneven data, against computations of their own: the steps of the optimiser, the
weights of images, the epoch that is chosen, and when fine-tuning stops."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from cgddi.core.errors import UserError
from cgddi.job.trackers import reporting
from cgddi.stages.classify import train as train_module
from cgddi.stages.classify.augment import augment, normalise, random_views
from cgddi.stages.classify.data import Pictures
from cgddi.stages.classify.methods import build
from cgddi.stages.classify.rows import Rows, draws
from cgddi.stages.classify.settings import DEFAULTS, REGIMES, ClassifySettings, LabelTexts, Regime, training_of
from cgddi.stages.classify.train import predict, score, train
from safetensors.torch import save_file

from tests.stages.classify.cells import NET, Linear, rows_of, settings_for


def by_hand(table, settings, rate, epochs, step, gamma, clip):
    """Adam (Kingma and Ba 2015, algorithm 1), written out; the rate times gamma after every `step` epochs.

    Adam forgets the scale of gradients, so a clip shows only where it meets some steps: norms here are 0.1 to 25.
    """
    pictures = Pictures(table, settings, False, 1)
    layer = Linear().layer
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    moments, t = [[torch.zeros_like(p), torch.zeros_like(p)] for p in (weight, bias)], 0
    labels = torch.tensor(table["label"].to_numpy())
    losses = []
    for epoch, places in enumerate(draws(table, "baseline", settings, None, 3, range(epochs))):
        views = torch.from_numpy(random_views(len(places), np.random.default_rng((3, epoch, 1))))
        total = 0
        for start in range(0, len(places) - 7, 8):
            batch = places[start : start + 8]
            x = augment(pictures[batch], views[start : start + 8], settings).flatten(1).double()
            logits = x @ weight.T + bias
            p = logits.softmax(1)
            y = torch.eye(2, dtype=torch.float64)[labels[batch]]
            total += float(-(y * p.log()).sum())
            gradients = [(p - y).T @ x / 8, (p - y).mean(0)]
            norm = torch.sqrt(sum(g.square().sum() for g in gradients))
            gradients = [g * min(1.0, clip / float(norm)) if clip else g for g in gradients]
            t += 1
            for parameter, gradient, m in zip((weight, bias), gradients, moments, strict=True):
                m[0] = 0.9 * m[0] + 0.1 * gradient
                m[1] = 0.999 * m[1] + 0.001 * gradient.square()
                step_size = rate * gamma ** (epoch // step if step else 0)
                parameter -= step_size * (m[0] / (1 - 0.9**t)) / ((m[1] / (1 - 0.999**t)).sqrt() + 1e-8)
        losses.append(total / (len(places) // 8 * 8))
    return weight, bias, losses


@pytest.mark.parametrize("clip", [0.0, 15.0])
@pytest.mark.parametrize("finetune", [False, True])
def test_the_optimiser_takes_the_steps_of_the_recipe(table, clip, finetune):
    settings = settings_for(training={**NET, "clip_norm": clip}, finetune_learning_rate=0.004, finetune_epochs=3)
    regime = Regime(name="r", sources=("real",), init="synthetic" if finetune else None)
    model = Linear()
    state = train(reporting(None, settings.precision), model, rows_of(table), regime, "baseline", settings, 3)
    rate, epochs = (0.004, 3) if finetune else (0.02, 5)
    weight, bias, losses = by_hand(table, settings, rate, epochs, 2, 0.5, clip)
    assert torch.allclose(model.layer.weight.double(), weight, atol=2e-5)
    assert torch.allclose(model.layer.bias.double(), bias, atol=2e-5)
    assert [entry["train_loss"] for entry in state.history] == pytest.approx(losses, abs=1e-4)
    rates = [rate * 0.5 ** (epoch // 2) for epoch in range(epochs)]
    assert [entry["learning_rate"] for entry in state.history] == pytest.approx(rates)
    steps = len(table) // 8
    assert (state.steps, state.images, state.chosen_epoch) == (epochs * steps, epochs * steps * 8, epochs)


def test_a_rate_without_decay_and_the_published_values():
    settings = ClassifySettings()
    shared = dict(epochs=15, batch_size=64, learning_rate=1e-4, lr_step=2, lr_gamma=0.9, clip_norm=0, frozen_tensors=0)
    for method in ("baseline", "fairdisco", "reweighting", "resampling"):
        found = training_of(settings, method).model_dump()
        assert found == {"backbone": "resnet18", "weights": "hub", **shared}
    found = training_of(settings, "patchalign").model_dump()
    own = dict(epochs=20, batch_size=32, lr_step=0, clip_norm=1.0, frozen_tensors=50, learning_rate=1e-4)
    assert {name: found[name] for name in own} == own and found["backbone"].startswith("vit_base_patch16_224")
    assert set(DEFAULTS) == {"baseline", "fairdisco", "patchalign", "reweighting", "resampling"}
    fine = (settings.finetune_learning_rate, settings.finetune_epochs, settings.patience, settings.min_concept_images)
    assert fine == (1e-5, 5, 5, 11) and settings.sampler == "class" and settings.selection == "validation"


def test_no_decay_where_lr_step_is_zero(table):
    settings = settings_for(training={**NET, "lr_step": 0})
    state = train(
        reporting(None, settings.precision), Linear(), rows_of(table), REGIMES["real"], "baseline", settings, 3
    )
    assert {entry["learning_rate"] for entry in state.history} == {0.02}


def test_reweighting_weighs_each_image_by_its_cell(table):
    """P(tone) P(class) / P(tone, class), by counting; shown to the loss with the image's own label and tone."""
    model, settings = Linear(), settings_for(training={**NET, "epochs": 1, "batch_size": len(table)})
    train(reporting(None, settings.precision), model, rows_of(table), REGIMES["real"], "reweighting", settings, 3)
    [(labels, tones, weights)] = model.seen
    joint, n = Counter(zip(tones, labels, strict=True)), len(table)
    tone, label = Counter(tones), Counter(labels)
    assert joint == Counter(zip(table["tone_id"], table["label"], strict=True))
    raw = [tone[t] * label[y] / n / joint[t, y] for t, y in zip(tones, labels, strict=True)]
    assert weights == pytest.approx(np.array(raw) / np.mean(raw), rel=1e-5)


def held_out():
    """Nine benign and three malignant images: accuracy and balanced accuracy disagree."""
    return pd.DataFrame({"image_id": [f"h{n}" for n in range(12)], "label": [0] * 9 + [1] * 3})


def guesses(benign, malignant, sure=0.7):
    """Probabilities with so many right answers in each class."""
    right = [n < benign for n in range(9)] + [n < malignant for n in range(3)]
    of_truth = np.where(right, sure, 1 - sure)
    return np.stack([np.where(np.arange(12) < 9, p, 1 - p) for p in (of_truth, 1 - of_truth)], axis=1)


@pytest.mark.parametrize(
    ("metric", "epochs", "chosen"),
    [
        ("accuracy", [(9, 0), (8, 0), (7, 3), (5, 3)], 3),
        ("accuracy", [(9, 0), (8, 0), (5, 3), (6, 1)], 1),
        ("balanced_accuracy", [(9, 0), (8, 0), (5, 3), (6, 1)], 3),
        ("balanced_accuracy", [(4, 1), (4, 1, 0.9), (4, 1, 0.8), (4, 1, 0.6)], 4),
        ("balanced_accuracy", [(8, 2, 0.6), (8, 2, 0.8), (8, 2, 0.6), (8, 2, 0.6)], 2),
        ("accuracy", [(8, 2), (8, 2), (8, 2), (8, 2)], 1),
    ],
    ids=[
        "accuracy",
        "the many count",
        "balanced",
        "ties by loss",
        "ties by loss, sure and right",
        "the first of equals",
    ],
)
def test_the_chosen_epoch_and_its_weights(table, monkeypatch, metric, epochs, chosen):
    states = []

    def predicted(accelerator, model, pictures, names):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return guesses(*epochs[len(states) - 1])

    monkeypatch.setattr(train_module, "predict", predicted)
    monkeypatch.setattr(train_module, "Pictures", lambda rows, *a: Pictures(table, *a))
    settings = settings_for(training={**NET, "epochs": 4}, selection="validation", selection_metric=metric, patience=1)
    model = Linear()
    rows = rows_of(table, held_out())
    state = train(reporting(None, settings.precision), model, rows, REGIMES["real"], "baseline", settings, 3)
    assert state.chosen_epoch == chosen and len(state.history) == 4, "no early stop but in fine-tuning"
    assert all(torch.equal(value, states[chosen - 1][name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (3, 7)])
def test_fine_tuning_stops_after_so_many_epochs_without_a_better_one(table, monkeypatch, patience, epochs):
    right, made = [4, 5, 5, 6, 6, 6, 6, 6], []

    def predicted(*_):
        made.append(0)
        return guesses(right[len(made) - 1], 2)

    monkeypatch.setattr(train_module, "predict", predicted)
    monkeypatch.setattr(train_module, "Pictures", lambda rows, *a: Pictures(table, *a))
    settings = settings_for(selection="validation", patience=patience, finetune_epochs=7)
    regime = Regime(name="r", sources=("real",), init="synthetic")
    rows = rows_of(table, held_out())
    state = train(reporting(None, settings.precision), Linear(), rows, regime, "baseline", settings, 3)
    assert len(state.history) == epochs
    made.clear()
    settings = settings.model_copy(update={"images_per_epoch": 16})
    state = train(reporting(None, settings.precision), Linear(), rows, regime, "baseline", settings, 3)
    assert len(state.history) == 7, "where regimes take equal steps, none stops early"


@pytest.mark.parametrize(("selection", "start"), [("validation", 2), ("last", 4)])
def test_another_regime_starts_from_the_best_weights_before_its_own_epochs(table, monkeypatch, selection, start):
    """Of six epochs the last two are the other's: the best of the first four, though the sixth is better; without selection the
    fourth."""
    right, states = [3, 5, 4, 4, 6, 7], []

    show = train_module._show

    def shown(*args):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        show(*args)

    monkeypatch.setattr(train_module, "predict", lambda *_: guesses(right[len(states)], 2))
    monkeypatch.setattr(train_module, "_show", shown)
    monkeypatch.setattr(train_module, "Pictures", lambda rows, *a: Pictures(table, *a))
    settings = settings_for(selection=selection, images_per_epoch=16, finetune_epochs=2, training={**NET, "epochs": 6})
    model, rows = Linear(), rows_of(table, held_out())
    state = train(reporting(None, settings.precision), model, rows, REGIMES["real"], "baseline", settings, 3)
    assert state.steps == 6 * 2 and len(state.history) == 6
    assert all(torch.equal(value, states[start - 1][name]) for name, value in state.start_weights.items())
    assert not torch.equal(state.start_weights["layer.weight"], model.state_dict()["layer.weight"])
    settings = settings.model_copy(update={"images_per_epoch": None})
    states.clear()
    state = train(reporting(None, settings.precision), Linear(), rows, REGIMES["real"], "baseline", settings, 3)
    assert state.start_weights is None, "published: fine-tuning comes on top"


@pytest.mark.parametrize("selection", ["validation", "test"])
def test_the_epoch_is_chosen_on_the_images_that_selection_names(table, selection):
    parts = {"validation": table.iloc[:12], "test": table.iloc[20:39]}
    rows = Rows(table, parts["validation"], parts["test"], ("benign", "malignant"))
    settings = settings_for(selection=selection, training={**NET, "epochs": 1})
    accelerator, model = reporting(None, settings.precision), Linear()
    state = train(accelerator, model, rows, REGIMES["real"], "baseline", settings, 3)
    pictures = normalise(Pictures(parts[selection], settings, True, 1)[np.arange(len(parts[selection]))])
    with torch.no_grad():
        p = model(pictures).double().softmax(1).numpy()
    truth = parts[selection]["label"].to_numpy()
    recalls = [(p.argmax(1)[truth == c] == c).mean() for c in (0, 1)]
    expected = {
        "accuracy": (p.argmax(1) == truth).mean(),
        "balanced_accuracy": np.mean(recalls),
        "loss": -np.log(p[np.arange(len(truth)), truth]).mean(),
    }
    assert state.history[0]["held_out"] == pytest.approx(expected, abs=1e-5)
    held = Pictures(rows.test, settings, True, 1)
    probabilities = predict(accelerator, model, held, rows.test["image_id"].tolist())
    assert probabilities.shape == (19, 2) and np.allclose(probabilities.sum(1), 1)


def test_balanced_accuracy_leaves_out_a_class_without_images():
    assert score(np.array([[0.9, 0.05, 0.05], [0.2, 0.2, 0.6]]), np.array([0, 0]))["balanced_accuracy"] == 0.5


def test_the_networks_have_the_published_shapes(tmp_path):
    save_file({"embeddings": torch.randn(4, 64)}, tmp_path / "t.safetensors", {"labels": json.dumps(list("abcd"))})
    net = {"backbone": "test_vit", "weights": "random"}
    settings = ClassifySettings(
        image_size=32, training=net, label_texts=LabelTexts(file=str(tmp_path / "t.safetensors"))
    )
    torch.manual_seed(0)
    fairdisco, _ = build("fairdisco", settings, 2, [])
    shapes = {name: tuple(p.shape) for name, p in fairdisco.named_parameters() if not name.startswith("backbone")}
    weights = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    assert weights == {
        "feature.weight": (256, 64),
        "head.weight": (2, 256),
        "tone.weight": (3, 256),
        "project.0.weight": (512, 256),
        "project.3.weight": (128, 512),
    }
    patchalign, _ = build("patchalign", settings, 2, ["a", "c"])
    n = patchalign.tokens
    shapes = {name: tuple(p.shape) for name, p in patchalign.named_parameters() if not name.startswith("backbone")}
    assert {name: shape for name, shape in shapes.items() if len(shape) == 2} == {
        "mask.0.weight": (128, n * 64),
        "mask.2.weight": (n * 4, 128),
        "head.0.weight": (256, 64),
        "head.2.weight": (128, 256),
        "head.4.weight": (2, 128),
        "tone.weight": (3, 64),
    }
    frozen = [not p.requires_grad for p in patchalign.backbone.parameters()]
    assert frozen == [place < 50 for place in range(len(frozen))] and not all(frozen), "the first 50 tensors"
    assert all(p.requires_grad for p in fairdisco.parameters())
    few = settings.model_copy(
        update={"methods": {"baseline": DEFAULTS["baseline"].model_copy(update={"frozen_tensors": 3, **net})}}
    )
    model, _ = build("baseline", few, 2, [])
    assert [p.requires_grad for p in model.parameters()][:5] == [False] * 3 + [True] * 2


def test_a_loss_that_becomes_nan_stops_with_the_term_named(table):
    class Broken(Linear):
        def losses(self, images, labels, tones, weight=None):
            return {"class": self(images).mean() * float("nan")}

    settings = settings_for()
    with pytest.raises(UserError, match="NaN or infinite in epoch 1.*term: class"):
        train(reporting(None, settings.precision), Broken(), rows_of(table), REGIMES["real"], "baseline", settings, 1)


def test_a_prediction_that_is_nan_names_its_image(table):
    model = Linear()
    model.layer.weight.data.fill_(float("nan"))
    settings = settings_for()
    with pytest.raises(UserError, match="prediction for image i000 is NaN .3 such"):
        predict(
            reporting(None, settings.precision), model, Pictures(table[:3], settings, True, 1), ["i000", "i001", "i002"]
        )


def test_precision_and_processes_are_checked_before_anything_is_read(table):
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        reporting(None, "fp16")
    three = SimpleNamespace(num_processes=3, device=torch.device("cpu"))
    with pytest.raises(UserError, match="3 processes cannot share a batch of 8 images"):
        train(three, Linear(), rows_of(table), REGIMES["real"], "baseline", settings_for(), 1)


def test_recording_a_step_leaves_no_trace(monkeypatch):
    """The rounds before a graph is recorded run the network: its running means and the random numbers are put back."""

    class Graph:
        def __init__(self, work, parameters, given):
            for _ in range(3):
                work(given)
            for parameter in parameters:
                parameter.grad.zero_()

    monkeypatch.setattr(train_module, "GraphedStep", Graph)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5))

    def work(given):
        loss = net(given["pixels"]).square().mean()
        loss.backward()
        return loss.detach()

    torch.manual_seed(3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pixels, random = torch.rand(2, 3, 8, 8), torch.get_rng_state()
    train_module.record(work, net, list(net.parameters()), {"pixels": pixels})
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    work({"pixels": torch.rand(2, 3, 8, 8)})
    assert not torch.equal(net[1].running_mean, before["1.running_mean"]), "it is that step that would change them"
