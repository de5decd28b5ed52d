"""The ADM in its original layout and names, written for the tests from the paper and the checkpoint's tensor names.

Nothing here is shared with the converter: blocks in flat lists, queries, keys and values cut head by head in a loop.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    """norm-SiLU-(resample)-conv, scale and shift from the time, norm-SiLU-conv, on top of the (resampled) input."""

    def __init__(self, channels: int, time: int, out: int, resample: str | None = None):
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def _resized(self, x: torch.Tensor) -> torch.Tensor:
        if self.resample == "up":
            return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return functional.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.in_layers[2](self._resized(self.in_layers[1](self.in_layers[0](x))))
        scale, shift = self.emb_layers(time)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        return self.skip_connection(self._resized(x)) + h


class Attention(nn.Module):
    """Self-attention over all places; the rows of qkv are head by head."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.width = width
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(2)
        rows = self.qkv(self.norm(flat))
        heads = []
        for start in range(0, rows.shape[1], 3 * self.width):
            query, key, value = rows[:, start : start + 3 * self.width].split(self.width, dim=1)
            weights = torch.softmax(query.transpose(1, 2) @ key / math.sqrt(self.width), dim=-1)
            heads.append(value @ weights.transpose(1, 2))
        return (flat + self.proj_out(torch.cat(heads, dim=1))).view_as(x)


class Plain(nn.Conv2d):
    """The first convolution, called like the other layers."""

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


class OriginalADM(nn.Module):
    """The whole network; `forward` gives the outputs of the 18 output blocks and the prediction."""

    def __init__(self, channels: int, head: int, multipliers=(1, 1, 2, 2, 4, 4), attention=(8, 16, 32)):
        super().__init__()
        time, self.channels = 4 * channels, channels
        self.time_embed = nn.Sequential(nn.Linear(channels, time), nn.SiLU(), nn.Linear(time, time))
        self.input_blocks = nn.ModuleList([nn.ModuleList([Plain(3, channels, 3, padding=1)])])
        width, factor, widths = channels, 1, [channels]
        for level, multiplier in enumerate(multipliers):
            for _ in range(2):
                block = [Residual(width, time, multiplier * channels)]
                width = multiplier * channels
                if factor in attention:
                    block.append(Attention(width, head))
                self.input_blocks.append(nn.ModuleList(block))
                widths.append(width)
            if level < len(multipliers) - 1:
                self.input_blocks.append(nn.ModuleList([Residual(width, time, width, "down")]))
                widths.append(width)
                factor *= 2
        self.middle_block = nn.ModuleList(
            [Residual(width, time, width), Attention(width, head), Residual(width, time, width)]
        )
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for number in range(3):
                block = [Residual(width + widths.pop(), time, multiplier * channels)]
                width = multiplier * channels
                if factor in attention:
                    block.append(Attention(width, head))
                if level and number == 2:
                    block.append(Residual(width, time, width, "up"))
                    factor //= 2
                self.output_blocks.append(nn.ModuleList(block))
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, 6, 3, padding=1))

    def forward(self, x: torch.Tensor, step: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        half = self.channels // 2
        angles = step * torch.exp(-math.log(10000) * torch.arange(half) / half)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()])[None])
        kept, outputs = [], []
        for block in self.input_blocks:
            for layer in block:
                x = layer(x, time)
            kept.append(x)
        for layer in self.middle_block:
            x = layer(x, time)
        for block in self.output_blocks:
            x = torch.cat([x, kept.pop()], dim=1)
            for layer in block:
                x = layer(x, time)
            outputs.append(x)
        return outputs, self.out(x)


def random_original(channels: int = 32, head: int = 16, seed: int = 0) -> OriginalADM:
    """A network of random weights, none of them zero, in evaluation mode."""
    torch.manual_seed(seed)
    network = OriginalADM(channels, head)
    with torch.no_grad():
        for tensor in network.parameters():
            fan = tensor[0].numel() if tensor.dim() > 1 else 4
            tensor.normal_(1.0 if tensor.dim() == 1 and fan == 4 else 0.0, 1 / math.sqrt(fan))
    return network.eval()
