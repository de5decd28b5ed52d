"""Frozen diffusion models as feature extractors: a photo, noised to a timestep, and what each decoder block makes of it.

A decoder block is a residual block of the UNet's way up, with the attention after it where there is one; the last one of a level
includes the upsampling. Counted from the deepest level, these are the `output_blocks` of the original layouts: 18 in the ADM
(FEDD), 12 in Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgddi.core.errors import UserError
from cgddi.diffusion import backbone as diffusion
from cgddi.diffusion import weights
from cgddi.job.gpu import send
from cgddi.job.runtime import torch_dtype

Visit = Callable[[int, torch.Tensor], None]


class _LastBlockSeen(Exception):
    """Ends a forward pass after the last block asked for."""


class FeatureBackbone:
    """What the features stage needs of a model. Subclasses bring the photo into the space of their UNet, and run it."""

    def __init__(self, unet: torch.nn.Module, digest: str, folder: Path, device: torch.device):
        self.unet, self.digest, self.folder, self.device = unet, digest, folder, torch.device(device)
        self.decoder_blocks = decoder_blocks(unet, folder)
        self.scheduler = _scheduler(folder)

    def input_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of the UNet's input, and so of the noise, for photos of `size` px. UserError: a size it cannot halve."""
        raise NotImplementedError

    def encode(self, pixels: np.ndarray) -> torch.Tensor:
        """Photos (B, 3, H, W) uint8 in the UNet's space, (B, C, h, w) float32 on the device."""
        raise NotImplementedError

    def denoise(self, noisy: torch.Tensor, steps: torch.Tensor) -> None:
        """Run the UNet on (B, C, h, w) at timesteps (B,)."""
        raise NotImplementedError

    def in_precision(self, precision: str) -> FeatureBackbone:
        """Keep the weights of convolutions and linear layers in the type that autocast would cast them to in every pass: the same
        numbers, half the memory. Such a model no longer runs in another precision.
        """
        if precision != "fp32":
            for module in self.unet.modules():
                if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                    module.to(torch_dtype(precision))
        return self

    def clip(self, timestep: int) -> int:
        """The timestep, at most the schedule's last (the published 1000 is 999)."""
        return min(int(timestep), self.scheduler.config.num_train_timesteps - 1)

    def check_blocks(self, blocks: Sequence[int]) -> None:
        """Raise UserError for decoder blocks that this model does not have."""
        count = len(self.decoder_blocks)
        absent = sorted({block for block in blocks if not 0 <= block < count})
        if absent:
            raise UserError(
                f"decoder block(s) {', '.join(map(str, absent))}: {self.folder} has {count}, numbered 0 to {count - 1} from "
                "the deepest. Choose among these in fedd.features.blocks."
            )

    @torch.no_grad()
    def run(
        self,
        pixels: np.ndarray,
        noise: torch.Tensor,
        timestep: int,
        blocks: Sequence[int],
        visit: Visit,
        precision: str = "fp32",
    ) -> None:
        """Noise photos to a timestep, run the UNet once, and show what the blocks asked for put out.

        Layers after the last block asked for are not run.

        Args:
            pixels: (B, 3, H, W) uint8.
            noise: (B, C, h, w) standard normal, of `input_shape`.
            visit: called with (block, activations (B, C, h, w) on the device) in the order of the forward pass.
        """
        self.check_blocks(blocks)
        wanted = sorted(set(blocks))
        clean = self.encode(pixels)
        steps = torch.full((len(clean),), self.clip(timestep), device=clean.device, dtype=torch.long)
        noisy = self.scheduler.add_noise(clean, send(noise, clean.device).to(clean), steps)

        def hook(block: int):
            def seen(_module, _inputs, output) -> None:
                visit(block, output[0] if isinstance(output, tuple) else output)
                if block == wanted[-1]:
                    raise _LastBlockSeen

            return seen

        handles = [self.decoder_blocks[block].register_forward_hook(hook(block)) for block in wanted]
        try:
            with torch.autocast(clean.device.type, torch_dtype(precision), enabled=precision != "fp32"):
                self.denoise(noisy, steps)
        except _LastBlockSeen:
            pass
        finally:
            for handle in handles:
                handle.remove()


class PixelBackbone(FeatureBackbone):
    """A `UNet2DModel` on pixels scaled to -1..1, such as the ADM."""

    def __init__(self, folder: Path, device: torch.device, variant: str | None):
        from diffusers import UNet2DModel

        try:
            options = {"variant": variant, "use_safetensors": True, "local_files_only": True}
            unet = UNet2DModel.from_pretrained(folder, subfolder="unet", **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{folder}/unet: cannot be loaded ({str(error).splitlines()[0]}). Weights must be .safetensors (variant "
                f"{variant})."
            ) from error
        if unet.config.in_channels != 3:
            raise UserError(
                f"{folder}/unet takes {unet.config.in_channels} channels, photos have 3. Name another model."
            )
        unet.requires_grad_(False).eval().to(device)
        unet.to(memory_format=torch.channels_last)
        super().__init__(unet, weights.combined(weights.component_digests(folder, variant)), folder, device)

    def input_shape(self, size: int) -> tuple[int, int, int]:
        step = 2 ** (len(self.unet.config.block_out_channels) - 1)
        if size % step:
            raise UserError(f"fedd.features.size {size} is not a multiple of {step}, which {self.folder} needs.")
        return 3, size, size

    def encode(self, pixels: np.ndarray) -> torch.Tensor:
        return send(torch.from_numpy(pixels), self.device).float() / 127.5 - 1

    def denoise(self, noisy: torch.Tensor, steps: torch.Tensor) -> None:
        self.unet(noisy.contiguous(memory_format=torch.channels_last), steps)


class LatentBackbone(FeatureBackbone):
    """A Stable Diffusion model: features of its UNet at the photo's latents (posterior mean), with the empty prompt."""

    def __init__(self, model: Mapping[str, Any], device: torch.device, folder: Path):
        self.model = diffusion.load({**model, "source": str(folder)}, device, "fp32")
        super().__init__(self.model.denoiser, self.model.digest, folder, device)
        with torch.no_grad():
            self.prompt = self.model.encode_prompts([""])

    def input_shape(self, size: int) -> tuple[int, int, int]:
        return self.model.latent_shape(size)

    def encode(self, pixels: np.ndarray) -> torch.Tensor:
        return self.model.posterior(pixels.transpose(0, 2, 3, 1))[0]

    def denoise(self, noisy: torch.Tensor, steps: torch.Tensor) -> None:
        self.model.denoise(noisy, steps, diffusion.Prompts.cat([self.prompt] * len(noisy)))


def decoder_blocks(unet: torch.nn.Module, folder: Path | str = "the model") -> list[torch.nn.Module]:
    """The module that ends each decoder block, from the deepest block on.

    Raises:
        UserError: the UNet is of another kind (its way up has no residual blocks).
    """
    blocks: list[torch.nn.Module] = []
    for level in getattr(unet, "up_blocks", []):
        if not hasattr(level, "resnets"):
            raise UserError(f"{folder}/unet: {type(level).__name__} has no residual blocks to take features from.")
        ends = list(getattr(level, "attentions", None) or level.resnets)
        if getattr(level, "upsamplers", None):
            ends[-1] = level.upsamplers[-1]
        blocks += ends
    if not blocks:
        raise UserError(f"{folder}/unet: no decoder blocks. Name a model whose UNet has a way up.")
    return blocks


def _scheduler(folder: Path):
    """The model's noise schedule, in diffusers' own DDPM form whatever sampler its folder names."""
    from diffusers import DDPMScheduler

    if not (folder / "scheduler" / "scheduler_config.json").is_file():
        raise UserError(
            f"{folder}/scheduler: missing, so the noise schedule is unknown. Copy the model's folder there."
        )
    return DDPMScheduler.from_config(DDPMScheduler.load_config(folder, subfolder="scheduler"))


def load(model: Mapping[str, Any], device: torch.device) -> FeatureBackbone:
    """Load the model of a features job.

    Args:
        model: {"source": folder or hub id, "revision", "variant"}: a diffusers folder with a `UNet2DModel` (as `cgddi fedd convert`
            writes) or a Stable Diffusion folder.

    Raises:
        UserError: no such folder, no UNet in it, or a UNet of an unknown kind.
    """
    folder = weights.resolve(model)
    index = weights.model_index(folder)
    unet, kind = (index.get("unet") or [None, None])[-1], index.get("_class_name")
    if not (folder / "unet" / "config.json").is_file() or unet is None:
        raise UserError(
            f"{folder}: no unet in this folder, so there are no features to take. Name a diffusers folder with a UNet, for "
            "example one that `cgddi fedd convert` wrote."
        )
    if unet == "UNet2DModel":
        return PixelBackbone(folder, device, model.get("variant"))
    if unet == "UNet2DConditionModel" and kind in diffusion.FAMILIES:
        return LatentBackbone(model, device, folder)
    raise UserError(
        f"{folder}: a {unet} in a {kind} gives no features here. Name a folder with a UNet2DModel, or one of "
        f"{', '.join(sorted(diffusion.FAMILIES))}."
    )
