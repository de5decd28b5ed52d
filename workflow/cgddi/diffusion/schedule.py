"""The noise schedule of a base model: how much noise, what the network is to predict, and which solver samples."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from cgddi.core.errors import UserError


class NoiseSchedule:
    """Forward process and prediction target, from a scheduler's config (diffusers' `DDPMScheduler` makes the numbers).

    Handles `prediction_type` epsilon, v_prediction and sample, and zero-terminal SNR (`rescale_betas_zero_snr`; Lin et al. 2024,
    "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.1), where x_T is pure noise.

    Args:
        config: the scheduler's config (`scheduler_config.json`).
    """

    def __init__(self, config: Mapping[str, Any], device: torch.device | str = "cpu"):
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(dict(config))
        self.config = dict(config)
        self.num_train_timesteps: int = scheduler.config.num_train_timesteps
        self.prediction_type: str = scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise UserError(
                f"prediction_type {self.prediction_type!r} is not supported: epsilon, v_prediction or sample."
            )
        alphas = scheduler.alphas_cumprod.double()
        self.sqrt_alphas_cumprod = alphas.sqrt().float().to(device)
        self.sqrt_one_minus_alphas_cumprod = (1 - alphas).sqrt().float().to(device)

    @property
    def ends_in_noise(self) -> bool:
        """Whether the last timestep is pure noise (zero-terminal SNR)."""
        return bool(self.config.get("rescale_betas_zero_snr"))

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """q(x_t | x_0): sqrt(abar) x_0 + sqrt(1 - abar) noise (Ho et al. 2020, eq. 4). (B, C, h, w) and (B,) -> (B, C, h, w)."""
        signal, sigma = self._coefficients(timesteps)
        return signal * clean + sigma * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network must predict: noise, v = sqrt(abar) noise - sqrt(1 - abar) x_0 (Salimans & Ho 2022, app. D), or x_0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        signal, sigma = self._coefficients(timesteps)
        return signal * noise - sigma * clean

    def _coefficients(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tables = (self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod)
        return tuple(table[timesteps].view(-1, 1, 1, 1) for table in tables)

    def sampling(self, name: str, steps: int, strength: float | None) -> tuple[Any, torch.Tensor]:
        """A fresh solver and the timesteps it will run, on the CPU, where reading one waits for no device.

        Image-to-image starts DPM-Solver++ at exactly `strength` (15 calls from t=724 by default, where diffusers would make 14 from
        699); other solvers take no timesteps of one's own, and drop the noisiest share of a full run, as diffusers does.

        Args:
            strength: share of the noise schedule that is run on an image; None starts from noise alone.
        """
        scheduler = solver(name, self.config)
        if strength is not None and name == "dpmsolver++":
            scheduler.set_timesteps(timesteps=partial_timesteps(steps, strength, self.num_train_timesteps))
            return scheduler, scheduler.timesteps
        scheduler.set_timesteps(steps)
        if strength is None:
            return scheduler, scheduler.timesteps
        first = (steps - min(int(steps * strength), steps)) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return scheduler, scheduler.timesteps[first:]


def initial_latents(
    scheduler: Any, noise: torch.Tensor, clean: torch.Tensor | None, timestep: torch.Tensor
) -> torch.Tensor:
    """Latents (B, C, h, w) that sampling starts from: noise alone, or clean latents noised to the first timestep (1,)."""
    if clean is None:
        return noise * scheduler.init_noise_sigma
    return scheduler.add_noise(clean, noise, timestep.repeat(len(clean)))


def solver(name: str, config: Mapping[str, Any]):
    """A diffusers scheduler for sampling, built on the base model's own noise schedule.

    Args:
        name: "dpmsolver++" (2M, Lu et al. 2022), "ddim" or "pndm" (as published).
        config: the model's scheduler config; zero-terminal SNR implies trailing timesteps (Lin et al. 2024, section 3.3).
    """
    import diffusers

    config = dict(config)
    if config.get("rescale_betas_zero_snr"):
        config["timestep_spacing"] = "trailing"
        if name == "pndm":
            raise UserError("sampler 'pndm' cannot follow a zero-terminal-SNR model. Choose 'dpmsolver++' or 'ddim'.")
    if name == "dpmsolver++":
        return diffusers.DPMSolverMultistepScheduler.from_config(
            config, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=False, lower_order_final=True
        )
    if name == "ddim":
        return diffusers.DDIMScheduler.from_config(config, set_alpha_to_one=False, clip_sample=False)
    return diffusers.PNDMScheduler.from_config(config, skip_prk_steps=True)


def partial_timesteps(steps: int, strength: float, trained: int) -> list[int]:
    """Timesteps of image-to-image that start at exactly `strength` of the noise schedule, evenly spaced down to it (trailing).

    diffusers keeps the last int(steps * strength) timesteps of the full run, whose first can lie below the strength asked for:
    at 0.725 20 steps start at 0.70 and 25 at 0.72, which moves the picture more than the solver's own error does.

    Args:
        steps: steps of a full run, from pure noise.
        strength: in (0, 1].
        trained: length of the noise schedule.

    Returns:
        ceil(steps * strength) timesteps, the noisiest first.
    """
    count = math.ceil(steps * strength - 1e-9)
    top = strength * trained
    return [round(top - number * top / count) - 1 for number in range(count)]
