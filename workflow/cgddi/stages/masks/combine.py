"""SAM 3's instances of several prompts, combined into one five-class mask and its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from cgddi.core.images import BACKGROUND, CLASSES


@dataclass
class Evidence:
    """What the prompts of one class say about one photo.

    Args:
        inside: (size, size) bool: within an instance that counts.
        belief: (size, size) float32, 0 to 1: the largest product of an instance's score and its probability of the pixel, over all
            instances, also those whose score is too low to count.
    """

    inside: np.ndarray
    belief: np.ndarray

    def __or__(self, other: Evidence) -> Evidence:
        return Evidence(self.inside | other.inside, np.maximum(self.belief, other.belief))


def evidence(
    logits: torch.Tensor,
    presence: torch.Tensor,
    masks: torch.Tensor,
    size: int,
    confidence: float,
    mask_threshold: float,
) -> Evidence:
    """Evidence of one prompt on one photo. Instances that count are those of `post_process_instance_segmentation`.

    Args:
        logits: (Q,) of the instances.
        presence: (1,) logit of the prompt's presence; an instance's score is the product of both sigmoids (SAM 3, section 3).
        masks: (Q, h, w) logits.
        size: px of the result.
        confidence: instances of a score not above it do not count.
        mask_threshold: a pixel of higher probability (after bilinear resampling) belongs to an instance.
    """
    scores = logits.float().sigmoid() * presence.float().sigmoid()
    probability = masks.float().sigmoid()
    belief = _resized((scores[:, None, None] * probability).amax(0)[None], size)[0]
    inside = torch.zeros(size, size, dtype=torch.bool, device=masks.device)
    for number in torch.nonzero(scores > confidence)[:, 0].tolist():
        inside |= _resized(probability[number][None], size)[0] > mask_threshold
    return Evidence(inside.cpu().numpy(), belief.cpu().numpy())


def _resized(maps: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(maps[None], size=(size, size), mode="bilinear", align_corners=False)[0]


def combined(found: Mapping[str, Evidence], precedence: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """One mask of several classes, and how uncertain it is.

    Args:
        found: class name -> its evidence; a class that was not looked for is left out.
        precedence: class names; where instances of several classes overlap, the first takes the pixel.

    Returns:
        Class ids (size, size) uint8, background where no instance counts. Uncertainty (size, size) float32, 0 to 1: one less the
        belief in the pixel's class; on background the largest belief in any class.
    """
    shape = next(iter(found.values())).inside.shape
    mask = np.full(shape, BACKGROUND, np.uint8)
    uncertainty = np.maximum.reduce([each.belief for each in found.values()])
    for name in reversed([name for name in precedence if name in found]):
        inside = found[name].inside
        mask[inside] = CLASSES[name]
        uncertainty = np.where(inside, 1 - found[name].belief, uncertainty)
    return mask, uncertainty.astype(np.float32)
