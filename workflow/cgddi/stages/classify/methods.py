"""The methods by name: each is a module with `forward(images) -> logits` and `losses(...) -> parts that are added up`."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cgddi.core.backbones import create_backbone
from cgddi.core.images import TONES
from cgddi.stages.classify.settings import ClassifySettings, training_of


def weighted_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Cross-entropy, averaged over the batch with weights (B,) or evenly."""
    if weight is None:
        return functional.cross_entropy(logits, labels)
    return (functional.cross_entropy(logits, labels, reduction="none") * weight).sum() / weight.sum()


def confusion_loss(logits: torch.Tensor) -> torch.Tensor:
    """Lconf = -mean over images and tones of log softmax: least when the tone cannot be told (FairDisCo, section 3.2).

    Args:
        logits: tone logits (B, S).
    """
    return -functional.log_softmax(logits, dim=1).mean()


def contrastive_loss(
    features: torch.Tensor, labels: torch.Tensor, temperature: float = 0.1, epsilon: float = 0.0
) -> torch.Tensor:
    """Lcon, supervised contrastive (FairDisCo, section 3.3).

    Mean over ordered pairs i != j of one class of -log[e_ij / (e_ij + sum over k of another class of e_ik)], with
    e_ij = exp(cos(f_i, f_j) / temperature). Zero when no class has two images in the batch.

    Args:
        features: (B, D), any scale.
        labels: (B,).
        epsilon: what FairDisCo's code adds (1e-5) to each e_ij, once its row's greatest is divided out, to each denominator and to
            the number of pairs; 0 is the formula.
    """
    unit = functional.normalize(features, dim=1)
    similarity = unit @ unit.T / temperature
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if epsilon:
        exponential = torch.exp(similarity - similarity.amax(dim=1, keepdim=True)) + epsilon
        others = exponential.masked_fill(same, 0).sum(dim=1, keepdim=True)
        pair = -torch.log(exponential / (others + exponential + epsilon))
        return pair.masked_fill(~positive, 0).sum() / (positive.sum() + epsilon)
    negative = torch.logsumexp(similarity.masked_fill(same, -torch.inf), dim=1, keepdim=True)
    pair = torch.logaddexp(similarity, negative) - similarity
    return pair.masked_fill(~positive, 0).sum() / positive.sum().clamp(min=1)


def reweighing(labels: np.ndarray, tones: np.ndarray) -> np.ndarray:
    """Weight of each training image, P(tone) P(class) / P(tone, class) (Kamiran and Calders 2012, section 4).

    Args:
        labels: (N,) class indices.
        tones: (N,) tone indices.

    Returns:
        float32 (N,), mean one.
    """
    joint = np.zeros((tones.max() + 1, labels.max() + 1))
    np.add.at(joint, (tones, labels), 1)
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True) / joint.sum()
    weights = np.divide(expected, joint, out=np.zeros_like(joint), where=joint > 0)[tones, labels]
    return (weights / weights.mean()).astype(np.float32)


FITZPATRICK_TYPES, CODE_EPSILON = 6, 1e-5
"""Outputs of the tone head and the epsilon of the contrastive loss in FairDisCo's code; PatchAlign's has the same head."""


class Baseline(nn.Module):
    """A backbone and one linear layer, trained by cross-entropy; also the model of reweighting and resampling."""

    def __init__(self, backbone: nn.Module, classes: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> logits (B, C)."""
        return self.head(self.backbone(images))

    def losses(self, images, labels, tones, weight=None) -> dict[str, torch.Tensor]:
        """Loss terms of a batch, to be summed: images (B, 3, H, W), labels (B,), tones (B,), weight (B,) or None."""
        return {"class": weighted_cross_entropy(self(images), labels, weight)}


class FairDisCo(nn.Module):
    """FairDisCo (Du et al., ECCV-W 2022): tone confused on the feature the class is read from, and contrastive features.

    Args:
        backbone: features (B, num_features).
        tones: outputs of the tone head.
    """

    CONFUSION, CONTRASTIVE = 1.0, 0.8
    """Published weights of Lconf and Lcon."""

    def __init__(self, backbone: nn.Module, classes: int, tones: int, epsilon: float = 0.0):
        super().__init__()
        self.epsilon = epsilon
        self.backbone = backbone
        self.feature = nn.Linear(backbone.num_features, 256)
        self.head = nn.Linear(256, classes)
        self.tone = nn.Linear(256, tones)
        self.project = nn.Sequential(nn.Linear(256, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> logits (B, C)."""
        return self.head(self.feature(self.backbone(images)))

    def losses(self, images, labels, tones, weight=None) -> dict[str, torch.Tensor]:
        """CE(y) + a Lconf(s(z)) + CE(s(stopgrad z), tone) + b Lcon (FairDisCo, section 3.4)."""
        z = self.feature(self.backbone(images))
        return {
            "class": weighted_cross_entropy(self.head(z), labels, weight),
            "confusion": self.CONFUSION * confusion_loss(self.tone(z).float()),
            "tone": functional.cross_entropy(self.tone(z.detach()), tones),
            "contrastive": self.CONTRASTIVE * contrastive_loss(self.project(z).float(), labels, epsilon=self.epsilon),
        }


def build(
    method: str, settings: ClassifySettings, classes: int, concepts: list[str], pretrained: bool = True
) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a method.

    Args:
        method: a name of `cgddi.stages.classify.settings.METHODS`.
        concepts: slugs that label texts must cover (PatchAlign).
        pretrained: False leaves backbone weights random, since others are loaded over them.

    Returns:
        The model and facts for the record.

    Raises:
        UserError: unknown backbone or weights, or label texts that do not match.
    """
    training = training_of(settings, method)
    weights = training.weights if pretrained else "random"
    backbone, facts = create_backbone(training.backbone, weights, settings.image_size)
    code = settings.losses == "code"
    tones = FITZPATRICK_TYPES if code else len(TONES)
    if method == "fairdisco":
        model: nn.Module = FairDisCo(backbone, classes, tones, CODE_EPSILON if code else 0.0)
    elif method == "patchalign":
        from cgddi.stages.classify.patchalign import PatchAlign, label_embeddings

        texts, facts["label_texts"] = label_embeddings(settings.label_texts, concepts)
        model = PatchAlign(backbone, classes, tones, texts)
    else:
        model = Baseline(backbone, classes)
    for _, parameter in list(model.backbone.named_parameters())[: training.frozen_tensors]:
        parameter.requires_grad_(False)
    return model, facts
