"""LoRA adapters: new ones by peft, files in diffusers' format (plain `load_lora_weights` gives our pictures), all dialects read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cgddi.core.archive import sha256
from cgddi.core.errors import UserError
from cgddi.core.seeds import seed_for
from cgddi.diffusion.backbone import Backbone, One
from cgddi.diffusion.dialects import to_diffusers
from cgddi.diffusion.weights import check_base, read_tensors, stored_tensors, to_bytes

FILE = "pytorch_lora_weights.safetensors"

_DOWN = re.compile(r"(lora_A(\.default)?|down)\.weight$")
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


def add_lora(
    denoiser: nn.Module, targets: Sequence[str], rank: int, alpha: float, slug: str, seed: int
) -> dict[str, nn.Parameter]:
    """Put a new LoRA (Hu et al. 2021) on a denoiser, by peft: y = W x + alpha / rank * B A x.

    Args:
        denoiser: a diffusers model, frozen; changed in place (see `remove_lora`).
        targets: ends of the names of the layers to adapt.
        slug, seed: A starts from N(0, 1 / rank) of these names, B at zero.

    Returns:
        The trained parameters by name, float32.

    Raises:
        UserError: one of the targets matches no layer.
    """
    from peft import LoraConfig

    layers = find_targets(denoiser, targets)
    denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers), adapter_name="default")
    modules, parameters = dict(denoiser.named_modules()), {}
    for name in layers:
        if modules[name].scaling["default"] == 1:
            modules[name].scaling["default"] = One()
        down, up = (getattr(modules[name], part)["default"].weight for part in ("lora_A", "lora_B"))
        for parameter in (down, up):
            parameter.data = parameter.data.float()
        generator = torch.Generator().manual_seed(seed_for(seed, "lora-start", slug, name))
        down.data.copy_(torch.randn(down.shape, generator=generator) / rank)
        parameters |= {f"{name}.lora_A": down, f"{name}.lora_B": up}
    return parameters


def find_targets(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Dotted names of the linear and convolution layers whose name ends in one of `names`, in the model's order.

    Raises:
        UserError: one of `names` matches no layer.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    found = {end: [layer for layer in layers if f".{layer}".endswith(f".{end}")] for end in names}
    for end, matched in found.items():
        if not matched:
            raise UserError(f"lora target_modules: no layer of this base model ends in {end!r}.")
    chosen = {layer for matched in found.values() for layer in matched}
    return [layer for layer in layers if layer in chosen]


def lora_tensors(denoiser: nn.Module, part: str, scale: float) -> dict[str, torch.Tensor]:
    """The trained LoRA in diffusers' names; alpha / rank is multiplied into B, so that every reader's alpha = rank is right."""
    from peft import get_peft_model_state_dict

    tensors = {
        f"{part}.{name}": value.detach().float().cpu() for name, value in get_peft_model_state_dict(denoiser).items()
    }
    return {name: value * scale if name.endswith("lora_B.weight") else value.clone() for name, value in tensors.items()}


def read_adapter(path: str | Path, base: str | None = None) -> Adapter:
    """Read an adapter file: diffusers' names of all ages (`lora_A`, `.lora.down`, `processor.to_q_lora`, doubled `unet.unet.`), and
    those of other programs (see `dialects`).

    Args:
        base: digest of the base model in use, compared with the one the file names (see `check_base`).

    Raises:
        UserError: not safetensors, no LoRA of a denoiser in it, numbers that are not finite, or trained on another base model.
    """
    tensors, metadata = read_tensors(path)
    check_base(path, metadata, base)
    tensors = to_diffusers(path, tensors, metadata)
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
        named = adapter.metadata.get("ss_base_model_version") or adapter.metadata.get("modelspec.architecture")
        made_for = f"It says it was trained on {named}" if named else "It was trained on another model"
        raise UserError(f"{adapter.source} does not fit this base model: layer {name} {why}. {made_for}")


class FusedAdapter:
    """A plain adapter added to the denoiser's weights: no cost per step. The originals are put back bit for bit.

    In half precision it is added to the weights as the model's file has them, and the sum is rounded once: a product smaller than
    a rounding step still moves its share of the numbers to their neighbours, as it would not if it were added to rounded ones.

    Args:
        adapter: a plain adapter that fits (see `check_fits`).
    """

    def __init__(self, backbone: Backbone, adapter: Adapter):
        self.originals: dict[nn.Parameter, torch.Tensor] = {}
        modules, exact = dict(backbone.denoiser.named_modules()), {}
        if backbone.dtype != torch.float32:
            names = [f"{name}.weight" for name in adapter.down]
            exact = stored_tensors(backbone.folder / backbone.part, names, backbone.variant)
        for name in adapter.down:
            weight = modules[name].weight
            down, up = (part[name].float().to(weight.device) for part in (adapter.down, adapter.up))
            self.originals[weight] = weight.data.clone()
            whole = exact.get(f"{name}.weight", weight.data).to(weight.device, torch.float32)
            weight.data.copy_(whole + (up.flatten(1) @ down.flatten(1)).reshape(weight.shape))

    def remove(self) -> None:
        """Take the adapter off; the denoiser is as it was."""
        for weight, original in self.originals.items():
            weight.data.copy_(original)


class LoadedAdapter:
    """An adapter of any kind (DoRA, text encoder), put beside the layers by diffusers' own loader."""

    def __init__(self, backbone: Backbone, adapter: Adapter):
        from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

        self.backbone, tensors = backbone, adapter.tensors
        if adapter.is_plain:  # whatever the file's dialect
            ends = (("lora_A", adapter.down), ("lora_B", adapter.up))
            tensors = {f"{backbone.part}.{n}.{end}.weight": v for end, part in ends for n, v in part.items()}
        try:
            backbone.denoiser.load_lora_adapter(dict(tensors), prefix=backbone.part, adapter_name="cgddi")
            for part, encoder in backbone.parts_of_text():
                if any(name.startswith(f"{part}.") for name in tensors):
                    Loader.load_lora_into_text_encoder(dict(tensors), None, encoder, prefix=part, adapter_name="cgddi")
                    self._check_text(part, encoder, tensors)
                    texts = {name: value for name, value in tensors.items() if name.startswith("text")}
                    backbone.text_adapter = sha256(to_bytes(texts))
        except (RuntimeError, ValueError, KeyError, IndexError) as error:  # what peft raises for sizes that do not fit
            why = " ".join(str(error).split())[:300]
            raise UserError(f"{adapter.source} does not fit this base model: {why}") from error

    @staticmethod
    def _check_text(part: str, encoder: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        """transformers leaves out, with a warning only, what it has no layer for."""
        wanted = sum(name.startswith(f"{part}.") and _DOWN.search(name) is not None for name in tensors)
        found = sum(".lora_A." in name for name, _ in encoder.named_parameters())
        if found != wanted:
            raise ValueError(f"{part} takes {found} of its {wanted} layers")

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


def apply(backbone: Backbone, adapter: Adapter) -> FusedAdapter | LoadedAdapter:
    """Put an adapter on a model; `remove()` of what comes back takes it off.

    Raises:
        UserError: the adapter names layers that this model has not, or has in other sizes.
    """
    check_fits(backbone.denoiser, adapter)
    if adapter.is_plain:
        return FusedAdapter(backbone, adapter)
    return LoadedAdapter(backbone, adapter)
