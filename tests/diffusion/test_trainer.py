"""What a run shows and what shows it: logs, validation and previews change no number, whenever they happen; parts; precision."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from accelerate.state import AcceleratorState
from cgddi.core.errors import UserError
from cgddi.core.images import decode_png
from cgddi.diffusion import adapters
from cgddi.diffusion.adapters import read_adapter
from cgddi.diffusion.backbone import Prompts, activate_time_once, load, skip_divisions_by_one
from cgddi.diffusion.settings import TrainingSettings
from cgddi.diffusion.tokens import read_embedding
from cgddi.diffusion.train import new_accelerator
from cgddi.stages.embedding.settings import EmbeddingSettings
from cgddi.stages.lora import train
from cgddi.stages.lora.settings import LoraSettings
from cgddi.stages.lora.train import train_lora

from benchmarks import _fakemodels
from tests.diffusion import tiny
from tests.stages.lora.test_resume import Killed, stop_at

NAME = "pytorch_lora_weights.safetensors"


def test_looking_changes_no_number_and_throws_no_checkpoint_away(world, tmp_path, monkeypatch):
    """Killed with some intervals, gone on with others: the bytes of an undisturbed run without any (P9)."""
    looks = {"validate_every": 2, "grid_every": 3, "log_every": 1, "checkpoint_every": 4}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 5, "kill")
        train_lora(
            world.job(output=str(tmp_path / "out"), **looks), state=tmp_path / "state", logs=tmp_path / "logs/run"
        )
    used = {}
    job = world.job(output=str(tmp_path / "out"), **{**looks, "checkpoint_every": 1, "grid_every": 5})
    train_lora(job, state=tmp_path / "state", logs=tmp_path / "logs/run", used=used)
    assert used == {"steps": 2}, "the checkpoint was thrown away"
    found, wanted = read_adapter(tmp_path / "out" / NAME), read_adapter(world.lora)
    assert all(torch.equal(found.tensors[name], wanted.tensors[name]) for name in wanted.tensors)
    assert sorted(p.name for p in (tmp_path / "logs").glob("*.png")) == ["run.000003.png", "run.000005.png"]
    assert decode_png((tmp_path / "logs/run.000005.png").read_bytes()).std() > 0
    lines = [json.loads(line) for line in (tmp_path / "logs/run.training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "loss_dark" in line] == [2, 4, 6]
    assert (tmp_path / "out/metrics.jsonl").read_text().count("loss_light") == 3
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "logs/run.tensorboard")).Reload()
    assert {"lr", "loss", "grad_norm", "loss_dark"} <= set(board.Tags()["scalars"])
    shown = {event.step: event.value for event in board.Scalars("loss")}
    assert shown == {line["step"]: pytest.approx(line["loss"], rel=1e-5) for line in lines if "loss" in line}


@pytest.mark.parametrize("settings", [TrainingSettings, EmbeddingSettings, LoraSettings])
def test_what_is_only_looked_at_stands_in_no_spec(settings):
    from cgddi.core.settings import is_neutral

    found = {name for name in settings.model_fields if is_neutral(settings, name)}
    looks = (
        "cuda_graphs",
        "checkpoint_every",
        "log_every",
        "validate_every",
        "grid_every",
        "grid_steps",
        "grid_guidance",
        "grid_columns",
    )
    assert found == set(looks)


@pytest.mark.parametrize("counts", [(8, 2), (4, 4)])
def test_accumulation_keeps_loss_and_gradient_whatever_the_prior_weight(world, tmp_path, counts):
    options = {"instances": counts[0], "priors_per_step": counts[1], "prior_weight": 0.5, "steps": 1, "clip": 0}
    lines = {}
    for parts in (1, 2):
        train_lora(world.job(output=str(tmp_path / str(parts)), **options, accumulation=parts))
        lines[parts] = json.loads((tmp_path / str(parts) / "metrics.jsonl").read_text().splitlines()[0])
    assert lines[2] == pytest.approx(lines[1], rel=1e-4)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("name", ["world", "world_xl"])
def test_a_token_learns_from_parts_what_plain_autograd_gives_over_the_whole(request, name, parts):
    """Each caption by itself through the text encoders, one loss over all images: against prompts encoded once a step."""
    backbone = load({"source": str(request.getfixturevalue(name).model)}, "cpu")
    prompts = ("{token}", "An image of {token} on {tone} skin", "a {token}", "skin with {token} and a ruler")
    settings = {"image_size": tiny.SIZE, "batch": 6 // parts, "accumulation": parts, "precision": "fp32"}
    trainer = _fakemodels.token_trainer(backbone, **settings, prompts=prompts, init_token="lesion")
    batch, passes = trainer.data.at(0), []
    captions = [trainer.data.prompts[number] for number in batch["prompt"]]
    shares = [sorted(captions[start : start + 6 // parts]) for start in range(0, 6, 6 // parts)]
    assert len(set(captions)) > 2 and len(set(map(tuple, shares))) == parts, "every part has the same captions"
    rows = list(trainer.parameters.values())
    noisy = backbone.schedule.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
    texts = Prompts.cat([backbone.encode_ids(backbone.tokenize([text])) for text in captions])
    target = backbone.schedule.target(batch["latents"], batch["noise"], batch["timesteps"])
    each = (backbone.denoise(noisy, batch["timesteps"], texts) - target).square().mean(dim=(1, 2, 3))
    wanted = torch.autograd.grad(each.mean(), rows)
    for encoder in backbone.text_encoders:
        encoder.register_forward_hook(lambda *_: passes.append(1))
    losses = trainer.forward_backward(batch)
    assert len(passes) == len(backbone.text_encoders)
    torch.testing.assert_close(losses, each.detach(), rtol=1e-5, atol=0)
    for row, gradient in zip(rows, wanted, strict=True):
        assert float((row.grad - gradient).norm()) < 1e-4 * float(gradient.norm())
    trainer.forward_backward(batch)  # added, as gradients are
    assert float((rows[0].grad - 2 * wanted[0]).norm()) < 2e-4 * float(wanted[0].norm())


def test_nothing_is_kept_of_prompts_through_which_nothing_learns(world):
    text = Prompts(torch.zeros(3, 2, 4), torch.ones(3, 5))
    for leaf in (part.leaf() for part in text.split(2)):
        assert not any(value.requires_grad for value in leaf.tensors().values())
    trainer = _fakemodels.lora_trainer(
        load({"source": str(world.model)}, "cpu"), image_size=tiny.SIZE, precision="fp32", accumulation=2
    )
    seen = []
    trainer.network.register_forward_hook(lambda _, given, __: seen.append(given[2].embeds))
    trainer.train_step(0)
    assert [text.requires_grad for text in seen] == [False, False]


def test_parts_that_do_not_divide_a_stream_are_refused(world, tmp_path):
    spec = tiny.spec_for("embedding", world.model, world.images, **{**tiny.TI, "batch": 3, "accumulation": 1})
    from cgddi.diffusion.cache import Store
    from cgddi.diffusion.data import ImageStream, TrainingData, read_photos

    photos = read_photos([world.root / "masks.tar"])
    stream = ImageStream(1, photos, [["skin"]] * len(photos), 1, 3)
    with pytest.raises(UserError, match="2 parts .* do not divide the .3. images"):
        TrainingData(
            load({"source": str(world.model)}, "cpu"), Store(None), [stream], EmbeddingSettings(**spec["settings"]), 2
        )


def test_several_vectors_learn(world, tmp_path):
    spec = tiny.spec_for("embedding", world.model, world.images, **{**tiny.TI, "vectors": 3})
    tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path)
    token, (rows,) = read_embedding(tmp_path / "learned_embeds.safetensors")
    assert token == "<nevus>" and rows.shape == (3, tiny.HIDDEN) and float((rows[0] - rows[1]).abs().max()) > 1e-4


@pytest.fixture
def fresh_precision():
    """accelerate keeps a process to one precision; a job has one."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def test_half_precision_learns_the_same_in_float32(world, tmp_path, fresh_precision):
    train_lora(world.job(output=str(tmp_path), precision="bf16"))
    found, wanted = read_adapter(tmp_path / NAME), read_adapter(world.lora)
    assert all(value.dtype == torch.float32 for value in found.tensors.values())
    mine, theirs = (torch.cat([a.up[n].flatten() for n in sorted(wanted.up)]) for a in (found, wanted))
    assert 0 < float((mine - theirs).norm() / theirs.norm()) < 0.5


def test_the_scale_of_float16_is_found_again_after_a_kill(world, tmp_path, monkeypatch):
    """A gradient scaler as float16 has one, here around float32: it leaves a step out, changes no number, and is in the state."""
    scalers = []

    def scaled(*args):
        accelerator = new_accelerator(*args)
        scalers.append(torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-40, growth_interval=2))
        accelerator.scaler = scaler = scalers[-1]
        # As accelerate does where it knows of float16, which a CPU has not.
        accelerator.unscale_gradients = lambda: scaler.unscale_(accelerator._optimizers[-1].optimizer)
        return accelerator

    monkeypatch.setattr(train, "new_accelerator", scaled)
    heavy = {"prior_weight": 1e6}  # times that scale it is more than float32 holds
    train_lora(world.job(output=str(tmp_path / "whole"), **heavy))
    assert scalers[0].get_scale() == 2.0**89, "one step left out, then doubled after two and four"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 5, "kill")
        train_lora(world.job(output=str(tmp_path / "killed"), **heavy), state=tmp_path / "state")
    train_lora(world.job(output=str(tmp_path / "killed"), **heavy), state=tmp_path / "state")
    assert scalers[2].get_scale() == scalers[0].get_scale() and len(scalers) == 3
    for name in (NAME, "metrics.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_float16_is_a_gpus(world, tmp_path):
    with pytest.raises(UserError, match="precision fp16 needs a GPU"):
        load({"source": str(world.model)}, "cpu", "fp16")


def test_an_adapter_of_sd_2_1_has_the_published_size():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
        )
    targets = adapters.find_targets(unet, LoraSettings().target_modules)
    layers = dict(unet.named_modules())
    sizes = [8 * (layers[name].in_features + layers[name].out_features) for name in targets]
    assert 2 * len(targets) == 256 and sum(sizes) == 1_659_904


def test_peft_layers_come_off_without_a_trace(world):
    backbone = load({"source": str(world.model)}, "cpu")
    before = dict(backbone.denoiser.state_dict())
    adapters.add_lora(backbone.denoiser, ["to_q", "conv1"], 2, 2, "nevus", 1)
    assert any("lora_A" in name for name in backbone.denoiser.state_dict())
    adapters.remove_peft(backbone, "default")
    after = backbone.denoiser.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_the_denoiser_gives_what_diffusers_own_gives_to_the_bit(world):
    """Whatever is computed once instead of in every block, and left out where a factor is one."""
    from diffusers import UNet2DConditionModel

    stock = UNet2DConditionModel.from_pretrained(world.model, subfolder="unet").eval()
    unet = copy.deepcopy(stock)
    skip_divisions_by_one(unet)
    activate_time_once(unet)
    draw = torch.Generator().manual_seed(3)
    noisy, prompt = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 77, tiny.HIDDEN, generator=draw)
    times, calls = torch.tensor([3, 700]), []
    for module in unet.modules():
        if isinstance(module, torch.nn.SiLU):
            module.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert torch.equal(*(model(noisy, times, prompt).sample for model in (stock, unet)))
    blocks = sum(type(module).__name__ == "ResnetBlock2D" for module in unet.modules())
    assert len(calls) == 2 * blocks + 3  # the timestep's own two and the last norm's
