"""Linear layers and 1x1 convolutions of a frozen model on a CPU through oneDNN: torch's own go through MKL, half as fast on AMD.

MKL keeps to AVX2 on processors that are not Intel's; oneDNN asks the processor what it can do. Same float32 arithmetic; a GPU, half
precision and trained weights keep torch's own kernels.
"""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = 64
"""Below so many rows oneDNN's preparation costs more than it saves."""


def use_onednn_layers(model: nn.Module) -> None:
    """Give a frozen model on a CPU its fast layers, in place; names, values and the types' parents stay."""
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not available or next(model.parameters()).device.type != "cpu":
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


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`F.linear` with a frozen weight: x (..., in), weight (out, in), bias (out,) or None."""
    fast = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not weight.requires_grad
    if not fast or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Product.apply(x, weight, bias)
    return multiply(x, weight, bias)


def multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` of float32 tensors on a CPU by the faster library; autograd does not see it."""
    if x.numel() < ROWS * x.shape[-1]:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


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
