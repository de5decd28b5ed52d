"""Our files in plain diffusers give our pictures; files of other dialects load here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cgddi.core.errors import UserError
from cgddi.diffusion.adapters import FusedAdapter, LoadedAdapter, apply, read_adapter
from cgddi.diffusion.backbone import load
from cgddi.diffusion.cache import Store
from cgddi.diffusion.data import latents_of, read_photos
from cgddi.diffusion.sample import Sampler, SampleSettings
from cgddi.diffusion.schedule import solver
from cgddi.diffusion.tokens import read_embedding
from cgddi.diffusion.weights import read_tensors
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.diffusion import tiny

PROMPT = "An image of <nevus> on a dark-toned individual"


def plain(world, kind, sampler="dpmsolver++"):
    """diffusers' own pipeline with our token and adapter, loaded its own way."""
    pipe = kind.from_pretrained(world.model, safety_checker=None)
    if hasattr(pipe, "text_encoder_2"):
        rows = load_file(world.embedding)
        pipe.load_textual_inversion(
            rows["clip_l"], token="<nevus>", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
        )
        pipe.load_textual_inversion(
            rows["clip_g"], token="<nevus>", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
        )
    else:
        pipe.load_textual_inversion(str(world.embedding))
    pipe.load_lora_weights(str(world.lora.parent))
    pipe.scheduler = solver(sampler, dict(pipe.scheduler.config))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(world, settings, canvas, seed, how=None):
    backbone = load({"source": str(world.model)}, torch.device("cpu"))
    token, rows = read_embedding(world.embedding, "<nevus>")
    backbone.add_token(token, rows)
    adapter = read_adapter(world.lora)
    applied = how(backbone, adapter) if how else apply(backbone, adapter)
    sampler = Sampler(backbone, settings, tiny.SIZE, 2, backbone.empty_negative(""))
    mean = std = None
    if canvas is not None:
        mean, std = (part[:, 0] for part in latents_of(backbone, Store(None), [canvas], tiny.SIZE, False))
    image = sampler.draw(backbone.encode_prompts([PROMPT]), [seed], mean, std)[0].numpy()
    applied.remove()
    return image


@pytest.mark.parametrize("which", ["world", "world_xl"])
@pytest.mark.parametrize("sampler", ["dpmsolver++", "ddim"])
def test_img2img_equals_plain_diffusers(which, sampler, request):
    world = request.getfixturevalue(which)
    canvas = read_photos([world.root / "canvases.tar"])[1]
    pipe = plain(world, AutoPipelineForImage2Image, sampler)
    steps = {"strength": 0.725, "num_inference_steps": 8}
    if sampler == "dpmsolver++":
        steps = {"strength": 1.0, "timesteps": [724, 603, 482, 361, 241, 120]}
    theirs = pipe(
        PROMPT,
        image=Image.fromarray(canvas.pixels),
        guidance_scale=6.0,
        **steps,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images[0]
    mine = ours(world, SampleSettings(sampler, 8, 0.725, 6.0), canvas, 5)
    assert np.abs(mine.astype(int) - (theirs * 255).round().astype(int)).max() <= 1


@pytest.mark.parametrize(("which", "rescale"), [("world", 0.0), ("world_xl", 0.0), ("world", 0.7)])
def test_text_to_image_equals_plain_diffusers(which, rescale, request):
    world = request.getfixturevalue(which)
    pipe = plain(world, AutoPipelineForText2Image)
    theirs = pipe(
        PROMPT,
        height=tiny.SIZE,
        width=tiny.SIZE,
        guidance_scale=4.0,
        num_inference_steps=6,
        output_type="np",
        guidance_rescale=rescale,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    mine = ours(world, SampleSettings("dpmsolver++", 6, None, 4.0, rescale), None, 3)
    assert np.abs(mine.astype(int) - (theirs * 255).round().astype(int)).max() <= 1


def test_the_adapter_and_the_token_change_the_picture(world):
    """Guards the comparisons above against passing because neither was applied."""
    pipe = plain(world, AutoPipelineForText2Image)
    options = {"height": 32, "width": 32, "guidance_scale": 4.0, "num_inference_steps": 6, "output_type": "np"}
    with_both = pipe(PROMPT, **options, generator=torch.Generator().manual_seed(3)).images[0]
    pipe.unload_lora_weights()
    without = pipe(PROMPT, **options, generator=torch.Generator().manual_seed(3)).images[0]
    assert np.abs(with_both - without).max() > 2 / 255


def test_fused_and_beside_agree(world):
    settings = SampleSettings("dpmsolver++", 6, None, 4.0)
    fused, beside = (ours(world, settings, None, 3, how).astype(int) for how in (None, LoadedAdapter))
    assert np.abs(fused - beside).max() <= 1


def test_an_adapter_is_taken_off_bit_for_bit(world):
    backbone = load({"source": str(world.model)}, torch.device("cpu"))
    before = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}
    adapter = read_adapter(world.lora)
    for how in (lambda: FusedAdapter(backbone, adapter), lambda: LoadedAdapter(backbone, adapter)):
        how().remove()
        after = backbone.denoiser.state_dict()
        assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_in_half_precision_the_sum_with_the_files_own_weights_is_rounded_once(world):
    backbone = load({"source": str(world.model)}, torch.device("cpu"), "bf16")
    adapter = read_adapter(world.lora)
    stored = load_file(world.model / "unet/diffusion_pytorch_model.safetensors")
    layers, rounded = dict(backbone.denoiser.named_modules()), []
    before = {name: layers[name].weight.clone() for name in adapter.down}
    apply(backbone, adapter)
    for name, down in adapter.down.items():
        exact = stored[f"{name}.weight"].double() + (adapter.up[name].double() @ down.double())
        error = (layers[name].weight.double() - exact).abs() / exact.abs().clamp_min(1e-30)
        assert error.max() <= 2**-8, "half a step of bfloat16, which has 8 bits"
        rounded.append((before[name].double() + adapter.up[name].double() @ down.double()).bfloat16())
    found = [layers[name].weight for name in adapter.down]
    assert any((a != b).any() for a, b in zip(found, rounded, strict=True)), "rounded weights were added to"


def test_metadata_explains_the_files(world):
    _, facts = read_tensors(world.lora)
    assert json.loads(facts["cgddi.concept"])["token"] == "<nevus>"
    assert json.loads(facts["cgddi.model"])["source"] == str(world.model)
    assert len(json.loads(facts["cgddi.base_sha256"])) == 64
    assert [name for name, _ in json.loads(facts["cgddi.images"])] == world.images
    assert any("with a ruler" in prompt for prompt in json.loads(facts["cgddi.prompts"]))


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: "unet." + name,
        lambda name: name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"),
        lambda name: ("unet." + name).replace("lora_A", "lora.down").replace("lora_B", "lora.up"),
        lambda name: (
            name.replace("to_out.0.", "to_out.")
            .replace(".lora_A", "_lora.down")
            .replace(".lora_B", "_lora.up")
            .replace(".to_", ".processor.to_")
        ),
    ],
    ids=["doubled", "down-up", "doubled-down-up", "processor"],
)
def test_published_dialects_load(world, tmp_path, rename):
    tensors = load_file(world.lora)
    save_file({rename(name): value for name, value in tensors.items()}, tmp_path / "x.safetensors")
    mine, other = read_adapter(world.lora), read_adapter(tmp_path / "x.safetensors")
    assert mine.down.keys() == other.down.keys()
    assert all(torch.equal(mine.up[name], other.up[name]) for name in mine.up)


def test_alpha_is_honoured(world, tmp_path):
    tensors = load_file(world.lora)
    layer = next(iter(read_adapter(world.lora).down))
    tensors[f"unet.{layer}.alpha"] = torch.tensor(2.0)  # rank is 4
    save_file(tensors, tmp_path / "x.safetensors")
    assert torch.allclose(read_adapter(tmp_path / "x.safetensors").up[layer], read_adapter(world.lora).up[layer] / 2)


def test_pickle_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match="pickle can run code.*Convert"):
        read_adapter(tmp_path / "pytorch_lora_weights.bin")


def test_an_adapter_for_another_model_is_refused(world, tmp_path):
    adapter = read_adapter(world.lora)
    save_file(
        {
            "unet.mid_block.nothing.lora_A.weight": torch.ones(2, 2),
            "unet.mid_block.nothing.lora_B.weight": torch.ones(2, 2),
        },
        tmp_path / "x.safetensors",
    )
    backbone = load({"source": str(world.model)}, torch.device("cpu"))
    with pytest.raises(UserError, match="does not fit this base model: layer mid_block.nothing"):
        apply(backbone, read_adapter(tmp_path / "x.safetensors"))
    assert adapter.is_plain
