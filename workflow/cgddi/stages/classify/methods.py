"""The methods by name: each is a module with `forward(images) -> logits` and `losses(...) -> parts that are added up`."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cgddi.core.backbones import create_backbone
from cgddi.core.images import TONES
from cgddi.stages.classify.losses import confusion_loss, contrastive_loss, weighted_cross_entropy
from cgddi.stages.classify.settings import ClassifySettings, training_of

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
        classes: number of classes C.
        tones: outputs of the tone head.
        epsilon: see `contrastive_loss`.
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
        settings: how it is trained.
        classes: number of classes.
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
