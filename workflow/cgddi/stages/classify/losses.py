"""Losses of FairDisCo and group weights; each is checked against plain numpy in the tests."""

import numpy as np
import torch
from torch.nn import functional


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
        temperature: above zero.
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
