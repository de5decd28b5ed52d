"""Adapters by other programs (case I14): what the formula, or peft itself, makes of each file is the truth."""

from __future__ import annotations

import json

import pytest
import torch
from cgddi.core.errors import UserError
from cgddi.diffusion.adapters import apply, read_adapter
from cgddi.diffusion.backbone import load
from cgddi.diffusion.dialects import to_diffusers
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

CPU = torch.device("cpu")
TEXT = "An image of lesion on dark skin"


@pytest.fixture(scope="module")
def model(world):
    return world.model


def seen(model, path):
    """(prediction with the adapter, prompt embedding with it) by our reader."""
    backbone = load({"source": str(model)}, CPU)
    applied = apply(backbone, read_adapter(path))
    with torch.no_grad():
        prompts = backbone.encode_prompts([TEXT])
        found = backbone.denoise(*inputs(), prompts), prompts.embeds
    applied.remove()
    return found


def inputs():
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7)), torch.tensor([500])


def by_hand(model, path=None):
    """The same with W + alpha / r * up @ down written into the weights of diffusers' pipeline, layer by layer."""
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    tensors = load_file(path) if path else {}
    named = [("lora_unet", LAYERS, pipe.unet), ("lora_te", TEXT_LAYERS, pipe.text_encoder)]
    for prefix, layer, module in ((p, n, m) for p, layers, m in named for n in layers):
        name = f"{prefix}_{layer.replace('.', '_')}"
        if f"{name}.alpha" in tensors:
            down, up = (tensors[f"{name}.lora_{way}.weight"] for way in ("down", "up"))
            scale = tensors[f"{name}.alpha"] / len(down)
            weight = module.get_submodule(layer.removeprefix("text_model.")).weight
            weight.data += scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    with torch.no_grad():
        embeds, _ = pipe.encode_prompt(TEXT, "cpu", 1, False)
        return pipe.unet(*inputs(), embeds, return_dict=False)[0], embeds


LAYERS = {  # kohya trains these of SD 1 and 2: attention, its projections, the feed-forward, convolutions
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (16, 16),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (32, 16),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0": (16, 16),
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj": (16, 128),
    "down_blocks.0.attentions.0.proj_in": (16, 16, 1),
    "down_blocks.0.downsamplers.0.conv": (16, 16, 3),
    "down_blocks.0.resnets.0.conv1": (16, 16, 3),
    "down_blocks.0.resnets.0.time_emb_proj": (64, 16),
}
TEXT_LAYERS = {
    "text_model.encoder.layers.0.self_attn.q_proj": (32, 32),
    "text_model.encoder.layers.1.mlp.fc1": (32, 64),
}


def kohya(path, text: bool):
    """A file as sd-scripts and OneTrainer write it: flat names, uneven ranks, an alpha that is not the rank."""
    draw, tensors = torch.Generator().manual_seed(1), {}
    named = [("lora_unet", LAYERS), *([("lora_te", TEXT_LAYERS)] if text else [])]
    for number, (prefix, layer, size) in enumerate((p, n, s) for p, layers in named for n, s in layers.items()):
        inside, outside, *kernel = size
        rank, name = 2 + number % 3, f"{prefix}_{layer.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, inside, *(kernel * 2), generator=draw) / 4
        tensors[f"{name}.lora_up.weight"] = torch.randn(outside, rank, *([1, 1] if kernel else []), generator=draw) / 4
        tensors[f"{name}.alpha"] = torch.tensor(float(1 + number % 4))
    save_file(tensors, path, {"ss_base_model_version": "sd_v1", "ss_network_module": "networks.lora"})
    return path


@pytest.mark.parametrize("text", [False, True], ids=["denoiser", "text encoder too"])
def test_kohya_and_onetrainer_files_change_the_weights_as_their_formula_says(model, tmp_path, text):
    """diffusers 0.42 itself forgets the alphas of attention layers here, so its loader is no truth."""
    path = kohya(tmp_path / "kohya.safetensors", text)
    mine, theirs, plain = seen(model, path), by_hand(model, path), by_hand(model)
    assert (mine[0] - plain[0]).abs().max() > 0.05
    assert torch.allclose(mine[0], theirs[0], atol=2e-5) and torch.allclose(mine[1], theirs[1], atol=2e-5)
    assert ((mine[1] - plain[1]).abs().max() > 0.05) == text


def trained(model, **options):
    """A UNet with peft's adapter of chance values."""
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    config = LoraConfig(r=4, target_modules=["to_q", "to_v", "conv1"], **options)
    wrapped = get_peft_model(unet, config)
    draw = torch.Generator().manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw) / 4
    return wrapped


SCALES = {
    "alpha": {"lora_alpha": 10},
    "rslora": {"lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "lora_alpha": 3,
        "alpha_pattern": {"attn1.to_q": 9, "conv1": 1},
        "rank_pattern": {"attn1.to_q": 2},
    },
}


@pytest.mark.parametrize("scale", SCALES)
def test_what_peft_saves_does_what_it_does_in_peft(model, tmp_path, scale):
    wrapped = trained(model, **SCALES[scale])
    wrapped.save_pretrained(tmp_path)
    mine, embeds = seen(model, tmp_path / "adapter_model.safetensors")
    with torch.no_grad():
        theirs = wrapped(*inputs(), embeds, return_dict=False)[0]
    assert torch.allclose(mine, theirs, atol=2e-5)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="adapter_model.safetensors: written by peft.*adapter_config.json beside it"):
        read_adapter(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize("scale", SCALES)
def test_the_alpha_in_the_header_of_a_diffusers_file_counts(model, tmp_path, scale):
    wrapped = trained(model, **SCALES[scale])
    tensors = get_peft_model_state_dict(wrapped.base_model.model, adapter_name="default")
    tensors = {name.removeprefix("base_model.model."): value for name, value in tensors.items()}
    header = {"unet_lora_adapter_metadata": {k: v for k, v in wrapped.peft_config["default"].to_dict().items()}}
    header["unet_lora_adapter_metadata"]["target_modules"] = ["to_q", "to_v", "conv1"]
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=tensors, **header)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    assert "conv1.lora_A.weight" in " ".join(load_file(path))
    mine, embeds = seen(model, path)
    with torch.no_grad():
        theirs = wrapped(*inputs(), embeds, return_dict=False)[0]
    assert torch.allclose(mine, theirs, atol=2e-5)


def test_kohya_names_of_sdxl_find_their_blocks():
    """Stability's numbering, by hand: input block 4 is the first of the second down block."""
    pairs = {
        "input_blocks_4_1_transformer_blocks_0_attn1_to_q": "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
        "middle_block_1_transformer_blocks_3_attn2_to_v": "mid_block.attentions.0.transformer_blocks.3.attn2",
        "output_blocks_5_1_transformer_blocks_1_attn1_to_k": "up_blocks.1.attentions.2.transformer_blocks.1.attn1",
    }
    for flat, layer in pairs.items():
        tensors = {f"lora_unet_{flat}.lora_{way}.weight": torch.ones(2, 2) for way in ("down", "up")}
        assert all(name.startswith(f"unet.{layer}.") for name in to_diffusers("x.safetensors", tensors, {}))


def test_what_is_no_plain_lora_is_refused_by_name(tmp_path):
    path = kohya(tmp_path / "kohya.safetensors", False)
    tensors = load_file(path)
    save_file(tensors | {"bundle_emb.nevus.emb_params": torch.ones(1, 32)}, tmp_path / "bundle.safetensors")
    with pytest.raises(UserError, match=r"bundle.safetensors: is of kohya's or OneTrainer's kind.*bundle_emb.nevus"):
        read_adapter(tmp_path / "bundle.safetensors")
    first = next(name for name in tensors if name.endswith("lora_up.weight"))
    save_file({n: v for n, v in tensors.items() if n != first}, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match=r"half.safetensors: .*alpha is no alpha|half.safetensors: is of kohya's"):
        read_adapter(tmp_path / "half.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "header.safetensors", {"lora_adapter_metadata": json.dumps([1])})
    with pytest.raises(UserError, match="header .*cannot be read"):
        read_adapter(tmp_path / "header.safetensors")
