"""One small interface to a latent-diffusion base model: Stable Diffusion 1.x and 2.x (the toy has their shape), and XL.

Trainer and sampler use this and know nothing of the family behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgddi.core.archive import sha256
from cgddi.core.errors import UserError
from cgddi.diffusion import tokens, weights
from cgddi.diffusion.onednn import use_onednn_layers
from cgddi.diffusion.schedule import NoiseSchedule
from cgddi.job.gpu import mixed_precision, send
from cgddi.job.runtime import torch_dtype


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts.

    Args:
        embeds: (n, length, D) for cross-attention.
        pooled: (n, P) where the denoiser asks for it (SDXL), else None.
    """

    embeds: torch.Tensor
    pooled: torch.Tensor | None = None

    def __getitem__(self, index) -> Prompts:
        return Prompts(self.embeds[index], None if self.pooled is None else self.pooled[index])

    def to(self, *args, **options) -> Prompts:
        """Both tensors moved or cast."""
        return Prompts(
            self.embeds.to(*args, **options), None if self.pooled is None else self.pooled.to(*args, **options)
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name, for storing."""
        return {"embeds": self.embeds} | ({} if self.pooled is None else {"pooled": self.pooled})

    def split(self, size: int) -> list[Prompts]:
        """Parts of so many prompts."""
        pooled = None if self.pooled is None else self.pooled.split(size)
        return [Prompts(part, pooled and pooled[n]) for n, part in enumerate(self.embeds.split(size))]

    def leaf(self) -> Prompts:
        """The same numbers, where gradients end (`.grad`) if these have any."""
        found = {name: value.detach().requires_grad_(value.requires_grad) for name, value in self.tensors().items()}
        return Prompts(**found)

    @staticmethod
    def cat(parts: Sequence[Prompts]) -> Prompts:
        """Joined along the first dimension."""
        pooled = None if parts[0].pooled is None else torch.cat([p.pooled for p in parts])
        return Prompts(torch.cat([p.embeds for p in parts]), pooled)


DECODED = 4
"""Images of up to 512 px (64 x 64 cells) that the autoencoder decodes at a time, fewer of larger ones: sixteen would take more
memory than the denoiser does."""


class One:
    """A factor or divisor of 1 that costs a tensor no pass over memory."""

    def __rtruediv__(self, value: torch.Tensor) -> torch.Tensor:
        return value

    __rmul__ = __rtruediv__


def skip_divisions_by_one(model: torch.nn.Module) -> None:
    """diffusers' blocks divide what they put out by a factor, which is 1 in Stable Diffusion: a pass over memory each, and back."""
    for module in model.modules():
        for name in ("output_scale_factor", "rescale_output_factor"):
            if getattr(module, name, None) == 1:
                setattr(module, name, One())


def activate_time_once(denoiser: torch.nn.Module) -> None:
    """Each of diffusers' residual blocks activates the same encoded timestep: once before them all gives the same."""
    from diffusers.models.resnet import ResnetBlock2D

    blocks = [module for module in denoiser.modules() if isinstance(module, ResnetBlock2D)]
    if denoiser.time_embed_act is None and all(
        isinstance(b.nonlinearity, torch.nn.SiLU) and not b.skip_time_act for b in blocks
    ):
        denoiser.time_embed_act = torch.nn.SiLU()
        for block in blocks:
            block.skip_time_act = True


class Backbone:
    """A frozen Stable Diffusion model (Rombach et al. 2022): encode images and prompts, denoise, decode, tokens.

    Args:
        folder: the model in diffusers layout.
        dtype: of the denoiser and autoencoder; text encoders stay float32 (they are small, and tokens are trained through them).
    """

    family = "sd"
    part = "unet"  # the denoiser's folder, and the prefix of its layers in adapter files
    encoders = (("tokenizer", "text_encoder"),)

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype = torch.float32, variant: str | None = None
    ):
        from diffusers import AutoencoderKL, UNet2DConditionModel

        self.folder, self.device, self.dtype, self.variant = folder, torch.device(device), dtype, variant
        self.index = weights.model_index(folder)
        self.digests = weights.component_digests(folder, variant)
        self.digest = weights.combined(self.digests)
        options: dict[str, Any] = {"use_safetensors": True, "variant": variant, "local_files_only": True}
        self.denoiser = self._component(self.part, UNet2DConditionModel, torch_dtype=dtype, **options)
        self.vae = self._component("vae", AutoencoderKL, torch_dtype=self.vae_dtype(), **options)
        self.tokenizers, self.text_encoders = [], []
        for tokenizer, encoder in self.encoders:
            self.tokenizers.append(self._tokenizer(tokenizer))
            self.text_encoders.append(self._text_encoder(encoder, dtype=torch.float32, **options))
        self.scheduler_config = self._scheduler_config()
        self.schedule = NoiseSchedule(self.scheduler_config, self.device)
        for module in (self.denoiser, self.vae, *self.text_encoders):
            module.requires_grad_(False).eval().to(self.device)
            use_onednn_layers(module)
        # How pictures lie in memory: oneDNN convolves channels last faster; CUDA's group norm is half as fast then.
        self.form = torch.contiguous_format if self.device.type == "cuda" else torch.channels_last
        for module in (self.denoiser, self.vae):
            module.to(memory_format=self.form)
            skip_divisions_by_one(module)
        activate_time_once(self.denoiser)
        self.tokens: dict[str, int] = {}
        self._token_facts: dict[str, str] = {}
        self.text_adapter: str | None = None  # hash of an adapter on the text encoders, while one is applied
        if self.denoiser.config.in_channels != self.vae.config.latent_channels:
            raise UserError(
                f"{folder}: the denoiser takes {self.denoiser.config.in_channels} channels, the autoencoder gives "
                f"{self.vae.config.latent_channels}: an inpainting model? Name the text-to-image base model."
            )

    # -- loading --------------------------------------------------------------------------------------------------------------
    def vae_dtype(self) -> torch.dtype:
        """Type of the autoencoder: the denoiser's, except float16, in which some decoders overflow."""
        return torch.float32 if self.dtype == torch.float16 else self.dtype

    def _component(self, part: str, cls, **options):
        try:
            return cls.from_pretrained(self.folder, subfolder=part, **options)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.folder}/{part}: cannot be loaded ({str(error).splitlines()[0]}). Weights must be .safetensors "
                f"(variant {self.variant}); fetch that form of the model or convert it once."
            ) from error

    def _tokenizer(self, part: str):
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.folder / part)

    def _text_encoder(self, part: str, **options):
        from transformers import CLIPTextModel

        return self._component(part, CLIPTextModel, **options)

    def _scheduler_config(self) -> dict[str, Any]:
        import json

        return json.loads((self.folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))

    # -- images ---------------------------------------------------------------------------------------------------------------
    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a square image of `size` px.

        Raises:
            UserError: the denoiser cannot take that size.
        """
        step = self.factor * 2 ** (len(self.denoiser.config.block_out_channels) - 1)  # a UNet halves the cells so often
        if size % step:
            raise UserError(f"image_size {size} is not a multiple of {step}, which this base model needs.")
        return self.vae.config.latent_channels, size // self.factor, size // self.factor

    def encode_images(self, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """As `posterior`, on the CPU."""
        mean, std = self.posterior(pixels)
        return mean.cpu(), std.cpu()

    @torch.no_grad()
    def posterior(self, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and standard deviation of the latents, in the denoiser's units.

        Args:
            pixels: (B, H, W, 3) uint8 RGB.

        Returns:
            Two (B, C, h, w) float32 tensors on the device; a draw is mean + std * noise.
        """
        values = (
            send(torch.from_numpy(np.ascontiguousarray(pixels)), self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        )
        posterior = self.vae.encode(values.to(self.vae.dtype)).latent_dist
        scale, shift = self.vae.config.scaling_factor, self.vae.config.shift_factor or 0
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Denoiser latents (B, C, h, w) -> pixels (B, H, W, 3) uint8 on the device; not-a-number becomes 0."""
        latents = (latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)).to(self.vae.dtype)
        images, cells = [], latents.shape[-2] * latents.shape[-1]
        for part in latents.split(max(1, min(DECODED, DECODED * 64**2 // cells))):
            image = self.vae.decode(part, return_dict=False)[0]
            image = (image.float() / 2 + 0.5).clamp(0, 1).nan_to_num(0.0)
            images.append((image.permute(0, 2, 3, 1) * 255).round().to(torch.uint8))
        return torch.cat(images)

    # -- text -----------------------------------------------------------------------------------------------------------------
    def tokenize(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """Token ids (n, length) per text encoder, padded to its full length, on the device."""
        texts = [tokens.expand(prompt, self.tokens) for prompt in prompts]
        found = []
        for tokenizer in self.tokenizers:
            lengths = [len(ids) for ids in tokenizer(texts).input_ids]
            if max(lengths) > tokenizer.model_max_length:
                raise UserError(
                    f"prompt {texts[int(np.argmax(lengths))]!r} is longer than {tokenizer.model_max_length} tokens."
                )
            batch = tokenizer(
                texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
            )
            found.append(batch.input_ids.to(self.device))
        return found

    def encode_ids(self, ids: Sequence[torch.Tensor]) -> Prompts:
        """Token ids from `tokenize` -> prompts; differentiable with respect to token rows and text-encoder adapters."""
        encoder = self.text_encoders[0]
        mask = None
        if getattr(encoder.config, "use_attention_mask", False):
            mask = (ids[0] != self.tokenizers[0].pad_token_id).long()
        return Prompts(encoder(ids[0], attention_mask=mask)[0])

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Prompts:
        """Encode prompts one by one, so that each is what it is whatever stands beside it. Float32, on the device."""
        return Prompts.cat([self.encode_ids(self.tokenize([prompt])) for prompt in prompts])

    def parts_of_text(self) -> list[tuple[str, torch.nn.Module]]:
        """Text encoders with their component names."""
        return [(part, encoder) for (_, part), encoder in zip(self.encoders, self.text_encoders, strict=True)]

    def empty_negative(self, negative: str) -> Prompts:
        """The unconditional prompt of classifier-free guidance, (1, ...)."""
        return self.encode_prompts([negative])

    def prompt_facts(self, prompt: str) -> list[Any]:
        """What the encoding of a prompt depends on, for the cache: encoders, tokens in it, text."""
        used = {token: self._token_facts[token] for token in self.tokens if token in prompt}
        parts = {part: digest for part, digest in self.digests.items() if part.startswith(("text", "tok"))}
        return [self.family, parts, used, self.text_adapter, prompt, str(self.device.type)]

    def add_token(self, token: str, rows: Sequence[torch.Tensor]) -> list[tokens.TokenRows]:
        """Add a token of one or more vectors to every text encoder.

        Args:
            token: as written in prompts.
            rows: per text encoder, (vectors, D).

        Returns:
            Per text encoder the module whose `rows` hold all added tokens, in the order they were added.
        """
        if len(rows) != len(self.text_encoders):
            raise UserError(
                f"token {token}: made for {len(rows)} text encoder(s), this model has {len(self.text_encoders)}."
            )
        parts = zip(self.tokenizers, self.text_encoders, rows, strict=True)
        made = [tokens.add_tokens(tokenizer, encoder, token, value) for tokenizer, encoder, value in parts]
        self.tokens[token] = rows[0].shape[0]
        self._token_facts[token] = sha256(b"".join(value.detach().cpu().float().numpy().tobytes() for value in rows))
        return made

    # -- denoising ------------------------------------------------------------------------------------------------------------
    def conditions(self, prompts: Prompts, size: int) -> dict[str, torch.Tensor] | None:
        """Further inputs of the denoiser for a batch (None here; SDXL: pooled text and image size)."""
        return None

    def denoise(self, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        """The network's prediction, (B, C, h, w).

        Args:
            noisy: (B, C, h, w) latents x_t.
            timesteps: (B,) or (), integers.
            prompts: B encoded prompts.
        """
        prompts = prompts.to(self.dtype)
        extra = self.conditions(prompts, noisy.shape[-1] * self.factor)
        noisy = noisy.to(self.dtype, memory_format=self.form)
        return self.denoiser(noisy, timesteps, prompts.embeds, added_cond_kwargs=extra, return_dict=False)[0]


class StableDiffusionXL(Backbone):
    """SDXL: two text encoders, their second-to-last states side by side, pooled text and image sizes as further inputs.

    Podell et al. 2023, sections 2.1 and 2.2; the same choices as diffusers' `StableDiffusionXLPipeline`.
    """

    family = "sdxl"
    encoders = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))

    def _text_encoder(self, part: str, **options):
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        return self._component(part, CLIPTextModelWithProjection if part.endswith("_2") else CLIPTextModel, **options)

    def vae_dtype(self) -> torch.dtype:
        """Float32: SDXL's own autoencoder overflows in half precision."""
        return torch.float32

    def encode_ids(self, ids: Sequence[torch.Tensor]) -> Prompts:
        """Token ids of both encoders -> prompts."""
        states, pooled = [], None
        for encoder, batch in zip(self.text_encoders, ids, strict=True):
            out = encoder(batch, output_hidden_states=True)
            states.append(out.hidden_states[-2])
            pooled = out[0]
        return Prompts(torch.cat(states, dim=-1), pooled)

    def empty_negative(self, negative: str) -> Prompts:
        """The unconditional prompt; zeros for an empty one where the model says so."""
        found = self.encode_prompts([negative])
        if not negative and self.index.get("force_zeros_for_empty_prompt", True):
            return Prompts(torch.zeros_like(found.embeds), torch.zeros_like(found.pooled))
        return found

    def conditions(self, prompts: Prompts, size: int) -> dict[str, torch.Tensor]:
        """Pooled text, and (height, width, crop top, left, target height, width) of the images."""
        sizes = torch.full((len(prompts.embeds), 6), size, device=prompts.embeds.device, dtype=prompts.embeds.dtype)
        sizes[:, 2:4] = 0  # filled on the device: a copy from the CPU would wait for it
        return {"text_embeds": prompts.pooled, "time_ids": sizes}


FAMILIES: dict[str, type[Backbone]] = {
    "StableDiffusionPipeline": Backbone,
    "StableDiffusionImg2ImgPipeline": Backbone,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusionXLImg2ImgPipeline": StableDiffusionXL,
}
"""diffusers pipeline class in `model_index.json` -> backbone."""


def load(model: Mapping[str, Any], device: torch.device | str, precision: str = "fp32") -> Backbone:
    """Load a base model.

    Args:
        model: {"source", "revision", "variant"} (see `weights.resolve`).

    Raises:
        UserError: no such model, a family without a backbone here, or a precision that the device has no fast kernels for.
    """
    mixed_precision(precision, torch, torch.device(device).type == "cpu")  # refuses what the device cannot compute in
    folder = weights.resolve(model)
    kind = weights.model_index(folder).get("_class_name", "")
    if kind not in FAMILIES:
        raise UserError(
            f"{folder}: model class {kind!r} has no backbone here. Supported: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[kind](folder, torch.device(device), torch_dtype(precision), model.get("variant"))
