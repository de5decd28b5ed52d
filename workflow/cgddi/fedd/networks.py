"""The ensemble of pixel networks as one module: all members in one batched product, mathematically apart from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

Masks = tuple[torch.Tensor | None, torch.Tensor | None]


class Members(nn.Module):
    """A linear layer of each member: weight (E, out, in), bias (E, out), initialised as nn.Linear is."""

    def __init__(self, members: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(members, outputs))

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Draw each member's weights with its own generator: uniform in +-1/sqrt(inputs), as nn.Linear's default."""
        bound = 1 / math.sqrt(self.weight.shape[2])
        with torch.no_grad():
            for weight, bias, generator in zip(self.weight, self.bias, generators, strict=True):
                weight.uniform_(-bound, bound, generator=generator)
                bias.uniform_(-bound, bound, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(P, E, in) -> (P, E, out)."""
        return torch.baddbmm(self.bias[:, None], x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1)


class Networks(nn.Module):
    """E networks inputs-h1-ReLU-BN-h2-ReLU-BN-outputs (FEDD, section 2.1; DatasetDDPM, Baranchuk et al. 2022, section 4).

    Batch normalisation acts on each channel alone, so one BatchNorm1d over the members' joined channels is that of each member.

    Args:
        members: E. inputs: width of a sample's feature vector. hidden: h1 and h2. outputs: classes.
    """

    def __init__(self, members: int, inputs: int, hidden: tuple[int, int], outputs: int):
        super().__init__()
        self.members = members
        self.first = Members(members, inputs, hidden[0])
        self.norm1 = nn.BatchNorm1d(members * hidden[0])
        self.second = Members(members, hidden[0], hidden[1])
        self.norm2 = nn.BatchNorm1d(members * hidden[1])
        self.last = Members(members, hidden[1], outputs)

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Initial weights, each member's from its own generator (E of them)."""
        for layer in (self.first, self.second, self.last):
            layer.draw(generators)

    def forward(self, x: torch.Tensor, masks: Masks = (None, None)) -> torch.Tensor:
        """Logits (P, E, outputs) of P samples per member, x (P, E, inputs); members do not see each other's.

        Args:
            masks: dropout after each batch normalisation: factors (P, E, h1) and (P, E, h2), or None.
        """
        return self.rest(self.first(x), masks)

    def shared(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (P, E, outputs) of samples that all members see, x (P, inputs)."""
        first = functional.linear(x, self.first.weight.flatten(0, 1), self.first.bias.flatten())
        return self.rest(first.view(len(x), self.members, -1))

    def rest(self, x: torch.Tensor, masks: Masks = (None, None)) -> torch.Tensor:
        """All after the first linear layer: (P, E, h1) -> (P, E, outputs)."""
        x = self._norm(self.norm1, x, masks[0])
        x = self._norm(self.norm2, self.second(x), masks[1])
        return self.last(x)

    def _norm(self, norm: nn.BatchNorm1d, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        x = norm(functional.relu(x).flatten(1)).view(x.shape)
        return x if mask is None else x * mask

    @torch.no_grad()
    def fold(self, shift: torch.Tensor, scale: torch.Tensor) -> None:
        """Put a standardisation (x - shift) / scale into the first layer, so that it reads features as they are stored.

        Args:
            shift, scale: of all members (inputs,), or of each (E, inputs).
        """
        shift, scale = (value.expand(self.members, -1) for value in (shift, scale))
        self.first.weight /= scale[:, None]
        self.first.bias -= torch.bmm(self.first.weight, shift[..., None])[..., 0]


def keep_better(best: dict[str, torch.Tensor], model: Networks, better: torch.Tensor) -> None:
    """Copy the state of some members into `best` (a clone of the module's state), in place.

    Args:
        better: bool (E,), the members to copy.
    """
    for name, value in model.state_dict().items():
        if value.ndim:  # the batch norms' counter of batches is of no use
            kept, new = (t.view(model.members, -1) for t in (best[name], value))
            kept[better] = new[better]
