"""The base model's pretraining: its learning rate, and that stopping it or going on longer changes no byte."""

import copy
import math

import pytest
import torch
from cgddi.core.errors import UserError
from cgddi.job.checkpoint import Checkpoint, Terminated
from cgddi.toy.denoising import Examples, Pretraining, Settings, learning_rate_at, new_scheduler
from diffusers import UNet2DConditionModel


class Text(torch.nn.Module):
    """As much of a text encoder as the training sees."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(7, 64)

    def forward(self, ids):
        return type("Out", (), {"last_hidden_state": self.table(ids)})


@pytest.fixture(scope="module")
def start():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return unet, Text()


def training(start, folder, steps, every=2):
    unet, text = copy.deepcopy(start)
    draw = torch.Generator().manual_seed(3)
    examples = Examples(
        torch.randn(9, 4, 16, 16, generator=draw),
        torch.randint(0, 7, (9, 5), generator=draw),
        torch.zeros(5, dtype=torch.long),
    )
    settings = Settings(steps=steps, batch_size=2, warmup=1)
    states = Checkpoint(folder, "steady", settings.shared()), Checkpoint(folder, "cooling", steps)
    return Pretraining(unet, text, new_scheduler(), examples, settings, draw, *states, every=every)


def weights(done):
    return torch.cat([parameter.detach().flatten() for parameter in done.models.parameters()])


def stop_at(done, step, with_what):
    whole = done.step

    def stopped(number):
        if number == step:
            raise with_what
        return whole(number)

    done.step = stopped


def test_a_stopped_training_ends_in_the_same_bytes(start, tmp_path):
    undisturbed = training(start, tmp_path / "one", 5)
    undisturbed.run()
    for step in (3, 4):  # in the constant part with a step since the last state, and in the cool-down
        stopped = training(start, tmp_path / "two", 5)
        stop_at(stopped, step, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
    resumed = training(start, tmp_path / "two", 5)
    seen = []
    whole = resumed.step
    resumed.step = lambda number: (seen.append(number), whole(number))[1]
    resumed.run()
    assert seen == [4]
    assert torch.equal(weights(resumed), weights(undisturbed))


def test_a_longer_training_goes_on_before_the_cool_down(start, tmp_path):
    training(start, tmp_path / "short", 5).run()
    longer = training(start, tmp_path / "short", 10)
    seen = []
    whole = longer.step
    longer.step = lambda number: (seen.append(number), whole(number))[1]
    longer.run()
    afresh = training(start, tmp_path / "afresh", 10)
    afresh.run()
    assert seen[0] == 4 and torch.equal(weights(longer), weights(afresh))
    with pytest.raises(UserError, match="Give --steps 10 or more"):
        training(start, tmp_path / "short", 6).run()


def test_sigterm_saves_and_leaves(start, tmp_path, monkeypatch):
    asked = training(start, tmp_path, 4, every=100)
    monkeypatch.setattr("cgddi.toy.denoising.Termination.__enter__", lambda self: setattr(self, "asked", True) or self)
    monkeypatch.setattr("cgddi.toy.denoising.Termination.__exit__", lambda *_: None)
    with pytest.raises(Terminated):
        asked.run()
    assert asked.steady.load()[1]["step"] == 1


def test_the_learning_rate_is_constant_and_then_cools_down():
    settings = Settings(steps=100, warmup=10)
    rates = [learning_rate_at(step, settings) / settings.learning_rate for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:80] == [1.0] * 70
    assert rates[99] == pytest.approx(0.01) and rates[84] == pytest.approx(0.01 + 0.99 * (1 - math.sqrt(0.25)))
    assert rates[80:] == sorted(rates[80:], reverse=True)
