"""Model families: Stable Diffusion 1.5/2.1 (and the toy, which has their shape) and Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cgddi.diffusion.backbone import Backbone, Prompts


class StableDiffusion(Backbone):
    """SD 1.x and 2.x: one CLIP text encoder, last hidden state (Rombach et al. 2022)."""


class StableDiffusionXL(Backbone):
    """SDXL: two text encoders, their second-to-last states side by side, pooled text and image sizes as further inputs.

    Podell et al. 2023, sections 2.1 and 2.2; the same choices as diffusers' `StableDiffusionXLPipeline`.
    """

    family = "sdxl"
    encoders = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))

    def _text_encoder(self, part: str, **options):
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        return self._component(part, CLIPTextModelWithProjection if part.endswith("_2") else CLIPTextModel, **options)

    def _tokenizer(self, part: str):
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(Path(self.folder) / part)

    def vae_dtype(self) -> torch.dtype:
        """Float32 unless the config says that the autoencoder was repaired for half precision."""
        return torch.float32

    def encode_ids(self, ids: Sequence[torch.Tensor]) -> Prompts:
        states, pooled = [], None
        for encoder, batch in zip(self.text_encoders, ids, strict=True):
            out = encoder(batch, output_hidden_states=True)
            states.append(out.hidden_states[-2])
            pooled = out[0]
        return Prompts(torch.cat(states, dim=-1), pooled)

    def empty_negative(self, negative: str) -> Prompts:
        found = self.encode_prompts([negative])
        if not negative and self.index.get("force_zeros_for_empty_prompt", True):
            return Prompts(torch.zeros_like(found.embeds), torch.zeros_like(found.pooled))
        return found

    def conditions(self, prompts: Prompts, size: int) -> dict[str, torch.Tensor]:
        sizes = torch.full((len(prompts.embeds), 6), size, device=prompts.embeds.device, dtype=prompts.embeds.dtype)
        sizes[:, 2:4] = 0  # filled on the device: a copy from the CPU would wait for it
        return {"text_embeds": prompts.pooled, "time_ids": sizes}


FAMILIES: dict[str, type[Backbone]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionImg2ImgPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusionXLImg2ImgPipeline": StableDiffusionXL,
}
"""diffusers pipeline class in `model_index.json` -> backbone."""
