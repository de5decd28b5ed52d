"""Names and scales of LoRA files by other programs, brought to diffusers' names with alpha / r multiplied into the up matrices.

kohya's sd-scripts and OneTrainer write `lora_unet_down_blocks_0_...lora_down.weight` with an `.alpha` beside it. peft's
`save_pretrained` writes `base_model.model.down_blocks.0...lora_A.weight` and keeps alpha in adapter_config.json. diffusers since
0.34 keeps it in the file's header.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from cgddi.core.errors import UserError

UP = re.compile(r"(lora_B(\.default)?|up)\.weight$")
KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
PEFT = "base_model.model."
KOHYA_TEXT = re.compile(
    r"lora_te(?P<number>[12]?)_text_model_encoder_layers_(?P<layer>\d+)_(?P<block>self_attn|mlp)_(?P<name>\w+)"
    r"\.lora_(?P<way>down|up)\.weight"
)
SDXL_BLOCKS = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_")
"""kohya names SDXL's blocks as its authors' own code does."""
HEADER = "lora_adapter_metadata"
"""Where diffusers keeps the LoraConfig of each part, in the header of its files."""


def to_diffusers(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Tensors of an adapter file under diffusers' names, of which any reader with alpha = r makes the right adapter.

    Args:
        path: the file, for messages and for what lies beside it.

    Raises:
        UserError: names that nobody's LoRA has, or peft's without the alpha.
    """
    tensors = _without_alphas(path, tensors)
    if any(name.startswith(KOHYA) for name in tensors):
        return _from_kohya(path, tensors)
    if any(name.startswith(PEFT) for name in tensors):
        config = _peft_config(Path(path))
        bare = {name.removeprefix(PEFT).removeprefix("unet."): value for name, value in tensors.items()}
        return _scaled({f"unet.{name}": value for name, value in bare.items()}, {"unet.": config})
    if HEADER in metadata:
        return _scaled(tensors, _header_configs(path, metadata[HEADER]))
    return tensors


def _without_alphas(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors with each layer's alpha / r multiplied into its up matrix, whatever part the layer belongs to."""
    kept = {name: value for name, value in tensors.items() if not name.endswith(".alpha")}
    for name in sorted(tensors.keys() - kept.keys()):
        ups = [n for n in kept if n.startswith(name.removesuffix("alpha")) and UP.search(n)]
        if len(ups) != 1 or kept[ups[0]].ndim < 2 or tensors[name].numel() != 1:
            raise UserError(f"{path}: {name} is no alpha of a LoRA layer in this file. Is the file whole?")
        kept[ups[0]] = kept[ups[0]] * (float(tensors[name]) / kept[ups[0]].shape[1])
    return kept


def _from_kohya(path: str | Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """kohya's and OneTrainer's names; those of the denoiser by diffusers' own table, whose names of text encoders nothing loads."""
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

    texts, strange = {}, sorted(name for name in tensors if not name.startswith(KOHYA))
    for name in list(tensors):
        if match := KOHYA_TEXT.fullmatch(name):
            part = "text_encoder_2" if match["number"] == "2" else "text_encoder"
            layer = f"{part}.text_model.encoder.layers.{match['layer']}.{match['block']}.{match['name']}"
            texts[f"{layer}.lora_{'A' if match['way'] == 'down' else 'B'}.weight"] = tensors.pop(name)
    sdxl = any(map(SDXL_BLOCKS.match, tensors))
    try:
        if strange:
            raise ValueError(strange[0])
        named, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
            dict(tensors), unet_config=SimpleNamespace(layers_per_block=2) if sdxl else None
        )
    except (ValueError, KeyError, IndexError) as error:  # a key it has no name for, a down matrix without its up
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: is of kohya's or OneTrainer's kind, but not all of it can be read ({why}). Save it again as a plain LoRA "
            "(no LyCORIS kinds, no bundled embeddings)."
        ) from error
    return {**named, **texts}


def _peft_config(path: Path) -> dict[str, Any]:
    beside = path.with_name("adapter_config.json")
    try:
        return json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: written by peft, which keeps the adapter's alpha in {beside.name} beside it; that cannot be read. "
            "Put it there."
        ) from error


def _header_configs(path: str | Path, text: str) -> dict[str, dict[str, Any]]:
    """Part (`unet`, `text_encoder`) -> its LoraConfig, from diffusers' header: {"unet.r": 8, "unet.lora_alpha": 16, ...}."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for name, value in json.loads(text).items():
            part, _, key = name.partition(".")
            found.setdefault(f"{part}.", {})[key] = value
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: its header ({HEADER}) cannot be read ({error}). Is the file whole?") from error
    return found


def _scaled(tensors: Mapping[str, torch.Tensor], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Up matrices times the scale of peft's LoraConfig: alpha / r, or alpha / sqrt(r) with `use_rslora` (Kalajdzievski 2023).

    Args:
        configs: beginning of a name -> the config of the layers so named.
    """
    from peft.utils.other import get_pattern_key

    found = dict(tensors)
    for part, config in configs.items():
        if config.get("lora_alpha") is None:
            continue
        patterns = config.get("alpha_pattern") or {}
        for name in tensors:
            if not (name.startswith(part) and UP.search(name)):
                continue
            layer = re.split(r"\.lora(?:_[AB]|\.|_)", name.removeprefix(part))[0]
            alpha = patterns.get(get_pattern_key(patterns, layer), config["lora_alpha"])
            rank = tensors[name].shape[1]
            found[name] = tensors[name] * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    return found
