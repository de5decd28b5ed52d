"""The noise schedule against diffusers' own, and against its formulas."""

from __future__ import annotations

import pytest
import torch
from cgddi.core.errors import UserError
from cgddi.diffusion.schedule import NoiseSchedule, partial_timesteps, solver
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_and_target_equal_diffusers(prediction):
    scheduler = DDPMScheduler(prediction_type=prediction, **SD)
    schedule = NoiseSchedule(scheduler.config)
    x, noise, steps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    assert torch.allclose(schedule.add_noise(x, noise, steps), scheduler.add_noise(x, noise, steps), atol=1e-6)
    wanted = {"epsilon": noise, "sample": x, "v_prediction": scheduler.get_velocity(x, noise, steps)}[prediction]
    assert torch.allclose(schedule.target(x, noise, steps), wanted, atol=1e-6)


def test_zero_terminal_snr_ends_in_pure_noise():
    schedule = NoiseSchedule(DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction").config)
    x, noise, last = torch.ones(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.tensor([999])
    assert torch.allclose(schedule.add_noise(x, noise, last), noise, atol=1e-6)
    assert torch.allclose(schedule.target(x, noise, last), -x, atol=1e-6)
    assert schedule.ends_in_noise and not NoiseSchedule(SD).ends_in_noise
    with pytest.raises(UserError, match="zero-terminal-SNR"):
        solver("pndm", schedule.config)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(UserError, match="flow_prediction"):
        NoiseSchedule({**SD, "prediction_type": "flow_prediction"})


@pytest.mark.parametrize(
    ("name", "steps", "first", "count"), [("dpmsolver++", 20, 724, 15), ("pndm", 100, 721, 73), ("ddim", 100, 711, 72)]
)
def test_where_image_to_image_starts_and_how_many_calls_it_makes(name, steps, first, count):
    _, times = NoiseSchedule({**SD, "steps_offset": 1}).sampling(name, steps, 0.725)
    assert (int(times[0]), len(times)) == (first, count)


def test_the_default_solver_is_diffusers_own_of_second_order():
    """2M with a first-order last step, as `from_config` of a plain scheduler gives it; nothing of the model's own is lost."""
    own = {**DDIMScheduler(prediction_type="v_prediction", **SD).config}
    ours, theirs = solver("dpmsolver++", own).config, DPMSolverMultistepScheduler.from_config(own).config
    assert {name: ours[name] for name in theirs if name[0] != "_"} == {n: v for n, v in theirs.items() if n[0] != "_"}
    assert (ours.algorithm_type, ours.solver_order, ours.lower_order_final) == ("dpmsolver++", 2, True)
    assert (ours.prediction_type, ours.beta_end, ours.use_karras_sigmas) == ("v_prediction", 0.012, False)


def test_partial_timesteps_are_even_and_start_at_the_strength():
    assert partial_timesteps(8, 0.725, 1000) == [724, 603, 482, 361, 241, 120]
    assert partial_timesteps(20, 1.0, 1000)[0] == 999 and len(partial_timesteps(20, 1.0, 1000)) == 20
