"""Models shared by the features' tests: a narrow ADM and a small Stable Diffusion, random weights."""

import numpy as np
import pytest
import torch
from cgddi.fedd.features import adm
from cgddi.fedd.features.adm import to_diffusers
from PIL import Image

from tests.diffusion.tiny import make_model
from tests.fedd.original import random_original

SIZE = 64


@pytest.fixture(scope="session")
def adm_folder(tmp_path_factory):
    """The ADM's topology with 32 instead of 256 channels, as `cgddi fedd convert` writes it."""
    from diffusers import DDPMPipeline

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("fedd") / "adm"
    unet = to_diffusers(random_original().state_dict(), adm.unet_config(32, 16, SIZE))
    DDPMPipeline(unet, adm.scheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    """A Stable Diffusion in miniature: two levels of two blocks each."""
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("fedd") / "sd")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Five photo files, 80 x 72 px; gives rows (image_id, file)."""
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for number in range(5):
        draw = np.random.default_rng(number)
        pixels = draw.integers(0, 200, (72, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.png")
        rows.append({"image_id": f"p{number}", "file": str(folder / f"p{number}.png")})
    return rows
