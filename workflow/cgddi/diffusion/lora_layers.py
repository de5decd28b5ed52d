"""LoRA layers for K adapters at once over one frozen base: stacked matrices, one batched product per projection.

The batch holds K equal groups, group k first to last; group k passes through adapter k only. With K = 1 this is ordinary LoRA
(Hu et al. 2021, section 4.1): y = W x + scale * B A x.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from cgddi.core.errors import UserError
from cgddi.diffusion.lora_products import adapted, takes


class StackedLoRA(nn.Module):
    """A frozen linear or convolution layer with K adapters.

    Args:
        base: the frozen layer.
        adapters: K.
        rank: r.
        scale: alpha / r (or alpha / sqrt(r) for rsLoRA; Kalajdzievski 2023).
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, adapters: int, rank: int, scale: float):
        super().__init__()
        self.base, self.adapters, self.rank, self.scale = base, adapters, rank, scale
        self.only: int | None = None  # the one adapter that every sample passes through, see `only`
        device = base.weight.device
        if isinstance(base, nn.Linear):
            down, up = (rank, base.in_features), (base.out_features, rank)
        else:
            down, up = (rank, base.in_channels, *base.kernel_size), (base.out_channels, rank, 1, 1)
        self.down = nn.Parameter(torch.zeros((adapters, *down), device=device))
        self.up = nn.Parameter(torch.zeros((adapters, *up), device=device))

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """x is (K * n, ..., C) for a linear layer, (K * n, C, H, W) for a convolution."""
        if takes((self,), x):
            return adapted(x, (self,))[0]
        down, up = (matrix.to(x.dtype) for matrix in self.used())
        if self.scale != 1:
            up = up * self.scale
        if isinstance(self.base, nn.Linear):
            return self.base(x) + self._linear(x, down, up)
        return self.base(x) + self._convolution(x, down, up)

    def used(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B of the adapters that the batch passes through."""
        if self.only is None:
            return self.down, self.up
        return self.down[self.only : self.only + 1], self.up[self.only : self.only + 1]

    def _linear(self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        if len(down) == 1:
            return F.linear(F.linear(x, down.flatten(0, 1)), up.flatten(0, 1))
        grouped = x.reshape(len(down), -1, x.shape[-1])
        hidden = torch.bmm(grouped, down.transpose(1, 2))
        return torch.bmm(hidden, up.transpose(1, 2)).reshape(*x.shape[:-1], -1)

    def _convolution(self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        base, k = self.base, len(down)
        if k > 1:  # K groups along the channels: (n, K * C, H, W)
            x = x.reshape(k, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)
        hidden = F.conv2d(x, down.flatten(0, 1), None, base.stride, base.padding, base.dilation, groups=k)
        out = F.conv2d(hidden, up.flatten(0, 1), groups=k)
        if k > 1:
            out = out.reshape(out.shape[0], k, -1, *out.shape[2:]).transpose(0, 1).flatten(0, 1)
        return out


def find_targets(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Dotted names of the linear and convolution layers whose name ends in one of `names`, in the model's order.

    Raises:
        UserError: one of `names` matches no layer.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    found = [layer for layer in layers if any(layer == name or layer.endswith("." + name) for name in names)]
    for name in names:
        if not any(layer == name or layer.endswith("." + name) for layer in found):
            raise UserError(f"lora target_modules: no layer of this base model ends in {name!r}.")
    return found


def inject(model: nn.Module, targets: Iterable[str], adapters: int, rank: int, scale: float) -> dict[str, StackedLoRA]:
    """Put stacked adapters on the named layers of a model, in place.

    Returns:
        Layer name -> the new layer. `remove` undoes it.
    """
    made = {}
    for name in targets:
        parent, _, last = name.rpartition(".")
        place = model.get_submodule(parent)
        layer = StackedLoRA(place.get_submodule(last), adapters, rank, scale)
        setattr(place, last, layer) if not last.isdigit() else place.__setitem__(int(last), layer)
        made[name] = layer
    return made


@contextmanager
def only(layers: Mapping[str, StackedLoRA], adapter: int) -> Iterator[None]:
    """For the length of a `with` block every sample passes through one adapter, in batches of any size."""
    for layer in layers.values():
        layer.only = adapter
    try:
        yield
    finally:
        for layer in layers.values():
            layer.only = None


def remove(model: nn.Module, layers: dict[str, StackedLoRA]) -> None:
    """Take stacked adapters off again."""
    for name, layer in layers.items():
        parent, _, last = name.rpartition(".")
        place = model.get_submodule(parent)
        setattr(place, last, layer.base) if not last.isdigit() else place.__setitem__(int(last), layer.base)
