"""Backbones through timm, with weights from the hub or its cache, a local file, or random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cgddi.core.archive import file_sha256
from cgddi.core.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's normalisation, which timm's pretrained backbones expect."""


def create_backbone(name: str, weights: str, image_size: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A timm model without its classifier.

    Args:
        name: timm's name of the architecture, e.g. "resnet18" or "vit_base_patch16_224.augreg_in21k".
        weights: "hub", "hub@COMMIT", "random" or the path of a .safetensors file.
        image_size: side of its input in pixels; transformers with a fixed grid are built for it.

    Returns:
        The model ((N, 3, image_size, image_size) -> (N, num_features)) and facts for the record.

    Raises:
        UserError: timm does not know the name, the hub cannot be reached, or the file belongs to another architecture.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        raise UserError(f"timm has no backbone {name!r}. Close names: {', '.join(close) or 'none'}.")
    options: dict[str, Any] = {"num_classes": 0}
    if _fixed_grid(name):
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
        load_weights(model, weights, f"backbone {name}", ignored=_classifier(model))
        facts["weights_sha256"] = file_sha256(weights)
    return model, facts


def _fixed_grid(name: str) -> bool:
    return timm.is_model(name) and timm.model_entrypoint(name).__module__.endswith(
        ("vision_transformer", "deit", "beit", "eva")
    )


def _classifier(model: torch.nn.Module) -> tuple[str, ...]:
    names = model.default_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def load_weights(model: torch.nn.Module, path: str | Path, what: str, ignored: tuple[str, ...] = ()) -> None:
    """Load a .safetensors file into a model, wholly or not at all.

    Args:
        model: what the weights are for.
        path: the file.
        what: how the error names the model.
        ignored: prefixes of tensors in the file that the model need not have (a classifier).

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
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{name}." for name in ignored))}
    wanted = model.state_dict()
    wrong = [f"{key} is missing" for key in wanted if key not in state]
    wrong += [f"{key} is not part of it" for key in state if key not in wanted]
    wrong += [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    if wrong:
        raise UserError(
            f"weights {path} are of another architecture than {what}: {len(wrong)} tensor(s) differ, e.g. {wrong[0]}. "
            "Give the weights of the same backbone, method and classes."
        )
    bad = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise UserError(f"weights {path}: tensor {bad[0]} holds NaN or infinite values. Train or download them again.")
    model.load_state_dict(state)
