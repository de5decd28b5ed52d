"""The layers a run trains: our stacked LoRA for any number of concepts, or peft's for DoRA and text encoders."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from cgddi.core.seeds import seed_for
from cgddi.diffusion import adapters
from cgddi.diffusion.backbone import Backbone
from cgddi.diffusion.lora_layers import find_targets, inject, only, remove
from cgddi.stages.lora.settings import LoraSettings

TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]


class PeftLayers:
    """peft adapters on a model, for one concept: DoRA (Liu et al. 2024), LoRA of the text encoders.

    Args:
        backbone: the model; its tokens are in place.
        settings: rank, alpha, targets, which kinds.
        slug, seed: A starts from N(0, 1 / rank) of these names, B at zero.
    """

    def __init__(self, backbone: Backbone, settings: LoraSettings, slug: str, seed: int):
        from peft import LoraConfig

        self.backbone, self.settings = backbone, settings
        common = {"init_lora_weights": "gaussian", "use_rslora": settings.use_rslora, "use_dora": settings.use_dora}
        targets = find_targets(backbone.denoiser, settings.target_modules)
        backbone.denoiser.add_adapter(
            LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, **common)
        )
        if settings.text_encoder_rank:
            rank = settings.text_encoder_rank
            alpha = settings.text_encoder_alpha or rank
            for _, encoder in backbone.parts_of_text():
                encoder.add_adapter(
                    LoraConfig(r=rank, lora_alpha=alpha, target_modules=TEXT_TARGETS, init_lora_weights="gaussian")
                )
        for name, parameter in self.parameters.items():
            if "lora_A" in name:
                generator = torch.Generator().manual_seed(seed_for(seed, "lora-start", slug, name))
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[0])

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by part and name."""
        parts = [(self.backbone.part, self.backbone.denoiser), *self.backbone.parts_of_text()]
        return {f"{part}.{n}": p for part, module in parts for n, p in module.named_parameters() if "lora_" in n}

    def only(self, which: int) -> AbstractContextManager:
        """Use one adapter for a while: there is but one."""
        return nullcontext()

    def export(self, which: int = 0) -> dict[str, torch.Tensor]:
        """Tensors in diffusers' names, the scale multiplied into B (alpha = rank for every reader)."""
        from peft import get_peft_model_state_dict

        tensors = {f"{self.backbone.part}.{n}": v for n, v in get_peft_model_state_dict(self.backbone.denoiser).items()}
        for name in tensors:
            if name.endswith("lora_B.weight"):
                tensors[name] = tensors[name] * self.settings.scale
        if self.settings.text_encoder_rank:
            scale = (
                self.settings.text_encoder_alpha or self.settings.text_encoder_rank
            ) / self.settings.text_encoder_rank
            for part, encoder in self.backbone.parts_of_text():
                for name, value in get_peft_model_state_dict(encoder, adapter_name="default").items():
                    tensors[f"{part}.{name}"] = value * scale if name.endswith("lora_B.weight") else value
        return {name: value.detach().float().cpu().clone() for name, value in tensors.items()}

    def remove(self) -> None:
        """Take the adapters off."""
        adapters.remove_peft(self.backbone, "default")


class OwnLayers:
    """The stacked layers behind the same methods, for any number of concepts (see `lora_layers`)."""

    def __init__(self, backbone: Backbone, settings: LoraSettings, slugs: list[str], seed: int):
        self.backbone = backbone
        targets = find_targets(backbone.denoiser, settings.target_modules)
        self.layers = inject(backbone.denoiser, targets, len(slugs), settings.rank, settings.scale)
        for name, layer in self.layers.items():
            for k, slug in enumerate(slugs):
                generator = torch.Generator().manual_seed(seed_for(seed, "lora-start", slug, name))
                layer.down.data[k].copy_(torch.randn(layer.down.shape[1:], generator=generator) / settings.rank)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained; the first dimension counts the adapters."""
        return {f"{name}.{end}": getattr(layer, end) for name, layer in self.layers.items() for end in ("down", "up")}

    def only(self, which: int) -> AbstractContextManager:
        """Use one adapter for a while (see `lora_layers.only`)."""
        return only(self.layers, which)

    def export(self, which: int = 0) -> dict[str, torch.Tensor]:
        """Tensors of one adapter in diffusers' names."""
        return {
            name: value.cpu().clone() for name, value in adapters.export(self.layers, which, self.backbone.part).items()
        }

    def remove(self) -> None:
        """Take the layers off."""
        remove(self.backbone.denoiser, self.layers)
