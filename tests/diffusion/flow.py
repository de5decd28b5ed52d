"""A flow-matching transformer (Stable Diffusion 3's, random weights, one text encoder) behind the engine's interface."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from cgddi.diffusion.backbone import Backbone, Prompts

from tests.diffusion import tiny


class FlowRule:
    """Rectified flow (Esser et al. 2024, section 2): x_t = (1 - t) x_0 + t noise; the network predicts noise - x_0."""

    def __init__(self, config: dict, device: torch.device):
        from diffusers import FlowMatchEulerDiscreteScheduler

        self.scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        self.steps: int = self.scheduler.config.num_train_timesteps
        self.device = device

    def _share(self, steps: torch.Tensor) -> torch.Tensor:
        return ((steps + 1) / self.steps).view(-1, 1, 1, 1)

    def add_noise(self, clean, noise, steps):
        return torch.lerp(clean, noise, self._share(steps).to(clean))

    def target(self, clean, noise, steps):
        return noise - clean

    def sampling(self, name, steps, strength):
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        first = 0 if strength is None else steps - int(steps * strength)
        scheduler.set_begin_index(first)
        return scheduler, scheduler.timesteps[first:]

    def begin(self, scheduler, noise, clean, step):
        return noise if clean is None else scheduler.scale_noise(clean, step.repeat(len(clean)), noise)

    def seen(self, scheduler, latents, step):
        return latents


class FlowTransformer(Backbone):
    """What differs from Stable Diffusion 1 and 2."""

    family = "flow"
    part = "transformer"

    def _denoiser_class(self):
        from diffusers import SD3Transformer2DModel

        return SD3Transformer2DModel

    def _text_encoder(self, part, **options):
        from transformers import CLIPTextModelWithProjection

        return self._component(part, CLIPTextModelWithProjection, **options)

    def _noise_rule(self):
        return FlowRule(self.scheduler_config, self.device)

    def _cells_together(self):
        return self.denoiser.config.patch_size

    def encode_ids(self, ids):
        out = self.text_encoders[0](ids[0], output_hidden_states=True)
        return Prompts(out.hidden_states[-2], out[0])

    def denoise(self, noisy, steps, prompts):
        prompts = prompts.to(self.dtype)
        steps = steps.expand(len(noisy)).to(self.dtype)
        return self.denoiser(noisy.to(self.dtype), prompts.embeds, prompts.pooled, steps, return_dict=False)[0]


def make_flow_model(folder: Path) -> Path:
    """A random-weight model folder: the tiny autoencoder with a shift, a transformer of two joint blocks."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection

    tiny.make_model(folder)
    torch.manual_seed(1)
    size = len(tiny.tokenizer(folder / "tokenizer"))
    CLIPTextModelWithProjection(tiny.text_config(size, projection_dim=16)).save_pretrained(folder / "text_encoder")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    vae.register_to_config(shift_factor=0.1, scaling_factor=1.5)
    vae.save_pretrained(folder / "vae")
    transformer = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=tiny.HIDDEN,
        caption_projection_dim=32,
        pooled_projection_dim=16,
        pos_embed_max_size=16,
    )
    for parameter in transformer.parameters():  # its gates start at zero, through which no gradient would pass
        parameter.data += 0.05 * torch.randn(parameter.shape)
    transformer.save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text()) | {"_class_name": "FlowPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
