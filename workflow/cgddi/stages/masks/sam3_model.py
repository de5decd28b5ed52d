"""SAM 3 from a local folder or the hub: weights from safetensors only, and errors that name the remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Sam3Model, Sam3Processor

from cgddi.core.errors import UserError

TYPES = ("sam3", "sam3_video")
"""Model types whose folders hold SAM 3's detector; the published one also holds the video tracker, which is left out."""


def load_sam3(model: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> tuple[Sam3Model, Sam3Processor]:
    """SAM 3 in evaluation mode, and its processor.

    Args:
        model: {"source": folder or hub id, "revision": commit or tag or None, "variant": weights variant or None}.
        dtype: precision of the weights.
        device: where to run.

    Raises:
        UserError: the hub did not give it (gated, offline, no such id), it is another model, or its weights are not whole.
    """
    source, revision = str(model["source"]), model.get("revision")
    folder = Path(source).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        source, revision = str(folder), None
    elif source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(
            f"models.sam3: {source!r} is no folder. Download SAM 3 there (`hf download facebook/sam3 --local-dir FOLDER`), or "
            "name the hub id owner/name."
        )
    try:
        loaded, info = Sam3Model.from_pretrained(
            source,
            revision=revision,
            variant=model.get("variant"),
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
        processor = Sam3Processor.from_pretrained(source, revision=revision)
    except Exception as error:  # the hub client and the loader raise some ten kinds
        raise UserError(_remedy(source, revision, error)) from error
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise UserError(
            f"models.sam3: {source} lacks {len(lacking)} of SAM 3's weights (first: {lacking[0]}). It is another model or "
            "not whole; fetch it again."
        )
    return loaded.to(device).eval(), processor


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{config}: cannot be read ({error}). Name the folder that holds SAM 3's config.json, as "
            "`hf download facebook/sam3` writes it."
        ) from error
    if kind not in TYPES:
        raise UserError(f"{folder}: is a {kind} model, not SAM 3. Name SAM 3's folder in models.sam3.")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder}: no .safetensors file; other weight files are not loaded. Download SAM 3's model.safetensors."
        )


def _remedy(source: str, revision: str | None, error: Exception) -> str:
    chain, text = error, ""
    while chain is not None:
        text += f" {type(chain).__name__} {chain}"
        chain = chain.__cause__ or chain.__context__
    short = " ".join(str(error).split())[:300]
    if "gated" in text.lower() or "401" in text or "403" in text:
        return (
            f"models.sam3: {source} is gated and this machine has no access ({short}). Accept its licence on its page on the "
            "hub and log in with `hf auth login`; or download it elsewhere (`hf download facebook/sam3 --local-dir FOLDER`) and "
            "name the folder in models.sam3.source."
        )
    if Path(source).is_dir():
        return f"models.sam3: {source} cannot be loaded as SAM 3 ({short}). Fetch the folder again."
    return (
        f"models.sam3: the hub did not give {source} (revision {revision}): {short}. Without internet, download it elsewhere "
        "(`hf download facebook/sam3 --local-dir FOLDER`) and name the folder in models.sam3.source; else check id and revision."
    )
