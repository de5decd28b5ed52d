"""Backbones through timm, with weights from the hub or its cache, a local file, or random."""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cgddi.core.archive import file_sha256
from cgddi.core.errors import UserError
from cgddi.core.weight_files import from_hub

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's normalisation, which timm's pretrained backbones expect."""


@cache
def imagenet(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation, (3, 1, 1): on a GPU a copy per batch would wait for it."""
    return tuple(torch.tensor(values)[:, None, None].to(device) for values in (MEAN, STD))


def known(name: str) -> None:
    """Refuse a network that timm does not know.

    Raises:
        UserError: with close names.
    """
    if not timm.is_model(name):
        close = get_close_matches(name.partition(".")[0], timm.list_models(), n=5)
        raise UserError(f"timm has no backbone {name!r}. Close names: {', '.join(close) or 'none'}.")


def create_backbone(name: str, weights: str, image_size: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A timm model without its classifier.

    Args:
        name: timm's name of the architecture, e.g. "resnet18" or "vit_base_patch16_224.augreg_in21k".
        weights: "hub", "hub@COMMIT", "random"; a .safetensors file (timm's own, or a classifier of ours, of which the backbone is
            taken); a folder or a hub id `owner/name[@COMMIT]` with a model.safetensors.
        image_size: side of its input in pixels; transformers with a fixed grid are built for it.

    Returns:
        The model ((N, 3, image_size, image_size) -> (N, num_features)) and facts for the record.

    Raises:
        UserError: timm does not know the name, the hub cannot be reached, or the file belongs to another architecture.
    """
    known(name)
    options: dict[str, Any] = {"num_classes": 0}
    if timm.model_entrypoint(name).__module__.endswith(FIXED_GRIDS):
        options["img_size"] = image_size
    source, _, commit = weights.partition("@")
    if commit and source == "hub":
        options["pretrained_cfg_overlay"] = {"hf_hub_id": f"{timm.models.get_pretrained_cfg(name).hf_hub_id}@{commit}"}
    try:
        model = timm.create_model(name, pretrained=source == "hub", **options)
    except Exception as error:  # timm, huggingface_hub and requests each raise their own
        if source != "hub":
            raise
        raise UserError(
            f"pretrained weights of {name} cannot be had ({type(error).__name__}: {str(error)[:200]}). Download them once with "
            "the hub reachable, or give `weights` a local .safetensors file or `random`."
        ) from error
    facts = {"backbone": name, "weights": weights}
    if source not in ("hub", "random"):
        path = _weights_file(weights)
        load_weights(model, path, f"backbone {name}", ignored=_classifier(model), part=PART)
        facts["weights_sha256"] = file_sha256(path)
    return model, facts


def _weights_file(weights: str) -> Path:
    """The .safetensors file that weights name, fetched first where it is on the hub."""
    path = Path(weights)
    if path.is_dir():
        return path / "model.safetensors"
    source, _, revision = weights.partition("@")
    if path.suffix == ".safetensors" or source.count("/") != 1 or source.startswith((".", "~")):
        return path
    return from_hub(source, "model.safetensors", revision or None, f"weights {weights}")


PART = "backbone."
"""What the names of a classifier's backbone tensors begin with, before timm's own names."""


FIXED_GRIDS = ("vision_transformer", "deit", "beit", "eva")
"""timm's modules of networks that are made for one size of pictures."""


def _classifier(model: torch.nn.Module) -> tuple[str, ...]:
    names = model.default_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def load_weights(
    model: torch.nn.Module, path: str | Path, what: str, ignored: tuple[str, ...] = (), part: str = ""
) -> None:
    """Load a .safetensors file into a model, wholly or not at all.

    Args:
        ignored: prefixes of tensors in the file that the model need not have (a classifier).
        part: where names in the file begin with this, the tensors so named are the model's, and the others are left out.

    Raises:
        UserError: no such file, not safetensors, or weights of another architecture.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(f"weights {path}: no such .safetensors file. Weights are read from safetensors only.")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise UserError(f"weights {path}: not a safetensors file ({error}).") from error
    if part and any(key.startswith(part) for key in state):
        state = {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{name}." for name in ignored))}
    if wrong := differences(state, model.state_dict()):
        raise UserError(
            f"weights {path} are of another architecture than {what}: {len(wrong)} tensor(s) differ, e.g. {wrong[0]}. "
            "Give the weights of the same backbone, method and classes."
        )
    bad = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise UserError(f"weights {path}: tensor {bad[0]} holds NaN or infinite values. Train or download them again.")
    model.load_state_dict(state)


def differences(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """What tells a file's tensors from those of a network, a few words each; nothing where names and shapes are the same."""
    wrong = [f"{name} is missing" for name in wanted if name not in state]
    wrong += [f"{name} is not part of it" for name in state if name not in wanted]
    return wrong + [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
