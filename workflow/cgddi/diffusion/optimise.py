"""How a run optimises: the plan of its steps, and its parameters as one flat tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Plan:
    """How to optimise.

    Args:
        steps: optimizer steps.
        lr: learning rate after warm-up.
        schedule: "constant", "linear" or "cosine" (both to 0).
        warmup: steps of linear warm-up.
        betas, eps, weight_decay: of AdamW (Loshchilov & Hutter 2019).
        clip: largest gradient norm per adapter; 0 clips nothing.
        ema: decay of an exponential moving average whose value is the result; 0 keeps none.
        accumulation: parts into which each batch is cut to save memory.
        loss_scale: factor on the loss, taken out of the gradient again: in float16 small gradients would become 0
            (Micikevicius et al. 2018, section 3.2). A power of two changes nothing in float32.
        checkpoint_every, log_every, validate_every, preview_every: in steps; 0 is never (of the last two).
    """

    steps: int
    lr: float
    schedule: str = "constant"
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    clip: float = 0.0
    ema: float = 0.0
    accumulation: int = 1
    loss_scale: float = 1.0
    checkpoint_every: int = 100
    log_every: int = 10
    validate_every: int = 0
    preview_every: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step (0-based)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[self.schedule]
        return self.lr * factor

    @property
    def decay(self) -> float:
        """What the whole run leaves of a parameter that never gets a gradient: the product of 1 - lr * weight_decay (decoupled
        decay, Loshchilov & Hutter 2019, algorithm 2), averaged where the average is the result."""
        value = average = 1.0
        for step in range(self.steps):
            value *= 1 - self.rate(step) * self.weight_decay
            average = self.ema * average + (1 - self.ema) * value
        return average


class Flat:
    """Parameters of K adapters as views of one (K, P) tensor, their gradients of another: one optimizer kernel per step.

    Args:
        parameters: name -> parameter whose first dimension is K (any shape when K is 1); changed in place to views.
        adapters: K.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], adapters: int):
        sizes = {name: p.numel() // adapters for name, p in parameters.items()}
        device = next(iter(parameters.values())).device
        self.value = nn.Parameter(torch.empty(adapters, sum(sizes.values()), device=device))
        self.value.grad = torch.zeros_like(self.value)
        start = 0
        for name, parameter in parameters.items():
            part = slice(start, start + sizes[name])
            start += sizes[name]
            self.value.data[:, part] = parameter.data.reshape(adapters, -1)
            parameter.requires_grad_(True)
            parameter.data = _view(self.value.data[:, part], parameter.shape, adapters)
            parameter.grad = _view(self.value.grad[:, part], parameter.shape, adapters)


def _view(part: torch.Tensor, shape: torch.Size, adapters: int) -> torch.Tensor:
    return part.view(shape) if adapters == 1 else part.unflatten(1, shape[1:])


def loss_scale(dtype: torch.dtype) -> float:
    """`Plan.loss_scale` for a denoiser of this type."""
    return 4096.0 if dtype == torch.float16 else 1.0
