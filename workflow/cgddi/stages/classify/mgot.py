"""MGOT: masked graph optimal transport between image patches and label texts (PatchAlign, MICCAI 2024, section 2.2).

A batch of B images with n patches each is aligned with m texts; the mask M (B, n, m) says which patch matters for which text.
"""

import torch
from torch.nn import functional


def threshold(cost: torch.Tensor, share: float = 0.1) -> torch.Tensor:
    """relu(C - (min + share (max - min))), minimum and maximum over the whole tensor: small costs count as none."""
    low, high = cost.min(), cost.max()
    return functional.relu(cost - (low + share * (high - low)))


def cosine_cost(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """1 - cosine similarity: (..., n, d) and (..., m, d) -> (..., n, m), thresholded."""
    return threshold(1 - functional.normalize(left, dim=-1) @ functional.normalize(right, dim=-1).transpose(-1, -2))


def ipot(cost: torch.Tensor, mask: torch.Tensor, temperature: float, steps: int) -> torch.Tensor:
    """Masked transport plan by proximal point iterations (IPOT, Xie et al. 2020) that start from the mask.

    T = M, s = 1/m, A = exp(-C / temperature); `steps` times: Q = A * T, d = 1/(n Q s), s = 1/(m Q^T d), T = d * Q * s^T.
    Computed with n d / m and m s in the stead of d and s, and A / n in that of A, so that a step is seven operations: n T is
    (n d / m) * Q * (m s)^T.

    Args:
        cost: (B, n, m). mask: (B, n, m), above zero. temperature: above zero. steps: iterations.

    Returns:
        Plans (B, n, m).
    """
    n, m = cost.shape[-2:]
    kernel = torch.exp(cost / -temperature) / n
    plan = n * mask
    share = cost.new_full((), n / m)
    sigma = torch.ones_like(cost[..., 0, :, None])
    for _ in range(steps):
        q = kernel * plan
        delta = (q @ sigma).reciprocal()
        sigma = share / (q.transpose(-1, -2) @ delta)
        plan = delta * q * sigma.transpose(-1, -2)
    return plan / n


def wasserstein(patches: torch.Tensor, texts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Masked Wasserstein distance <C, IPOT(C, M, 0.5, 30)> per image, (B,)."""
    cost = cosine_cost(patches, texts)
    return (cost * ipot(cost, mask, 0.5, 30)).sum(dim=(-1, -2))


def gromov_wasserstein(patches: torch.Tensor, texts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Masked Gromov-Wasserstein distance <L - 2 Cs G Ct^T, stopgrad G> per image, (B,).

    Cs and Ct are thresholded cosine costs within patches and within texts, L = rowmean(Cs^2) 1^T + 1 rowmean(Ct^2)^T; from
    G = 1/(nm), five times G = IPOT(L - 2 Cs G Ct^T, M, 0.1, 20).

    The outer G alone is a constant. The G inside the product is not: through its 100 iterations the mask learns from this term.
    """
    source, target = cosine_cost(patches, patches), cosine_cost(texts, texts)
    n, m = mask.shape[-2:]
    constant = source.square().mean(-1)[..., :, None] + target.square().mean(-1)[..., None, :]
    plan = torch.full_like(mask, 1 / (n * m))
    cost = constant - 2 * source @ plan @ target.transpose(-1, -2)
    for _ in range(5):
        plan = ipot(cost, mask, 0.1, 20)
        cost = constant - 2 * source @ plan @ target.transpose(-1, -2)
    return (cost * plan.detach()).sum(dim=(-1, -2))


def mgot(patches: torch.Tensor, texts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """0.9 mean Gromov-Wasserstein + 0.1 mean Wasserstein distance, a scalar.

    Args:
        patches: masked patch features F' (B, n, d).
        texts: label-text embeddings E (m, d).
        mask: M (B, n, m), in (0, 1).
    """
    with torch.autocast(patches.device.type, enabled=False):
        exact = torch.promote_types(patches.dtype, torch.float32)
        patches, texts, mask = patches.to(exact), texts.to(exact), mask.to(exact)
        return 0.9 * gromov_wasserstein(patches, texts, mask).mean() + 0.1 * wasserstein(patches, texts, mask).mean()
