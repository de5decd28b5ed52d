"""Linear layers with adapters in float32 on a CPU: those of one input as few products and one step of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from cgddi.diffusion.frozen import is_fast, multiply

NARROW = 32
"""Widest input, in ranks, for which the gradient of the whole weight costs less than the way through rank r."""


class Adapted(Protocol):
    """A layer with adapters, see `lora_layers.StackedLoRA`."""

    base: nn.Module
    scale: float

    def used(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A (K, r, in) and B (K, out, r) of the adapters that the batch passes through."""


def takes(layers: Sequence[Adapted], x: torch.Tensor) -> bool:
    """Whether `adapted` computes these layers: linear ones of one kind in float32 on a CPU."""
    return (
        is_fast(x, layers[0].base.weight)
        and all(isinstance(layer.base, nn.Linear) for layer in layers)
        and len({(layer.scale, layer.used()[0].shape[:2], layer.base.bias is None) for layer in layers}) == 1
        and (len(layers) == 1 or layers[0].base.bias is None)
    )


def adapted(x: torch.Tensor, layers: Sequence[Adapted], joined: torch.Tensor | None = None) -> Sequence[torch.Tensor]:
    """The outputs of layers with adapters on one input (see `takes`), W x + scale * B A x each.

    Args:
        x: (K * n, ..., in), group k first to last through adapter k.
        layers: with as many adapters, of one rank.
        joined: the layers' frozen weights, one below the other, where they lie in one tensor.
    """
    downs, ups = zip(*(layer.used() for layer in layers), strict=True)
    weights = [layer.base.weight for layer in layers]
    one = len(downs[0]) == 1 and x.shape[-1] <= NARROW * downs[0].shape[1]
    found = (_Merged if one else _Stacked).apply(x, weights, joined, layers[0].base.bias, layers[0].scale, *downs, *ups)
    return found if len(layers) > 1 else (found,)


class _Merged(torch.autograd.Function):
    """Layers with one adapter on one input, as one product with W + scale * B A; gradients for x, A and B.

    The gradient of the merged weight, of which those of A and B follow, is one more product: cheaper than going through rank r
    where the layer is narrow.
    """

    @staticmethod
    def forward(ctx, x, weights, joined, bias, scale, *matrices):
        count = ctx.count = len(weights)
        sizes = ctx.sizes = [len(weight) for weight in weights]
        merged = x.new_empty(sum(sizes), x.shape[-1])
        for i, part in enumerate(merged.split(sizes)):
            torch.addmm(weights[i], matrices[count + i][0], matrices[i][0], alpha=scale, out=part)
        ctx.save_for_backward(x, merged, *matrices)
        ctx.scale = scale
        found = multiply(x, merged, bias)
        return found.split(sizes, dim=-1) if count > 1 else found

    @staticmethod
    def backward(ctx, *grads):
        x, merged, *matrices = ctx.saved_tensors
        count = ctx.count
        grad = torch.cat(grads, dim=-1) if count > 1 else grads[0]
        back = multiply(grad, merged.t()) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[5]:
            return back, None, None, None, None, *[None] * len(matrices)
        whole = multiply(grad.reshape(-1, len(merged)).t(), x.reshape(-1, x.shape[-1]).t())
        if ctx.scale != 1:
            whole.mul_(ctx.scale)
        parts = whole.split(ctx.sizes)
        downs = [torch.mm(matrices[count + i][0].t(), part)[None] for i, part in enumerate(parts)]
        ups = [torch.mm(part, matrices[i][0].t())[None] for i, part in enumerate(parts)]
        return back, None, None, None, None, *downs, *ups


class _Stacked(torch.autograd.Function):
    """Layers with K adapters on one input: one product with all frozen weights, one batched product through rank r."""

    @staticmethod
    def forward(ctx, x, weights, joined, bias, scale, *matrices):
        count = ctx.count = len(weights)
        sizes = ctx.sizes = [len(weight) for weight in weights]
        downs, ups = torch.cat(matrices[:count], dim=1), matrices[count:]
        if scale != 1:
            downs = downs * scale
        if joined is None:
            joined = torch.cat(weights) if count > 1 else weights[0]
        k, rank = len(downs), ups[0].shape[-1]
        groups = x.reshape(k, -1, x.shape[-1])
        hidden = torch.bmm(groups, downs.transpose(1, 2))
        found = multiply(groups, joined, bias)
        for up, part, inner in zip(ups, found.split(sizes, dim=-1), hidden.split(rank, dim=-1), strict=True):
            part.baddbmm_(inner, up.transpose(1, 2))
        ctx.save_for_backward(groups, joined, hidden, downs, *ups)
        ctx.shape, ctx.scale = x.shape, scale
        return found.view(*x.shape[:-1], -1).split(sizes, dim=-1) if count > 1 else found.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, *grads):
        groups, joined, hidden, downs, *ups = ctx.saved_tensors
        k, rank, count = len(downs), ups[0].shape[-1], ctx.count
        grad = (torch.cat(grads, dim=-1) if count > 1 else grads[0]).reshape(k, -1, len(joined))
        parts = grad.split(ctx.sizes, dim=-1)
        inner = torch.cat([torch.bmm(part, up) for part, up in zip(parts, ups, strict=True)], dim=-1)
        back = None
        if ctx.needs_input_grad[0]:
            back = multiply(grad, joined.t()).baddbmm_(inner, downs).view(ctx.shape)
        if not ctx.needs_input_grad[5]:
            return back, None, None, None, None, *[None] * (2 * count)
        down = torch.bmm(inner.transpose(1, 2), groups)
        if ctx.scale != 1:
            down.mul_(ctx.scale)
        up = [torch.bmm(p.transpose(1, 2), h) for p, h in zip(parts, hidden.split(rank, dim=-1), strict=True)]
        return back, None, None, None, None, *down.split(rank, dim=1), *up
