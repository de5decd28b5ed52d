"""Ready adapters before a run: each file is opened and held against the base model's shapes, without its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cgddi.diffusion.adapters import check_fits, read_adapter
from cgddi.diffusion.tokens import read_embedding


@dataclass(frozen=True)
class Shapes:
    """What an adapter must fit: the denoiser, without weights, and the width of each text encoder."""

    denoiser: nn.Module
    widths: tuple[int, ...]

    @staticmethod
    def of(model: Any) -> Shapes | None:
        """Shapes of a base model (`source`, `revision`); None where it is not on this disk."""
        from diffusers import UNet2DConditionModel

        configs = {
            part: _here(model.source, f"{part}/config.json", model.revision) for part in ("unet", "text_encoder")
        }
        if None in configs.values():
            return None
        second = _here(model.source, "text_encoder_2/config.json", model.revision)
        encoders = [configs["text_encoder"], *([second] if second else [])]
        with torch.device("meta"):
            denoiser = UNet2DConditionModel.from_config(json.loads(configs["unet"].read_text(encoding="utf-8")))
        widths = (json.loads(path.read_text(encoding="utf-8"))["hidden_size"] for path in encoders)
        return Shapes(denoiser, tuple(widths))


def look_into(adapter: Any, shapes: Shapes | None) -> bool:
    """Open a given adapter (see `plan.given.GivenAdapter`) and its token; whether both are on this disk.

    Raises:
        UserError: a file that is no adapter or token, or that does not fit the base model.
    """
    names = {"weights": adapter.weights, "embedding": adapter.embedding}
    files: Mapping[str, Path | None] = {
        part: Path(name) if Path(name).is_file() else _here(adapter.source, name, adapter.revision)
        for part, name in names.items()
        if name is not None
    }
    if adapter.is_file:
        files = {**files, "weights": Path(adapter.source)}
    if None in files.values():
        return False
    found = read_adapter(files["weights"])
    if shapes is not None:
        check_fits(shapes.denoiser, found)
    if "embedding" in files:
        read_embedding(files["embedding"], "<given>", widths=shapes.widths if shapes else (), rename=True)
    return True


def _here(source: str, name: str, revision: str | None) -> Path | None:
    """A file of a folder or of the hub's cache; None where it is not there."""
    if Path(source).is_dir():
        path = Path(source, name)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(source, name, revision=revision) if source.count("/") == 1 else None
    except HFValidationError:  # a path; planning says that it is not there
        return None
    return Path(path) if isinstance(path, str) else None
