"""Backbones through timm, with weights from the hub or its cache, a local file, or random."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file

from cgddi.artefacts import file_sha256
from cgddi.errors import UserError

HUB = r"hub(@[\w.-]+)?"
"""Values of `weights` that mean timm's pretrained weights, of the newest or of one revision."""


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
    options: dict[str, Any] = {"img_size": image_size} if _fixed_grid(name) else {}
    if re.fullmatch(HUB, weights):
        return _from_hub(name, weights.partition("@")[2] or None, options)
    model = timm.create_model(name, pretrained=False, num_classes=0, **options)
    facts = {"backbone": name, "weights": weights}
    if weights != "random":
        load_weights(model, weights, f"backbone {name}", ignored=_classifier(model))
        facts["weights_sha256"] = file_sha256(weights)
    return model, facts


def _from_hub(name: str, revision: str | None, options: dict[str, Any]) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A backbone with timm's pretrained weights, from the hub or its cache, safetensors only and every tensor of them."""
    config = timm.get_pretrained_cfg(name)
    repository = getattr(config, "hf_hub_id", None)
    if not repository:
        raise UserError(
            f"timm has no pretrained weights of {name} on the hub: give `weights` a .safetensors file or `random`."
        )
    file = (config.hf_hub_filename or "model.safetensors").removesuffix(".bin").removesuffix(
        ".safetensors"
    ) + ".safetensors"
    overlay = {"hf_hub_id": f"{repository}@{revision}" if revision else repository, "hf_hub_filename": file}
    try:
        # With its own classifier timm loads strictly; without one, a missing tensor would stay random and nobody would know.
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except Exception as error:  # timm, huggingface_hub and requests each raise their own
        raise UserError(
            f"pretrained weights of {name} cannot be had from {overlay['hf_hub_id']} ({type(error).__name__}: {str(error)[:300]}). "
            f"Download {file} once with the hub reachable, or give `weights` a local .safetensors file or `random`."
        ) from error
    model.reset_classifier(0)
    facts = {"backbone": name, "weights": "hub", "repository": repository}
    found = try_to_load_from_cache(repository, file, revision=revision)
    if isinstance(found, str):
        facts |= {"revision": Path(found).parent.name, "weights_sha256": file_sha256(found)}
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
