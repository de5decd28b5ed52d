"""Linear layers and 1x1 convolutions of a frozen model on a CPU through oneDNN: torch's own go through MKL, half as fast on AMD.

MKL keeps to AVX2 on processors that are not Intel's; oneDNN asks the processor what it can do. Same float32 arithmetic; a GPU and
half precision keep torch's own kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

ROWS = 64
"""Below so many rows oneDNN's preparation costs more than it saves."""


class _Product(torch.autograd.Function):
    """x @ weight.T + bias with a gradient for x alone."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return multiply(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (weight,) = ctx.saved_tensors
        return multiply(grad, weight.t()), None, None


def multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` of float32 tensors on a CPU by the faster library; autograd does not see it.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.
    """
    if x.numel() < ROWS * x.shape[-1]:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def is_fast(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `multiply` takes these."""
    return x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and available()


def available() -> bool:
    """Whether this build of torch has oneDNN's product."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`F.linear` with a frozen weight.

    Args:
        x: (..., in).
        weight: (out, in), without gradient.
        bias: (out,), without gradient, or None.
    """
    if not is_fast(x, weight) or weight.requires_grad:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Product.apply(x, weight, bias)
    return multiply(x, weight, bias)


class FrozenLinear(nn.Linear):
    """A linear layer whose weight is not trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return product(x, self.weight, self.bias)


class FrozenPointwise(nn.Conv2d):
    """A 1x1 convolution whose weight is not trained: a linear layer over the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in, h, w) -> (B, out, h, w)."""
        if x.device.type != "cpu":
            return super().forward(x)
        return product(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
