"""Residual blocks of a frozen model on a CPU: no division by 1, and no gradient for skip connections that nothing learns from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UpBlock2D
from torch import nn


class FrozenResnet(ResnetBlock2D):
    """A plain residual block whose sum is not scaled (see `fits`)."""

    @staticmethod
    def fits(block: nn.Module) -> bool:
        """Whether a block is of the kind that `forward` computes."""
        return (
            type(block) is ResnetBlock2D
            and block.upsample is None
            and block.downsample is None
            and block.time_embedding_norm == "default"
            and not block.skip_time_act
            and block.output_scale_factor == 1
            and block.conv1.kernel_size == (3, 3)
            and block.dropout.p == 0
        )

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None, skip: torch.Tensor | None = None):
        """(B, in, h, w) and (B, T) -> (B, out, h, w).

        Args:
            input_tensor: the first channels, or all.
            temb: embedded timesteps.
            skip: the other channels, without gradient: a block before the first that learns gave them.
        """
        count = input_tensor.shape[1]
        more = -count % (self.norm1.num_channels // self.norm1.num_groups)  # up to a whole group of the norm
        if skip is not None and skip.shape[1] <= more:  # nothing is left to part with
            input_tensor, skip = torch.cat([input_tensor, skip], dim=1), None
        if skip is None:
            hidden = self.conv1(self.nonlinearity(self.norm1(input_tensor)))
        else:
            live = torch.cat([input_tensor, skip[:, :more]], dim=1) if more else input_tensor
            live = self.nonlinearity(self._norm(live, slice(0, count + more)))
            with torch.no_grad():
                rest = self.nonlinearity(self._norm(skip[:, more:], slice(count + more, None)))
            hidden = _Convolution.apply(live, rest, self.conv1.weight, self.conv1.bias)
        if temb is not None:
            hidden = hidden + self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None]
        hidden = self.conv2(self.nonlinearity(self.norm2(hidden)))
        if skip is not None:
            input_tensor = torch.cat([input_tensor, skip], dim=1)
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return input_tensor + hidden

    def _norm(self, x: torch.Tensor, part: slice) -> torch.Tensor:
        norm = self.norm1
        groups = x.shape[1] * norm.num_groups // norm.num_channels
        return F.group_norm(x, groups, norm.weight[part], norm.bias[part], norm.eps)


class FrozenUpBlock(UpBlock2D):
    """Blocks of the way up without attention, of which the skip connections may need no gradient."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        res_hidden_states_tuple: tuple[torch.Tensor, ...],
        temb: torch.Tensor | None = None,
        upsample_size: int | None = None,
    ) -> torch.Tensor:
        """As `UpBlock2D.forward`."""
        skips = reversed(res_hidden_states_tuple)
        for block, skip in zip(self.resnets, skips, strict=False):
            live = torch.is_grad_enabled() and hidden_states.requires_grad and not skip.requires_grad
            if (
                live and isinstance(block, FrozenResnet) and type(block.conv1) is nn.Conv2d
            ):  # one with an adapter learns
                hidden_states = block(hidden_states, temb, skip)
            else:
                hidden_states = block(torch.cat([hidden_states, skip], dim=1), temb)
        for upsampler in self.upsamplers or ():
            hidden_states = upsampler(hidden_states, upsample_size)
        return hidden_states


class _Convolution(torch.autograd.Function):
    """A 3x3 convolution of two inputs' channels with a gradient for the first input alone."""

    @staticmethod
    def forward(ctx, live: torch.Tensor, rest: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(live, weight)
        return F.conv2d(torch.cat([live, rest], dim=1), weight, bias, padding=1)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        live, weight = ctx.saved_tensors
        part = weight[:, : live.shape[1]]
        back, _, _ = torch.ops.aten.convolution_backward(
            grad, live, part, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False]
        )
        return back, None, None, None
