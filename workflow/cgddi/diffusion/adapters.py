"""Adapter files in diffusers' format: written so that plain `load_lora_weights` gives our pictures, read in all their dialects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cgddi.core.archive import sha256
from cgddi.core.errors import UserError
from cgddi.diffusion.backbone import Backbone
from cgddi.diffusion.lora_layers import StackedLoRA, inject, remove
from cgddi.diffusion.models import check_base
from cgddi.diffusion.weights import read_tensors, to_bytes, write_tensors

FILE = "pytorch_lora_weights.safetensors"

_UP = re.compile(r"(lora_B(\.default)?|up)\.weight$")
_PART = re.compile(
    r"(?P<layer>.+?)(?:\.processor\.(?P<old>to_[qkv]|to_out)_lora|\.lora|\.lora_(?P<ab>[AB])(?:\.default)?)"
    r"(?:\.(?P<way>down|up))?\.weight"
)


@dataclass(frozen=True)
class Adapter:
    """A LoRA of the denoiser, ready to apply: W + up @ down.

    Args:
        down: layer name -> (r, in[, kh, kw]).
        up: layer name -> (out, r[, 1, 1]); alpha / r is multiplied in.
        others: tensors for other parts (text encoder) or of other kinds (DoRA), by their name in the file.
        metadata: the file's header.
        tensors: all tensors as the file names them, one `unet.` stripped where it was doubled.
        source: its file, for messages.
    """

    down: Mapping[str, torch.Tensor]
    up: Mapping[str, torch.Tensor]
    others: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]
    tensors: Mapping[str, torch.Tensor]
    source: str = "adapter"

    @property
    def is_plain(self) -> bool:
        """Whether it is a LoRA of the denoiser and nothing else."""
        return not self.others


PARTS = ("unet", "transformer")
"""What diffusers calls a denoiser, before the names of its layers."""


def export(layers: Mapping[str, StackedLoRA], which: int = 0, part: str = "unet") -> dict[str, torch.Tensor]:
    """Tensors of adapter `which` in diffusers' names; its scale is multiplied into B, so that every reader's alpha = r is right."""
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{part}.{name}.lora_A.weight"] = layer.down[which].detach().float().contiguous()
        tensors[f"{part}.{name}.lora_B.weight"] = (layer.up[which].detach().float() * layer.scale).contiguous()
    return tensors


def write_adapter(path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write `pytorch_lora_weights.safetensors` with text facts in its header."""
    write_tensors(path, tensors, metadata)


def read_adapter(path: str | Path, base: str | None = None) -> Adapter:
    """Read an adapter file: today's peft names, diffusers' older `.lora.down` and `processor.to_q_lora`, doubled `unet.unet.`.

    Args:
        path: the file.
        base: digest of the base model in use, compared with the one the file names (see `check_base`).

    Raises:
        UserError: not safetensors, no LoRA of a denoiser in it, numbers that are not finite, or trained on another base model.
    """
    tensors, metadata = read_tensors(path)
    check_base(path, metadata, base)
    tensors = _without_alphas(path, tensors)
    down, up, others = {}, {}, {}
    for name, value in tensors.items():
        inner = name
        while inner.startswith(tuple(f"{part}." for part in PARTS)):
            inner = inner.partition(".")[2]
        if name == inner and name.startswith(("text_encoder", "lora_")):
            others[name] = value
        elif (match := _PART.fullmatch(inner)) and (match["ab"] or match["way"]):
            layer = match["layer"] + (
                f".{'to_out.0' if match['old'] == 'to_out' else match['old']}" if match["old"] else ""
            )
            (down if "A" in (match["ab"] or "") or match["way"] == "down" else up)[layer] = value
        else:
            others[name] = value
    if not down or set(down) != set(up):
        raise UserError(
            f"{path}: holds no LoRA of a denoiser (or half of one). Name a pytorch_lora_weights.safetensors."
        )
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise UserError(f"{path}: {bad[0]} holds numbers that are not finite. Train the adapter again.")
    single = {
        name.replace("unet.unet.", "unet.", 1) if name.startswith("unet.unet.") else name: v
        for name, v in tensors.items()
    }
    return Adapter(down, up, others, metadata, single, str(path))


def _without_alphas(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors with each layer's alpha / r multiplied into its up matrix, whatever part the layer belongs to."""
    kept = {name: value for name, value in tensors.items() if not name.endswith(".alpha")}
    for name in sorted(tensors.keys() - kept.keys()):
        ups = [n for n in kept if n.startswith(name.removesuffix("alpha")) and _UP.search(n)]
        if len(ups) != 1 or kept[ups[0]].ndim < 2 or tensors[name].numel() != 1:
            raise UserError(f"{path}: {name} is no alpha of a LoRA layer in this file. Is the file whole?")
        kept[ups[0]] = kept[ups[0]] * (float(tensors[name]) / kept[ups[0]].shape[1])
    return kept


def check_fits(denoiser: nn.Module, adapter: Adapter) -> None:
    """Compare an adapter's layers with a model's.

    Raises:
        UserError: the model has no such layer, or one of another size.
    """
    modules = dict(denoiser.named_modules())
    for name, down in adapter.down.items():
        layer, up = modules.get(name), adapter.up[name]
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            why = "is not there"
        elif down.ndim != up.ndim or down.shape[0] != up.shape[1]:
            why = f"has factors {tuple(up.shape)} and {tuple(down.shape)}, which do not multiply"
        elif (up.shape[0], *down.shape[1:]) != layer.weight.shape or up[0, 0].numel() != 1:
            why = f"has weights {tuple(layer.weight.shape)}, the adapter's are {(up.shape[0], *down.shape[1:])}"
        else:
            continue
        raise UserError(f"{adapter.source} does not fit this base model: layer {name} {why}. Trained on another model?")


class Applied:
    """An adapter on a denoiser: fused into the weights, or beside them; swapped and taken off without reloading anything.

    In float32 the product is added to the weights (no cost per step); originals are kept and put back bit for bit. In half
    precision a small product would be lost in rounding, so it stays beside the layer.

    Args:
        unet: the denoiser.
        adapter: a plain adapter.
        fuse: None decides by the weights' type.

    Raises:
        UserError: the adapter names layers that this model has not, or has in other sizes.
    """

    def __init__(self, unet: nn.Module, adapter: Adapter, fuse: bool | None = None):
        self.unet = unet
        weight = next(unet.parameters())
        self.fuse = weight.dtype == torch.float32 if fuse is None else fuse
        modules = dict(unet.named_modules())
        check_fits(unet, adapter)
        self._originals: dict[str, torch.Tensor] = {}
        self._layers: dict[str, StackedLoRA] = {}
        if self.fuse:
            for name in adapter.down:
                value = modules[name].weight.data
                self._originals[name] = value.clone()
                value.add_(_product(adapter, name, value.device).to(value.dtype))
        else:
            for name in adapter.down:
                rank = adapter.down[name].shape[0]
                self._layers |= inject(unet, [name], 1, rank, 1.0)
            self.swap(adapter)

    def swap(self, adapter: Adapter) -> None:
        """Put another adapter of the same layers and rank in its place."""
        if self.fuse:
            modules = dict(self.unet.named_modules())
            for name, original in self._originals.items():
                delta = _product(adapter, name, original.device).to(original.dtype)
                modules[name].weight.data.copy_(original + delta)
        else:
            for name, layer in self._layers.items():
                layer.down.data[0].copy_(adapter.down[name])
                layer.up.data[0].copy_(adapter.up[name])
                layer.requires_grad_(False)

    def remove(self) -> None:
        """Take the adapter off; the denoiser is as it was."""
        modules = dict(self.unet.named_modules())
        for name, original in self._originals.items():
            modules[name].weight.data.copy_(original)
        remove(self.unet, self._layers)


class PeftApplied:
    """An adapter of another kind (DoRA, text encoder) put on by diffusers' own loader."""

    def __init__(self, backbone: Backbone, adapter: Adapter):
        from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

        self.backbone, tensors = backbone, adapter.tensors
        check_fits(backbone.denoiser, adapter)
        try:
            backbone.denoiser.load_lora_adapter(dict(tensors), prefix=backbone.part, adapter_name="cgddi")
            for part, encoder in backbone.parts_of_text():
                if any(name.startswith(f"{part}.") for name in tensors):
                    Loader.load_lora_into_text_encoder(dict(tensors), None, encoder, prefix=part, adapter_name="cgddi")
                    texts = {name: value for name, value in tensors.items() if name.startswith("text")}
                    backbone.text_adapter = sha256(to_bytes(texts))
        except (RuntimeError, ValueError, KeyError, IndexError) as error:  # what peft raises for sizes that do not fit
            why = " ".join(str(error).split())[:300]
            raise UserError(f"{adapter.source} does not fit this base model: {why}") from error

    def remove(self) -> None:
        """Take the adapter off."""
        remove_peft(self.backbone, "cgddi")
        self.backbone.text_adapter = None


def remove_peft(backbone: Backbone, name: str) -> None:
    """Take peft's adapter of that name off denoiser and text encoders; their layers are the plain ones again."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    backbone.denoiser.delete_adapters(name)
    for module in (backbone.denoiser, *(encoder for _, encoder in backbone.parts_of_text())):
        recurse_remove_peft_layers(module)
        getattr(module, "peft_config", {}).pop(name, None)  # transformers keeps it, and refuses the name the next time


def apply(backbone: Backbone, adapter: Adapter) -> Applied | PeftApplied:
    """Put an adapter on a model; `remove()` of what comes back takes it off."""
    return Applied(backbone.denoiser, adapter) if adapter.is_plain else PeftApplied(backbone, adapter)


def _product(adapter: Adapter, name: str, device: torch.device) -> torch.Tensor:
    down, up = adapter.down[name].float().to(device), adapter.up[name].float().to(device)
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
