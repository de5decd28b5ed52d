"""The FEDD stages; `cgddi fedd STAGE --help` explains one.

features    activations of the frozen diffusion model for photos
segmenter   train the pixel networks on one subset, and test them
probe       train the malignancy probes of one subset at one timestep
baseline    train a U-Net or a classifier on the same subset
tables      IoU, AUC and F1 by tone, the tone gap, the ablation, and their pictures
convert     turn OpenAI's checkpoint of the 256 px ADM into a diffusers folder
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from cgddi.core.errors import UserError

STAGES = ("features", "segmenter", "probe", "baseline", "tables", "convert")
"""Each in `cgddi.fedd.<stage>_command`, with `main(argv)`."""


def main(argv: Sequence[str]) -> int:
    """Run `cgddi fedd STAGE`."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: cgddi fedd STAGE [options]\n\n{__doc__}")
        return 0
    if argv[0] not in STAGES:
        raise UserError(f"no stage {argv[0]!r}. Give one of {', '.join(STAGES)}.")
    return importlib.import_module(f"cgddi.fedd.{argv[0]}_command").main(list(argv[1:])) or 0
