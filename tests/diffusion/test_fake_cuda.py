"""What would happen on a GPU, on one that is only claimed (see `benchmarks/_fakecuda.py`): every tensor of a step is on it, none is
read back but where the code says so, few are sent; half precision reaches the layers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from cgddi.diffusion.backbone import Backbone

from benchmarks import _fakecuda, _fakemodels
from tests.diffusion import tiny

TYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
LORA = {"image_size": 32, "rank": 4, "instances": 4, "priors_per_step": 4}
TOKEN = {"image_size": 32, "batch": 4, "accumulation": 2, "init_token": "lesion"}


@pytest.fixture(scope="session")
def true_size(tmp_path_factory):
    """Stable Diffusion 2.1 without its weights."""
    return _fakemodels.sd21(tmp_path_factory.mktemp("fake") / "sd21")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Small models of the true classes by name."""
    folder = tmp_path_factory.mktemp("fake")
    return {"sd": tiny.make_model(folder / "sd"), "xl": tiny.make_model(folder / "xl", xl=True)}


def watched(device, work):
    """What runs in a call, and what it gives."""
    with device.watched() as seen:
        given = work()
    return seen, given


def assert_quiet(seen, sent: int) -> None:
    """Nothing is read back, at most so many tensors are sent, all of them from pinned memory."""
    assert not seen.read_back
    assert len(seen.pinned) <= sent and not seen.to_device


def test_a_lora_step_of_true_size(true_size):
    with _fakecuda.pretend() as device:
        trainer = _fakemodels.lora_trainer(_fakemodels.backbone(true_size))
        trainer.train_step(0)
        seen, (losses, norm) = watched(device, lambda: trainer.train_step(1))
    assert losses.shape == (32,) and losses.device.type == norm.device.type == "cuda"
    assert_quiet(seen, 3)  # numbers, noise, the posterior's noise
    assert set(seen.types) == {"bfloat16"}
    # No layer casts for itself: what is cast are a prompt, a timestep, latents, a prediction and the like.
    assert seen.by_op["_to_copy"] < 20 and seen.operators <= 2400 and seen.peak <= 6.8 * 2**30


def test_a_token_step_of_true_size(true_size):
    with _fakecuda.pretend() as device:
        settings = {"image_size": 512, "batch": 16, "accumulation": 1, "init_token": "lesion"}
        trainer = _fakemodels.token_trainer(_fakemodels.backbone(true_size), **settings)
        trainer.train_step(0)
        seen, _ = watched(device, lambda: trainer.train_step(1))
    assert_quiet(seen, 3)
    assert set(seen.types) == {"bfloat16", "float32"}  # the text encoder, through which the token learns, is float32
    assert seen.by_op["_scaled_dot_product_efficient_attention"] == 23  # which is run once
    assert seen.operators <= 2000


def test_sampling_of_true_size(true_size):
    with _fakecuda.pretend() as device, torch.inference_mode():
        _, call, decode = _fakemodels.sampling(_fakemodels.backbone(true_size), 16, 512)
        seen, predicted = watched(device, call)
        assert predicted.shape == (16, 4, 64, 64) and seen.operators <= 850
        assert_quiet(seen, 0)
        seen, images = watched(device, decode)
        assert images.shape == (16, 512, 512, 3) and images.dtype == torch.uint8 and images.device.type == "cuda"
        assert_quiet(seen, 0)
        assert seen.peak <= 3 * 2**30


@pytest.mark.parametrize("name, precision", [("sd", "fp32"), ("sd", "fp16"), ("xl", "bf16")])
def test_a_lora_step_in_each_precision(small, name, precision):
    with _fakecuda.pretend() as device:
        trainer = _fakemodels.lora_trainer(_fakemodels.backbone(small[name], precision), **LORA, precision=precision)
        seen, _ = watched(device, lambda: trainer.train_step(0))
        assert all(
            parameter.grad is None and parameter.dtype == torch.float32 for parameter in trainer.parameters.values()
        )
    assert_quiet(seen, 3)
    assert set(seen.types) == {TYPES[precision]}


@pytest.mark.parametrize("name, precision", [("sd", "fp32"), ("sd", "fp16"), ("xl", "bf16")])
def test_a_token_step_in_each_precision(small, name, precision):
    with _fakecuda.pretend() as device:
        trainer = _fakemodels.token_trainer(_fakemodels.backbone(small[name], precision), **TOKEN, precision=precision)
        seen, _ = watched(device, lambda: trainer.train_step(0))
    assert_quiet(seen, 3)  # whatever the parts
    assert set(seen.types) == {"float32", TYPES[precision]}


@pytest.mark.parametrize("name", ["sd", "xl"])
def test_a_draw_gives_the_device_its_work_and_waits_for_nothing(small, name):
    with _fakecuda.pretend() as device:
        draw, *_ = _fakemodels.sampling(_fakemodels.backbone(small[name]), 2, 32, steps=4)
        seen, images = watched(device, draw)
    assert images.shape == (2, 32, 32, 3) and images.device.type == "cuda"
    assert_quiet(seen, 4)  # latents, timesteps, prompts, pooled prompts


@pytest.mark.parametrize(
    ("images", "cells", "parts"), [(6, 64, [4, 2]), (9, 8, [4, 4, 1]), (3, 96, [1, 1, 1]), (3, 128, [1, 1, 1])]
)
def test_few_large_images_are_decoded_at_a_time(images, cells, parts):
    seen = []

    def decode(latents, return_dict):
        seen.append(len(latents))
        return (torch.zeros(len(latents), 3, 2, 2),)

    config = SimpleNamespace(scaling_factor=1, shift_factor=None)
    model = SimpleNamespace(vae=SimpleNamespace(config=config, dtype=torch.float32, decode=decode))
    pixels = Backbone.decode(model, torch.zeros(images, 4, cells, cells))
    assert seen == parts and pixels.shape == (images, 2, 2, 3) and pixels.dtype == torch.uint8
    assert (pixels == 128).all()  # 0 of -1 to 1


def test_it_notices_a_tensor_that_was_left_on_the_cpu(small):
    with _fakecuda.pretend():
        trainer = _fakemodels.lora_trainer(_fakemodels.backbone(small["sd"]), **LORA)
        batch = trainer.data.at(0)
        trainer.forward_backward(batch)
        batch["noise"] = torch.zeros(batch["noise"].shape)
        with pytest.raises(RuntimeError, match="device"):
            trainer.forward_backward(batch)


def test_it_notices_what_is_read_back_and_what_is_sent():
    with _fakecuda.pretend() as device:
        tensor = torch.ones(4, device="cuda")
        work = [
            lambda: float(tensor.sum()),
            lambda: tensor.cpu(),
            lambda: tensor.tolist(),
            lambda: bool((tensor > 0).any()),
            lambda: torch.tensor([1.0, 2.0], device="cuda"),
            lambda: tensor[torch.tensor([1, 2])],
            lambda: torch.zeros(3).pin_memory().to("cuda"),
            lambda: tensor * 2 + torch.tensor(3.0),
        ]
        found = [watched(device, each)[0] for each in work]
        with pytest.raises(RuntimeError, match="device"):
            tensor + torch.ones(4)
    counts = [(len(seen.read_back), len(seen.to_device), len(seen.pinned)) for seen in found]
    assert counts == [(1, 0, 0)] * 4 + [(0, 1, 0)] * 2 + [(0, 0, 1), (0, 0, 0)]
    assert "test_fake_cuda.py" in found[0].read_back[0]


def test_counts_are_those_of_a_hand(small):
    """A linear layer forward and backward: two products and a sum over rows; 4 x 8 x 3 multiplications each."""
    with _fakecuda.pretend() as device:
        layer = _fakecuda.fake_parameters(torch.nn.Linear(8, 3))
        x = torch.ones(4, 8, device="cuda")

        def work() -> None:
            layer(x).sum().backward()

        with device.watched() as seen:
            work()
    assert seen.flop == 2 * 2 * 4 * 8 * 3  # x needs no gradient
    assert seen.by_op["addmm"] == seen.by_op["mm"] == 1
    assert layer.weight.grad.shape == (3, 8) and layer.bias.grad.shape == (3,)
