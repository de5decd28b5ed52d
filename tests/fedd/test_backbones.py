"""Any diffusers UNet as a backbone: which module is which block, the noise, the sizes; what cannot be used is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from cgddi.core.errors import UserError
from cgddi.fedd.features import backbones

from tests.diffusion.tiny import make_model

CPU = torch.device("cpu")


def run(backbone, size, timestep=100, blocks=None, precision="fp32", seed=0):
    """Every block's features of one random photo, and the noise used."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 3, size, size), dtype=np.uint8)
    noise = torch.randn(1, *backbone.input_shape(size), generator=torch.Generator().manual_seed(seed))
    blocks = range(len(backbone.decoder_blocks)) if blocks is None else blocks
    found = {}
    backbone.run(pixels, noise, timestep, blocks, lambda block, value: found.update({block: value.float()}), precision)
    return found, pixels, noise


def test_stable_diffusion_blocks_equal_a_plain_diffusers_forward(sd_folder):
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    backbone = backbones.load({"source": str(sd_folder)}, CPU)
    found, pixels, noise = run(backbone, 32, timestep=300)

    unet = UNet2DConditionModel.from_pretrained(sd_folder, subfolder="unet").eval()
    vae = AutoencoderKL.from_pretrained(sd_folder, subfolder="vae").eval()
    scheduler = DDPMScheduler.from_pretrained(sd_folder, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(sd_folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(sd_folder / "text_encoder").eval()
    wanted = {}
    first, second = unet.up_blocks  # the first level has no attention here, the second has
    layers = [first.resnets[0], first.upsamplers[0], second.attentions[0], second.attentions[1]]
    for block, layer in enumerate(layers):
        layer.register_forward_hook(
            lambda _, __, out, block=block: wanted.update({block: out[0] if isinstance(out, tuple) else out})
        )
    with torch.no_grad():
        values = torch.from_numpy(pixels).float() / 127.5 - 1
        latents = vae.encode(values).latent_dist.mode() * vae.config.scaling_factor
        ids = tokenizer([""], padding="max_length", return_tensors="pt").input_ids
        unet(scheduler.add_noise(latents, noise, torch.tensor([300])), 300, encoder(ids)[0])
    assert list(found) == [0, 1, 2, 3]
    for block, value in wanted.items():
        assert found[block].shape == value.shape
        assert torch.allclose(found[block], value, atol=1e-4 * float(value.abs().max())), block
    assert found[0].shape[-1] * 2 == found[1].shape[-1]  # a level's last block is upsampled already


def test_stable_diffusion_xl_as_backbone(tmp_path):
    backbone = backbones.load({"source": str(make_model(tmp_path, xl=True))}, CPU)
    found = run(backbone, 32)[0]
    assert list(found) == [0, 1, 2, 3] and all(value.isfinite().all() for value in found.values())


def test_the_last_timestep_is_the_published_1000(adm_folder):
    backbone = backbones.load({"source": str(adm_folder)}, CPU)
    assert [backbone.clip(t) for t in (0, 999, 1000)] == [0, 999, 999]
    at_1000, at_999, at_950 = (run(backbone, 64, t, [0])[0][0] for t in (1000, 999, 950))
    assert torch.equal(at_1000, at_999) and not torch.equal(at_1000, at_950)


def test_layers_after_the_last_block_are_not_run(adm_folder):
    backbone = backbones.load({"source": str(adm_folder)}, CPU)
    everything = run(backbone, 64)[0]
    calls = []
    for name in ("up_blocks.5", "conv_out"):
        backbone.unet.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    part = run(backbone, 64, blocks=(8, 6))[0]
    assert list(part) == [6, 8] and not calls
    assert torch.equal(part[6], everything[6]) and torch.equal(part[8], everything[8])
    backbone.unet(torch.zeros(1, 3, 64, 64), 1)
    assert calls == ["up_blocks.5", "conv_out"]  # no hook of a run stays behind


def test_half_precision_is_close(adm_folder):
    backbone = backbones.load({"source": str(adm_folder)}, CPU)
    full, half = run(backbone, 64, blocks=(0, 6))[0], run(backbone, 64, blocks=(0, 6), precision="fp16")[0]
    for block, value in full.items():
        difference = (half[block] - value).norm() / value.norm()
        assert 0 < difference < 0.02


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["adm_folder", "sd_folder"])
def test_weights_cast_once_give_what_casting_them_in_every_pass_gives(request, kind, precision):
    once, always = (backbones.load({"source": str(request.getfixturevalue(kind))}, CPU) for _ in range(2))
    assert once.in_precision(precision) is once and next(once.unet.parameters()).dtype != torch.float32
    found, wanted = (run(backbone, 64, precision=precision)[0] for backbone in (once, always))
    assert found.keys() == wanted.keys() and all(torch.equal(found[block], wanted[block]) for block in found)


def test_blocks_that_do_not_exist_are_named_with_the_count(adm_folder, sd_folder):
    for folder, count, blocks in ((adm_folder, 18, (6, 18)), (sd_folder, 4, (0, 6, -1))):
        backbone = backbones.load({"source": str(folder)}, CPU)
        with pytest.raises(UserError, match=f"has {count}, numbered 0 to {count - 1}"):
            run(backbone, 64, blocks=blocks)


def test_sizes_the_model_cannot_halve_are_refused(adm_folder, sd_folder):
    for folder, size, step in ((adm_folder, 80, 32), (sd_folder, 34, 4)):
        with pytest.raises(UserError, match=f"{size} is not a multiple of {step}"):
            backbones.load({"source": str(folder)}, CPU).input_shape(size)


@pytest.fixture
def copy(adm_folder, tmp_path):
    return shutil.copytree(adm_folder, tmp_path / "copy")


def refused(folder, message):
    with pytest.raises(UserError, match=message):
        backbones.load({"source": str(folder)}, CPU)


def test_folder_without_unet(copy):
    shutil.rmtree(copy / "unet")
    refused(copy, "no unet in this folder")


def test_folder_without_scheduler(copy):
    shutil.rmtree(copy / "scheduler")
    refused(copy, "noise schedule is unknown")


def test_folder_of_pickled_weights(copy):
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    refused(copy, r"Weights must be .safetensors")


def test_weights_cut_short(copy):
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refused(copy, "cannot be loaded")


def test_other_kinds_of_model(copy):
    index = json.loads((copy / "model_index.json").read_text())
    for kind, name in (("UNetSpatioTemporalConditionModel", "StableVideoDiffusionPipeline"), ("UNet1DModel", "Any")):
        (copy / "model_index.json").write_text(json.dumps(index | {"unet": ["diffusers", kind], "_class_name": name}))
        refused(copy, f"a {kind} in a {name} gives no features")
    refused(copy / "unet", "no model_index.json")
    refused(copy / "nowhere", "no such folder")
