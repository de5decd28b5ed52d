"""Frozen linear layers and 1x1 convolutions through oneDNN on a CPU: torch's own go through MKL, half as fast on AMD.

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
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (weight,) = ctx.saved_tensors
        return _product(grad, weight.t(), None), None, None


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`F.linear` with a frozen weight.

    Args:
        x: (..., in).
        weight: (out, in), without gradient.
        bias: (out,), without gradient, or None.
    """
    fast = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.numel() >= ROWS * x.shape[-1]
    if not fast or weight.requires_grad:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Product.apply(x, weight, bias)
    return _product(x, weight, bias)


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


def use_fast_products(model: nn.Module) -> None:
    """Make a frozen model's linear layers and 1x1 convolutions fast ones, in place; names, weights and types' parents stay."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FrozenLinear
        elif (
            type(module) is nn.Conv2d
            and module.kernel_size == module.stride == (1, 1)
            and (module.padding, module.groups) == ((0, 0), 1)
        ):
            module.__class__ = FrozenPointwise
