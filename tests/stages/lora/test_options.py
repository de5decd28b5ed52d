"""The options that are off by default work, and plain diffusers reads what they write."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cgddi.diffusion.adapters import apply, read_adapter
from cgddi.diffusion.backbone import load
from cgddi.diffusion.batches import columns_of, split_batch
from cgddi.diffusion.sampler import Sampler, SampleSettings
from cgddi.diffusion.schedule import NoiseRule, solver
from cgddi.diffusion.tokens import read_embedding
from cgddi.stages.lora.train import train_lora
from diffusers import AutoPipelineForText2Image

from tests.diffusion import tiny

PROMPT = "An image of <nevus> on a dark-toned individual"


def picture(world, file) -> np.ndarray:
    backbone = load({"source": str(world.model)}, torch.device("cpu"))
    backbone.add_token(*read_embedding(world.embedding))
    applied = apply(backbone, read_adapter(file))
    sampler = Sampler(backbone, SampleSettings("ddim", 4, None, 4.0), tiny.SIZE, 1, backbone.empty_negative(""))
    image = sampler.draw(backbone.encode_prompts([PROMPT]), [3], None, None)[0].numpy()
    applied.remove()
    assert not [name for name, _ in backbone.denoiser.named_parameters() if "lora" in name]
    return image


def their_picture(world, folder) -> np.ndarray:
    pipe = AutoPipelineForText2Image.from_pretrained(world.model, safety_checker=None)
    pipe.load_textual_inversion(str(world.embedding))
    pipe.load_lora_weights(str(folder))
    pipe.scheduler = solver("ddim", dict(pipe.scheduler.config))
    pipe.set_progress_bar_config(disable=True)
    options = {"height": 32, "width": 32, "guidance_scale": 4.0, "num_inference_steps": 4, "output_type": "np"}
    return pipe(PROMPT, generator=torch.Generator().manual_seed(3), **options).images[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True, "alpha": 4},
        {"alpha": 8, "target_modules": ["to_q", "to_v", "conv1", "conv2"]},
        {"use_dora": True},
        {"text_encoder_rank": 2, "text_encoder_alpha": 5},
    ],
    ids=["rslora", "alpha-and-convolutions", "dora", "text-encoder"],
)
def test_kinds_of_adapter_equal_plain_diffusers(world, tmp_path, settings):
    job = world.job(output=str(tmp_path / "out"), **settings)
    train_lora([job])
    mine = picture(world, tmp_path / "out/pytorch_lora_weights.safetensors").astype(int)
    theirs = (their_picture(world, tmp_path / "out") * 255).round().astype(int)
    assert np.abs(mine - theirs).max() <= 1
    assert np.abs(mine - picture(world, world.lora).astype(int)).max() > 1, "the option changed nothing"


def test_loss_options_ema_and_previews(world, tmp_path):
    extra = {
        "min_snr": 5,
        "noise_offset": 0.05,
        "ema": 0.5,
        "lesion_weight": 3,
        "ignore_mask_classes": ["ruler"],
        "crops": 1,
    }
    job = world.job(output=str(tmp_path / "out"), **extra, grid_every=3, validate_every=3, accumulation=3)
    record = train_lora([job], curves=tmp_path / "logs/run")[0]
    assert {"loss_light", "loss_medium", "loss_dark"} <= set(record["last"])
    logs = tmp_path / "logs"
    assert sorted(p.name for p in logs.glob("*.png")) == ["run.nevus-000003.png", "run.nevus-000006.png"]
    assert list((logs / "run.tensorboard").glob("events*"))
    assert (logs / "run.training.jsonl").read_text().count("loss_dark") == 2


def test_accumulation_changes_nothing_but_memory(world, tmp_path):
    train_lora([world.job(output=str(tmp_path / "out"), accumulation=3)])
    one, three = read_adapter(world.lora), read_adapter(tmp_path / "out/pytorch_lora_weights.safetensors")
    assert all(torch.allclose(one.up[n], three.up[n], atol=2e-4, rtol=1e-2) for n in one.up)


@pytest.mark.parametrize("counts", [(8, 2), (4, 4)])
def test_accumulation_keeps_the_gradient_whatever_the_prior_weight(world, tmp_path, counts):
    options = {
        "instances": counts[0],
        "priors_per_step": counts[1],
        "prior_weight": 0.5,
        "steps": 1,
        "clip": 0,
        "hflip": 0,
    }
    lines = {}
    for parts in (1, 2):
        out = tmp_path / str(parts)
        train_lora([world.job(output=str(out), **options, accumulation=parts)])
        lines[parts] = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert lines[2] == pytest.approx(lines[1], rel=1e-4)


def test_parts_keep_the_make_up_and_the_place_of_every_sample():
    columns = columns_of([8, 2], 2)
    assert columns.tolist() == [[0, 1, 2, 3, 8], [4, 5, 6, 7, 9]]
    batch = {"x": torch.arange(20.0)}  # two groups of ten
    parts = split_batch(batch, 2, columns)
    assert parts[1]["x"].tolist() == [4, 5, 6, 7, 9, 14, 15, 16, 17, 19]
    joined = torch.cat([part["x"].reshape(2, -1) for part in parts], 1)[:, columns.flatten().argsort()]
    assert torch.equal(joined.flatten(), batch["x"])


def test_several_vectors_learn(world, tmp_path):
    spec = tiny.spec_for("embedding", world.model, world.images, **{**tiny.TI, "vectors": 3, "min_snr": 5, "ema": 0.9})
    tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path)
    token, (rows,) = read_embedding(tmp_path / "learned_embeds.safetensors")
    assert token == "<nevus>" and rows.shape == (3, tiny.HIDDEN) and float((rows[0] - rows[1]).abs().max()) > 1e-4


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_rule_equals_diffusers(prediction):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        prediction_type=prediction, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    rule = NoiseRule(scheduler.config)
    x, noise, steps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    assert torch.allclose(rule.add_noise(x, noise, steps), scheduler.add_noise(x, noise, steps), atol=1e-6)
    wanted = {"epsilon": noise, "sample": x, "v_prediction": scheduler.get_velocity(x, noise, steps)}[prediction]
    assert torch.allclose(rule.target(x, noise, steps), wanted, atol=1e-6)


def test_zero_terminal_snr_ends_in_pure_noise():
    from diffusers import DDIMScheduler

    rule = NoiseRule(DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction").config)
    x, noise, last = torch.ones(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.tensor([999])
    assert torch.allclose(rule.add_noise(x, noise, last), noise, atol=1e-6)
    assert torch.allclose(rule.target(x, noise, last), -x, atol=1e-6)
    assert torch.isfinite(rule.min_snr_weight(last, 5)).all()
