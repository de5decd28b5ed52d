"""PatchAlign (MICCAI 2024): patch features weighted by a learnt mask, aligned with label texts by MGOT."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cgddi.core.errors import UserError
from cgddi.stages.classify.losses import confusion_loss
from cgddi.stages.classify.methods import weighted_cross_entropy
from cgddi.stages.classify.mgot import mgot


class PatchAlign(nn.Module):
    """A vision transformer whose tokens are masked, classified one by one and aligned with label texts.

    Args:
        backbone: timm model whose `forward_features` gives tokens (B, n, d).
        classes: number of classes. tones: number of tone groups.
        texts: label-text embeddings (m, e); where e differs from d, a learnt linear layer brings the tokens to e for MGOT.
        confusion: weight of Lconf. alignment: weight of MGOT.

    Raises:
        UserError: the backbone gives no tokens.
    """

    def __init__(self, backbone, classes: int, tones: int, texts: torch.Tensor, confusion: float, alignment: float):
        super().__init__()
        self.backbone = backbone
        size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
        if size is None:
            raise UserError(
                "PatchAlign needs a vision transformer of timm (tokens), e.g. vit_base_patch16_224.augreg_in21k."
            )
        with torch.no_grad():
            n, d = backbone.eval().forward_features(torch.zeros(1, 3, *size)).shape[1:]
        m, e = texts.shape
        self.register_buffer("texts", texts.float())
        self.mask = nn.Sequential(nn.Linear(n * d, 128), nn.ReLU(), nn.Linear(128, n * m), nn.Sigmoid())
        self.head = nn.Sequential(nn.Linear(d, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes))
        self.tone = nn.Linear(d, tones)
        self.to_text = nn.Identity() if e == d else nn.Linear(d, e)
        self.tokens, self.labels = n, m
        self.confusion, self.alignment = confusion, alignment

    def masked(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens F (B, n, d), mask M (B, n, m) and masked tokens F' = F * w with w_t = sum over texts of M_t."""
        tokens = self.backbone.forward_features(images)
        mask = self.mask(tokens.flatten(1)).view(-1, self.tokens, self.labels)
        return tokens, mask, tokens * mask.sum(-1, keepdim=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> logits (B, C), the mean over tokens."""
        return self.head(self.masked(images)[2]).mean(dim=1)

    def losses(self, images, labels, tones, weight=None) -> dict[str, torch.Tensor]:
        """CE(y) + a Lconf(s(F')) + CE(s(stopgrad F), tone) + b MGOT(F', E, M) (PatchAlign, section 2.3)."""
        tokens, mask, weighted = self.masked(images)
        return {
            "class": weighted_cross_entropy(self.head(weighted).mean(dim=1), labels, weight),
            "confusion": self.confusion * confusion_loss(self.tone(weighted).mean(dim=1).float()),
            "tone": functional.cross_entropy(self.tone(tokens.detach()).mean(dim=1), tones),
            "alignment": self.alignment * mgot(self.to_text(weighted), self.texts, mask),
        }
