"""The denoising loss of K adapters on one batch: prior preservation, mask weights, min-SNR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from cgddi.diffusion.backbone import Backbone, Prompts


@dataclass(frozen=True)
class Objective:
    """Loss of a batch laid out as K groups of `instances` then `priors` samples.

    The loss of an adapter is mean(instances) + prior_weight * mean(priors) (DreamBooth, Ruiz et al. 2023, eq. 2); adapters add up,
    so that no adapter's gradient depends on another's samples.

    Args:
        backbone: the frozen model with adapters or tokens in it.
        prompts: prompt numbers (B,) -> encoded prompts (differentiable when a token is trained).
        adapters: K.
        prior_share: share of each group, at its end, that are priors.
        prior_weight: weight of the prior samples.
        min_snr: gamma of min-SNR weighting, 0 for none.
    """

    backbone: Backbone
    prompts: Callable[[torch.Tensor], Prompts]
    adapters: int
    prior_share: float
    prior_weight: float
    min_snr: float = 0.0

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses per sample (K, n) and the scalar to minimise."""
        each = self.each(batch).reshape(self.adapters, -1)
        priors = round(each.shape[1] * self.prior_share)
        loss = each[:, : each.shape[1] - priors].mean(dim=1)
        if priors:
            loss = loss + self.prior_weight * each[:, -priors:].mean(dim=1)
        return each, loss.sum()

    def each(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Loss of every sample, (B,)."""
        rule = self.backbone.rule
        clean, noise, steps = batch["latents"], batch["noise"], batch["steps"]
        noisy = rule.add_noise(clean, noise, steps)
        predicted = self.backbone.denoise(noisy, steps, self.prompts(batch["prompt"]))
        error = (predicted.float() - rule.target(clean, noise, steps)).square()
        if "weights" in batch:
            error = error * batch["weights"]
        each = error.mean(dim=(1, 2, 3))
        return each * rule.min_snr_weight(steps, self.min_snr) if self.min_snr else each
