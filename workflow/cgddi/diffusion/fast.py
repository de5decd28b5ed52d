"""Put a frozen model's fast layers in place."""

from __future__ import annotations

from diffusers.models.activations import GEGLU
from diffusers.models.unets.unet_2d_blocks import UpBlock2D
from torch import nn

from cgddi.diffusion.attention import FrozenAttention, FrozenGEGLU
from cgddi.diffusion.frozen import FrozenLinear, FrozenPointwise, available
from cgddi.diffusion.resnet import FrozenResnet, FrozenUpBlock


def make_fast(model: nn.Module) -> None:
    """Give a frozen model on a CPU its fast layers, in place; names, values and the types' parents stay."""
    if not available() or next(model.parameters()).device.type != "cpu":
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
        elif FrozenResnet.fits(module):
            module.__class__ = FrozenResnet
        elif type(module) is UpBlock2D:
            module.__class__ = FrozenUpBlock
        elif type(module) is GEGLU:
            module.__class__ = FrozenGEGLU
        elif FrozenAttention.fits(module):
            module.__class__ = FrozenAttention
            module.prepare()
