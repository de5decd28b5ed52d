"""Turn OpenAI's checkpoint of the 256 px unconditional ADM (256x256_diffusion_uncond.pt) into a diffusers folder.

Only tensors are read from the file; no code in it runs. Name the folder in `models.fedd.source`. --channels, --head-channels and
--size are for a model of the same layout but another width.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run `cgddi fedd convert`."""
    parser = argparse.ArgumentParser(
        prog="cgddi fedd convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="the original file (.pt, or .safetensors with its names)")
    parser.add_argument("--output-dir", "--output", dest="output", required=True, help="the folder to write")
    parser.add_argument("--channels", type=int, default=256, help="width of the first level (default: 256)")
    parser.add_argument("--head-channels", type=int, default=64, help="channels of an attention head (default: 64)")
    parser.add_argument("--size", type=int, default=256, help="side of the training images in px (default: 256)")
    options = parser.parse_args(argv)
    from cgddi.fedd import adm
    from cgddi.fedd.convert import convert

    convert(options.checkpoint, options.output, adm.unet_config(options.channels, options.head_channels, options.size))
    return 0
