"""Attention of a frozen model on a CPU: the projections of one input as one product, with or without adapters on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

from cgddi.diffusion.frozen import FrozenLinear, product
from cgddi.diffusion.lora_layers import StackedLoRA
from cgddi.diffusion.lora_products import adapted, takes


class FrozenAttention(Attention):
    """Plain attention (see `fits`), computed as diffusers' `AttnProcessor2_0` does.

    Where the frozen projections of one input lie in one tensor (`prepare`), they are one product.
    """

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a layer is attention without norms, residual and scaling of its own."""
        return (
            type(module) is Attention
            and type(module.processor) is AttnProcessor2_0
            and not (module.residual_connection or module.only_cross_attention)
            and module.rescale_output_factor == 1
            and module.to_out is not None
            and module.to_out[1].p == 0
            and all(
                getattr(module, name, None) is None
                for name in ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
            )
        )

    def prepare(self) -> None:
        """Lay the weights of the projections that share an input into one tensor; the layers' own become views of it."""
        shared = (self.to_k, self.to_v) if self.is_cross_attention else (self.to_q, self.to_k, self.to_v)
        self.joined = torch.cat([layer.weight.data for layer in shared])
        for layer, part in zip(shared, self.joined.split([layer.out_features for layer in shared]), strict=True):
            layer.weight.data = part

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **other,
    ) -> torch.Tensor:
        """(B, n, C) and for cross-attention (B, m, D) -> (B, n, C)."""
        if attention_mask is not None or other or type(self.processor) is not AttnProcessor2_0:
            return super().forward(hidden_states, encoder_hidden_states, attention_mask, **other)
        if encoder_hidden_states is None:
            query, key, value = projections(hidden_states, (self.to_q, self.to_k, self.to_v), self.joined)
        else:
            query = self.to_q(hidden_states)
            key, value = projections(encoder_hidden_states, (self.to_k, self.to_v), self.joined)
        shape = (len(hidden_states), -1, self.heads, query.shape[-1] // self.heads)
        query, key, value = (part.view(shape).transpose(1, 2) for part in (query, key, value))
        found = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.to_out[0](found)


class FrozenGEGLU(GEGLU):
    """The gated unit a * gelu(g) (Shazeer 2020), its gradient written where it is wanted instead of joined afterwards."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, n, in) -> (B, n, out)."""
        return _Gate.apply(self.proj(hidden_states))


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, both: torch.Tensor) -> torch.Tensor:
        value, gate = both.chunk(2, dim=-1)
        opened = F.gelu(gate)
        ctx.save_for_backward(both, opened)
        return value * opened

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        both, opened = ctx.saved_tensors
        value, gate = both.chunk(2, dim=-1)
        return torch.cat([grad * opened, torch.ops.aten.gelu_backward(grad * value, gate)], dim=-1)


def projections(x: torch.Tensor, layers: Sequence[nn.Module], joined: torch.Tensor) -> Sequence[torch.Tensor]:
    """Each layer of one input: as one product where they are adapters of one kind, or lie in `joined`; else one by one.

    Args:
        x: (B, n, in).
        layers: frozen linear layers, or such with adapters.
        joined: their weights, as long as nobody put others in their place.
    """
    frozen = [layer.base if isinstance(layer, StackedLoRA) else layer for layer in layers]
    if not (
        all(type(layer) is FrozenLinear and layer.bias is None for layer in frozen)
        and frozen[0].weight.data_ptr() == joined.data_ptr()
        and frozen[-1].weight.data_ptr() == joined[-frozen[-1].out_features :].data_ptr()
    ):
        return [layer(x) for layer in layers]
    if all(isinstance(layer, StackedLoRA) for layer in layers) and takes(layers, x):
        return adapted(x, layers, joined)
    if frozen == list(layers):
        return product(x, joined, None).split([layer.out_features for layer in layers], dim=-1)
    return [layer(x) for layer in layers]
