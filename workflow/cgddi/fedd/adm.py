"""OpenAI's ADM ("guided diffusion", Dhariwal and Nichol 2021) as a diffusers `UNet2DModel`, and how its tensors are called in both.

FEDD uses the unconditional 256 px ImageNet model: 256 channels times (1, 1, 2, 2, 4, 4), two residual blocks a level, attention at
32, 16 and 8 px with 64-channel heads, scale-shift normalisation, residual blocks that resample, learned variance (six output
channels), linear noise schedule of 1000 steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

CHANNELS, HEAD_CHANNELS, SIZE = 256, 64, 256
MULTIPLIERS = (1, 1, 2, 2, 4, 4)
LAYERS = 2
ATTENTION_LEVELS = (3, 4, 5)

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Layers of a residual block: the original's name -> diffusers'."""

ATTENTION = {"norm": ("group_norm",), "qkv": ("to_q", "to_k", "to_v"), "proj_out": ("to_out.0",)}
"""Layers of an attention block: the original's name -> diffusers'; one there is three here."""

OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
"""Layers outside the blocks."""


def unet_config(channels: int = CHANNELS, head_channels: int = HEAD_CHANNELS, size: int = SIZE) -> dict[str, Any]:
    """Arguments of the `UNet2DModel` that is the ADM.

    Args:
        channels: width of the first level (a multiple of 32); the published model has 256.
        head_channels: channels of an attention head.
        size: side of the images it was trained on, px.
    """
    down = ["AttnDownBlock2D" if n in ATTENTION_LEVELS else "ResnetDownsampleBlock2D" for n in range(len(MULTIPLIERS))]
    return {
        "sample_size": size,
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": tuple(channels * m for m in MULTIPLIERS),
        "layers_per_block": LAYERS,
        "down_block_types": tuple(down),
        "up_block_types": tuple(
            name.replace("AttnDown", "AttnUp").replace("Downsample", "Upsample") for name in reversed(down)
        ),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": head_channels,
        "attn_norm_num_groups": 32,
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }


def scheduler():
    """The model's noise schedule: linear, 1000 steps, learned variance range, noise prediction."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        variance_type="learned_range",
        prediction_type="epsilon",
        clip_sample=True,
    )


def empty_unet(config: dict[str, Any]):
    """The `UNet2DModel` of a config without memory for its tensors (meta device)."""
    from diffusers import UNet2DModel

    with torch.device("meta"):
        return UNet2DModel(**config)


def _blocks() -> Iterator[tuple[str, str, str]]:
    """Every block as (kind, the original's prefix, diffusers' prefix)."""
    levels, number = len(MULTIPLIERS), 1
    for level in range(levels):
        for layer in range(LAYERS):
            yield "resnet", f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{layer}"
            if level in ATTENTION_LEVELS:
                yield "attention", f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{layer}"
            number += 1
        if level < levels - 1:
            yield "resnet", f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0"
            number += 1
    yield "resnet", "middle_block.0", "mid_block.resnets.0"
    yield "attention", "middle_block.1", "mid_block.attentions.0"
    yield "resnet", "middle_block.2", "mid_block.resnets.1"
    number = 0
    for up in range(levels):
        attends = levels - 1 - up in ATTENTION_LEVELS
        for layer in range(LAYERS + 1):
            yield "resnet", f"output_blocks.{number}.0", f"up_blocks.{up}.resnets.{layer}"
            if attends:
                yield "attention", f"output_blocks.{number}.1", f"up_blocks.{up}.attentions.{layer}"
            if layer == LAYERS and up < levels - 1:
                yield "resnet", f"output_blocks.{number}.{1 + attends}", f"up_blocks.{up}.upsamplers.0"
            number += 1


def tensor_names(unet) -> dict[str, tuple[str, ...]]:
    """Every tensor of the original checkpoint -> its tensors in diffusers (three for queries, keys and values).

    Args:
        unet: the `UNet2DModel` (may be on the meta device); shortcuts exist where it has them.
    """
    there = unet.state_dict()
    layers = {old: (new,) for old, new in OUTSIDE.items()}
    for kind, old, new in _blocks():
        if kind == "resnet":
            layers |= {f"{old}.{a}": (f"{new}.{b}",) for a, b in RESNET.items() if f"{new}.{b}.weight" in there}
        else:
            layers |= {f"{old}.{a}": tuple(f"{new}.{b}" for b in parts) for a, parts in ATTENTION.items()}
    return {
        f"{old}.{end}": tuple(f"{n}.{end}" for n in new) for old, new in layers.items() for end in ("weight", "bias")
    }
