"""Each loss against an independent computation in numpy; MGOT also for its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from cgddi.stages.classify.methods import (
    Baseline,
    FairDisCo,
    build,
    confusion_loss,
    contrastive_loss,
    reweighing,
    weighted_cross_entropy,
)
from cgddi.stages.classify.mgot import gromov_wasserstein, ipot, mgot, wasserstein
from cgddi.stages.classify.patchalign import PatchAlign
from cgddi.stages.classify.settings import ClassifySettings


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def cross_entropy(logits, labels, weight=None):
    each = -log_softmax(logits)[np.arange(len(labels)), labels]
    return np.average(each, weights=weight)


def contrastive(features, labels, temperature):
    """Loops over the definition of method.md."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    e = np.exp(unit @ unit.T / temperature)
    terms = []
    for i in range(len(labels)):
        others = sum(e[i, k] for k in range(len(labels)) if labels[k] != labels[i])
        terms += [
            -np.log(e[i, j] / (e[i, j] + others)) for j in range(len(labels)) if j != i and labels[j] == labels[i]
        ]
    return np.mean(terms)


def test_confusion_loss():
    logits = np.random.default_rng(0).normal(size=(7, 3))
    assert float(confusion_loss(torch.tensor(logits))) == pytest.approx(-log_softmax(logits).mean())
    assert float(confusion_loss(torch.zeros(2, 3))) == pytest.approx(np.log(3)), (
        "least where tones cannot be told apart"
    )


@pytest.mark.parametrize("seed", range(3))
def test_contrastive_loss(seed):
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(size=(12, 6)), rng.integers(0, 3, 12)
    found = contrastive_loss(torch.tensor(features), torch.tensor(labels), 0.1)
    assert float(found) == pytest.approx(contrastive(features, labels, 0.1))


def test_contrastive_loss_without_pairs_or_negatives_is_finite():
    features = torch.randn(3, 4, requires_grad=True)
    alone = contrastive_loss(features, torch.tensor([0, 1, 2]))
    one_class = contrastive_loss(features, torch.tensor([1, 1, 1]))
    assert alone.item() == 0 and one_class.item() == 0
    (alone + one_class).backward()
    assert torch.isfinite(features.grad).all()


def test_contrastive_loss_as_the_code_has_it():
    """FairDisCo's own: 1e-5 on every exponential (the row's greatest divided out), on the denominator and on the count of pairs."""
    rng = np.random.default_rng(3)
    features, labels = rng.normal(size=(9, 6)), rng.integers(0, 3, 9)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine, tiny = unit @ unit.T / 0.1, 1e-2
    total, pairs = 0, 0
    for i in range(9):
        e = np.exp(cosine[i] - cosine[i].max()) + tiny
        others = sum(e[k] for k in range(9) if labels[k] != labels[i])
        for j in range(9):
            if j != i and labels[j] == labels[i]:
                total, pairs = total - np.log(e[j] / (others + e[j] + tiny)), pairs + 1
    found = contrastive_loss(torch.tensor(features), torch.tensor(labels), 0.1, tiny)
    assert float(found) == pytest.approx(total / (pairs + tiny))
    exact = contrastive(features, labels, 0.1)
    assert float(contrastive_loss(torch.tensor(features), torch.tensor(labels), 0.1, 1e-15)) == pytest.approx(exact)


def test_losses_as_the_code_has_them_are_a_setting():
    settings = {
        losses: ClassifySettings(
            losses=losses, training={"backbone": "test_resnet", "weights": "random"}, image_size=32, precision="fp32"
        )
        for losses in ("formula", "code")
    }
    models = {losses: build("fairdisco", chosen, 2, [])[0] for losses, chosen in settings.items()}
    assert {losses: (model.tone.out_features, model.epsilon) for losses, model in models.items()} == {
        "formula": (3, 0.0),
        "code": (6, 1e-5),
    }


def test_weighted_cross_entropy():
    rng = np.random.default_rng(1)
    logits, labels, weight = rng.normal(size=(9, 4)), rng.integers(0, 4, 9), rng.random(9)
    found = weighted_cross_entropy(torch.tensor(logits), torch.tensor(labels), torch.tensor(weight))
    assert float(found) == pytest.approx(cross_entropy(logits, labels, weight))


def test_reweighing_makes_class_independent_of_tone():
    labels = np.array([0] * 30 + [1] * 10 + [0] * 5 + [1] * 15)
    tones = np.array([0] * 40 + [1] * 20)
    weights = reweighing(labels, tones)
    assert weights.mean() == pytest.approx(1)
    for g in (0, 1):
        here = tones == g
        assert weights[here & (labels == 1)].sum() / weights[here].sum() == pytest.approx(25 / 60, rel=1e-5)
    assert weights[0] == pytest.approx((40 * 35 / 60) / 30, rel=1e-5)


# MGOT in numpy, image by image, from the definition in method.md.


def thr(cost):
    low, high = cost.min(), cost.max()
    return np.maximum(cost - (low + 0.1 * (high - low)), 0)


def cosines(a, b):
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b)]
    return 1 - unit[0] @ np.swapaxes(unit[1], -1, -2)


def plan_of(cost, mask, tau, steps):
    n, m = cost.shape
    a, plan, sigma = np.exp(-cost / tau), mask, np.full(m, 1 / m)
    for _ in range(steps):
        q = a * plan
        delta = 1 / (n * (q @ sigma))
        sigma = 1 / (m * (q.T @ delta))
        plan = delta[:, None] * q * sigma[None, :]
    return plan


def numpy_mgot(patches, texts, mask, plans=None):
    """Value, and the Gromov-Wasserstein plans; with `plans` given the outer ones are held fixed, as stopgrad does."""
    cost, source, target = thr(cosines(patches, texts)), thr(cosines(patches, patches)), thr(cosines(texts, texts))
    wd, gwd, made = [], [], []
    n, m = mask.shape[1:]
    for b in range(len(patches)):
        wd.append((cost[b] * plan_of(cost[b], mask[b], 0.5, 30)).sum())
        constant = (source[b] ** 2).mean(1)[:, None] + (target**2).mean(1)[None, :]
        g = np.full((n, m), 1 / (n * m))
        for _ in range(5):
            g = plan_of(constant - 2 * source[b] @ g @ target.T, mask[b], 0.1, 20)
        made.append(g)
        gwd.append(((constant - 2 * source[b] @ g @ target.T) * (g if plans is None else plans[b])).sum())
    return 0.9 * np.mean(gwd) + 0.1 * np.mean(wd), made


def autograd_of_mgot(patches, texts, mask):
    """The formula of method.md in torch, image by image with explicit matrices, for autograd to differentiate."""

    def costs(a, b):
        return 1 - (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T

    def cut(of_images):  # minimum and maximum are those of the whole batch
        low, high = min(c.min() for c in of_images), max(c.max() for c in of_images)
        return [(c - (low + 0.1 * (high - low))).clamp(min=0) for c in of_images]

    def transport(cost, start, temperature, steps):
        n, m = cost.shape
        plan, sigma = start, torch.full((m,), 1 / m, dtype=cost.dtype)
        for _ in range(steps):
            q = torch.exp(-cost / temperature) * plan
            delta = 1 / (n * (q @ sigma))
            sigma = 1 / (m * (q.T @ delta))
            plan = torch.diag(delta) @ q @ torch.diag(sigma)
        return plan

    n, m = mask.shape[1:]
    ones_n, ones_m = torch.ones(n, 1, dtype=mask.dtype), torch.ones(m, 1, dtype=mask.dtype)
    (target,) = cut([costs(texts, texts)])
    direct, within = cut([costs(f, texts) for f in patches]), cut([costs(f, f) for f in patches])
    total = 0
    for b in range(len(patches)):
        wd = (direct[b] * transport(direct[b], mask[b], 0.5, 30)).sum()
        rows = (within[b] ** 2).mean(1, keepdim=True) @ ones_m.T + ones_n @ (target**2).mean(1, keepdim=True).T
        g = torch.full((n, m), 1 / (n * m), dtype=mask.dtype)
        for _ in range(5):
            g = transport(rows - 2 * within[b] @ g @ target.T, mask[b], 0.1, 20)
        gwd = torch.trace((rows - 2 * within[b] @ g @ target.T).T @ g.detach())
        total = total + (0.9 * gwd + 0.1 * wd) / len(patches)
    return total


def mgot_example(seed, n=6, m=4, d=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, n, d)), rng.normal(size=(m, d)), rng.uniform(0.1, 0.9, size=(3, n, m))


@pytest.mark.parametrize(("seed", "m"), [(0, 4), (1, 3), (2, 1), (3, 7)])
def test_mgot_value_for_any_number_of_label_texts(seed, m):
    patches, texts, mask = mgot_example(seed, m=m)
    found = mgot(*map(torch.tensor, (patches, texts, mask)))
    assert float(found) == pytest.approx(numpy_mgot(patches, texts, mask)[0], rel=1e-9)


def test_ipot_plan_has_the_marginals_it_was_told():
    _, _, mask = mgot_example(0)
    cost = torch.tensor(np.random.default_rng(4).random((3, 6, 4)))
    plan = ipot(cost, torch.tensor(mask), 0.5, 200)
    assert torch.allclose(plan.sum(1), torch.full((3, 4), 0.25, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(plan.sum(2), torch.full((3, 6), 1 / 6, dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("which", [0, 2], ids=["patches", "mask"])
def test_mgot_gradients_against_finite_differences(which):
    example = list(mgot_example(5))
    _, plans = numpy_mgot(*example)
    tensors = [torch.tensor(part, requires_grad=place == which) for place, part in enumerate(example)]
    mgot(*tensors).backward()
    gradient = tensors[which].grad.numpy()
    rng, step = np.random.default_rng(0), 1e-6
    for _ in range(12):
        place = tuple(rng.integers(0, size) for size in example[which].shape)
        values = []
        for sign in (1, -1):
            moved = [part.copy() for part in example]
            moved[which][place] += sign * step
            values.append(numpy_mgot(*moved, plans=plans)[0])
        assert gradient[place] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-8), place


def test_mgot_gradients_at_the_published_size():
    """197 tokens, 115 label texts: only the outer plan is a constant (float32 as it is trained, to a thousandth)."""
    rng = np.random.default_rng(7)
    example = rng.normal(size=(2, 197, 12)), rng.normal(size=(115, 12)), rng.uniform(0.1, 0.9, size=(2, 197, 115))
    tensors = [torch.tensor(part, requires_grad=place != 1) for place, part in enumerate(example)]
    learnt = tensors[0], tensors[2]
    wanted = torch.autograd.grad(autograd_of_mgot(*tensors), learnt)
    found = torch.autograd.grad(mgot(*tensors), learnt)
    single = torch.autograd.grad(mgot(*(part.float() for part in tensors)), learnt)
    for name, right, ours, rough in zip(("patches", "mask"), wanted, found, single, strict=True):
        assert (ours - right).norm() <= 1e-9 * right.norm(), name
        assert (rough - right).norm() <= 1e-3 * right.norm(), name
    (part,) = torch.autograd.grad(gromov_wasserstein(*tensors).sum(), learnt[1:])
    assert part.abs().sum() > 0, "the mask learns from the Gromov-Wasserstein term"


def test_mgot_parts_make_the_whole_and_batches_run_in_half_precision():
    parts = [torch.tensor(part) for part in mgot_example(6)]
    whole = 0.9 * gromov_wasserstein(*parts).mean() + 0.1 * wasserstein(*parts).mean()
    assert torch.allclose(mgot(*parts), whole)
    assert torch.isfinite(mgot(*(part.bfloat16() for part in parts)))


def batch(side):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(6, 3, side, side, generator=generator),
        torch.tensor([0, 1, 0, 1, 1, 0]),
        torch.tensor([0, 1, 2, 0, 1, 2]),
    )


def test_fairdisco_losses_add_up_from_their_definition():
    torch.manual_seed(0)
    model = FairDisCo(timm.create_model("test_resnet", num_classes=0), 2, 3).eval()
    images, labels, tones = batch(32)
    parts = model.losses(images, labels, tones)
    with torch.no_grad():
        z = model.feature(model.backbone(images))
        y, s, p = model.head(z).numpy(), model.tone(z).numpy(), model.project(z).numpy()
    assert parts["class"].item() == pytest.approx(cross_entropy(y, labels.numpy()), rel=1e-5)
    assert parts["confusion"].item() == pytest.approx(-log_softmax(s).mean(), rel=1e-5)
    assert parts["tone"].item() == pytest.approx(cross_entropy(s, tones.numpy()), rel=1e-5)
    assert parts["contrastive"].item() == pytest.approx(0.8 * contrastive(p, labels.numpy(), 0.1), rel=1e-4)
    parts["tone"].backward()
    assert model.feature.weight.grad is None and model.tone.weight.grad is not None, (
        "the tone head learns on stopgrad z"
    )


def test_patchalign_losses_add_up_from_their_definition():
    torch.manual_seed(0)
    texts = torch.randn(5, 64)
    model = PatchAlign(timm.create_model("test_vit", num_classes=0, img_size=32), 2, 3, texts).eval()
    images, labels, tones = batch(32)
    parts = model.losses(images, labels, tones)
    with torch.no_grad():
        tokens = model.backbone.forward_features(images)
        hidden = torch.sigmoid(model.mask[2](torch.relu(model.mask[0](tokens.flatten(1))))).view(6, -1, 5)
        weighted = tokens * hidden.sum(-1, keepdim=True)
        y = model.head(weighted).mean(1).numpy()
        s, detached = model.tone(weighted).mean(1).numpy(), model.tone(tokens).mean(1).numpy()
    assert parts["class"].item() == pytest.approx(cross_entropy(y, labels.numpy()), rel=1e-4)
    assert parts["confusion"].item() == pytest.approx(0.5 * -log_softmax(s).mean(), rel=1e-4)
    assert parts["tone"].item() == pytest.approx(cross_entropy(detached, tones.numpy()), rel=1e-4)
    expected = numpy_mgot(weighted.double().numpy(), texts.double().numpy(), hidden.double().numpy())[0]
    assert parts["alignment"].item() == pytest.approx(expected, rel=1e-3)
    assert torch.allclose(model(images).softmax(1), torch.tensor(y).softmax(1), atol=1e-5)
    parts["tone"].backward()
    learnt = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learnt == {"tone"}, "the tone head learns on stopgrad F"


def test_baseline_loss_is_cross_entropy():
    torch.manual_seed(0)
    model = Baseline(timm.create_model("test_resnet", num_classes=0), 2).eval()
    images, labels, tones = batch(32)
    with torch.no_grad():
        logits = model(images).numpy()
    assert model.losses(images, labels, tones)["class"].item() == pytest.approx(
        cross_entropy(logits, labels.numpy()), rel=1e-5
    )
