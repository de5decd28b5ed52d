"""The forward process: how much noise, what the network is to predict, how a timestep counts, and which solver samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from cgddi.core.errors import UserError


class NoiseRule:
    """Noise and target rule of a base model, from its scheduler's config.

    Handles `prediction_type` epsilon, v_prediction and sample, and zero-terminal SNR (`rescale_betas_zero_snr`; Lin et al. 2024,
    "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.1), where x_T is pure noise.

    Args:
        config: the scheduler's config (`scheduler_config.json`).
        device: where the coefficients live.
    """

    def __init__(self, config: Mapping[str, Any], device: torch.device | str = "cpu"):
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(dict(config))
        self.config = dict(config)
        self.steps: int = scheduler.config.num_train_timesteps
        self.prediction: str = scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction", "sample"):
            raise UserError(f"prediction_type {self.prediction!r} is not supported: epsilon, v_prediction or sample.")
        signal = scheduler.alphas_cumprod.double()
        self.signal = signal.sqrt().float().to(device)
        self.noise = (1 - signal).sqrt().float().to(device)
        self.snr = (signal / (1 - signal)).float().to(device)

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """q(x_t | x_0): sqrt(abar) x_0 + sqrt(1 - abar) noise (Ho et al. 2020, eq. 4). Latents (B, C, h, w), steps (B,)."""
        return _per_sample(self.signal, steps) * clean + _per_sample(self.noise, steps) * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """What the network must predict: noise, v = sqrt(abar) noise - sqrt(1 - abar) x_0 (Salimans & Ho 2022, app. D), or x_0."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return clean
        return _per_sample(self.signal, steps) * noise - _per_sample(self.noise, steps) * clean

    def sampling(self, name: str, steps: int, strength: float | None) -> tuple[Any, torch.Tensor]:
        """A fresh solver and the timesteps it will run, on the CPU, where reading one waits for no device.

        Image-to-image starts DPM-Solver++ at exactly `strength`; other solvers take no timesteps of one's own, and drop the
        noisiest share of a full run, as diffusers does.

        Args:
            name: see `solver`.
            steps: steps of a full run.
            strength: share of the noise schedule that is run on an image; None starts from noise alone.
        """
        scheduler = solver(name, self.config)
        if strength is not None and name == "dpmsolver++":
            scheduler.set_timesteps(timesteps=partial_timesteps(steps, strength, self.steps))
            return scheduler, scheduler.timesteps
        scheduler.set_timesteps(steps)
        if strength is None:
            return scheduler, scheduler.timesteps
        first = (steps - min(int(steps * strength), steps)) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return scheduler, scheduler.timesteps[first:]

    def begin(
        self, scheduler: Any, noise: torch.Tensor, clean: torch.Tensor | None, step: torch.Tensor
    ) -> torch.Tensor:
        """Latents (B, C, h, w) that sampling starts from: noise alone, or clean latents noised to the first timestep."""
        if clean is None:
            return noise * scheduler.init_noise_sigma
        return scheduler.add_noise(clean, noise, step.repeat(len(clean)))

    def seen(self, scheduler: Any, latents: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Latents as the network is to see them."""
        return scheduler.scale_model_input(latents, step)

    def min_snr_weight(self, steps: torch.Tensor, gamma: float) -> torch.Tensor:
        """Min-SNR loss weight per sample, (B,) (Hang et al. 2023, section 3.4): min(snr, gamma) / snr, / (snr + 1), or as it is."""
        snr = self.snr[steps]
        clipped = snr.clamp(max=gamma)
        if self.prediction == "epsilon":
            return torch.where(snr > 0, clipped / snr.clamp(min=1e-12), torch.ones_like(snr))
        return clipped / (snr + 1) if self.prediction == "v_prediction" else clipped


def _per_sample(table: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    return table[steps].view(-1, 1, 1, 1)


def solver(name: str, config: Mapping[str, Any]):
    """A diffusers scheduler for sampling, built on the base model's own noise schedule.

    Args:
        name: "dpmsolver++" (2M, Lu et al. 2022), "ddim", "pndm" (as published), "unipc" or "model" (the model's own).
        config: the model's scheduler config; zero-terminal SNR implies trailing timesteps (Lin et al. 2024, section 3.3).
    """
    import diffusers

    config = dict(config)
    if config.get("rescale_betas_zero_snr"):
        config["timestep_spacing"] = "trailing"
    if name == "model":
        return getattr(diffusers, config["_class_name"]).from_config(config)
    if name == "dpmsolver++":
        return diffusers.DPMSolverMultistepScheduler.from_config(
            config, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=False, lower_order_final=True
        )
    if name == "unipc":
        return diffusers.UniPCMultistepScheduler.from_config(config)
    if name == "ddim":
        return diffusers.DDIMScheduler.from_config(config, set_alpha_to_one=False, clip_sample=False)
    if name == "pndm":
        if config.get("rescale_betas_zero_snr"):
            raise UserError("sampler 'pndm' cannot follow a zero-terminal-SNR model. Choose 'dpmsolver++' or 'ddim'.")
        return diffusers.PNDMScheduler.from_config(config, skip_prk_steps=True)
    raise UserError(f"unknown sampler {name!r}: dpmsolver++, ddim, pndm, unipc or model.")


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
