"""Where a base model lies and what its content is: hub id or local folder, resolved to a folder and hashed."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from cgddi.core.archive import canonical, file_sha256, sha256
from cgddi.core.errors import UserError

COMPONENTS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "unet", "vae")
"""Parts of a Stable Diffusion folder the engine loads; the safety checker and feature extractor are not among them."""

BLOB = re.compile(r"[0-9a-f]{64}")


def resolve(model: Mapping[str, Any]) -> Path:
    """The folder of a base model in diffusers layout, downloaded first when it is a hub id.

    Args:
        model: {"source": folder or hub id, "revision": commit or tag or None, "variant": e.g. "fp16" or None}.

    Raises:
        UserError: the folder is not a diffusers model, or the hub could not give it.
    """
    source = str(model["source"])
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if source.startswith((".", "/", "~")) or source.count("/") != 1:
            raise UserError(f"model source {source!r}: no such folder. Name a diffusers folder or a hub id owner/name.")
        folder = _download(source, model.get("revision"), model.get("variant"))
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder}: no model_index.json, so not a diffusers model folder. Name the folder that holds it."
        )
    return folder


def _download(source: str, revision: str | None, variant: str | None) -> Path:
    from huggingface_hub import snapshot_download

    weights = f"*.{variant}.safetensors" if variant else "*.safetensors"
    patterns = ["model_index.json", *(f"{part}/{end}" for part in COMPONENTS for end in ("*.json", "*.txt", weights))]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub client raises some ten kinds; all mean that the model is not to be had
        raise UserError(
            f"model {source!r} (revision {revision}): the hub did not give it ({error}). "
            "Check the id and revision, log in with `hf auth login`, or download it and name the folder."
        ) from error


def model_index(folder: Path) -> dict[str, Any]:
    """The parsed `model_index.json` of a model folder."""
    try:
        return json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{folder}/model_index.json: not JSON ({error}). Fetch the model again.") from error


def component_digests(folder: Path, variant: str | None = None) -> dict[str, str]:
    """Content hash of each component's files; equal models at different places hash equally.

    Hub snapshots link to blobs named by their SHA-256, which is taken as it is; other files are hashed once per process.

    Args:
        folder: the model folder.
        variant: the weights variant in use; other variants' files are left out.
    """
    digests = {}
    for part in COMPONENTS:
        facts = {}
        for path in sorted((folder / part).glob("*")):
            stem_variant = path.stem.rpartition(".")[2] if "." in path.stem else None
            wrong_variant = (
                path.suffix == ".safetensors" and (stem_variant or None) != variant and "-of-" not in path.stem
            )
            if path.is_file() and path.suffix in (".json", ".txt", ".safetensors") and not wrong_variant:
                facts[path.name] = _content(path)
        if facts:
            digests[part] = sha256(canonical(facts))
    return digests


def _content(path: Path) -> str:
    target = os.path.basename(os.path.realpath(path))
    if path.is_symlink() and BLOB.fullmatch(target):
        return target
    status = path.stat()
    return _hash(str(path.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash(path: str, size: int, changed: int) -> str:
    return file_sha256(path)


def check_base(path: str | Path, metadata: Mapping[str, str], digest: str | None) -> None:
    """Compare the base model that a token or adapter file names in its header with the one in use.

    Args:
        path: the file, for the message.
        metadata: its header; a file of others names no base, and is taken as it is.
        digest: `Backbone.digest` of the model in use; None compares nothing.

    Raises:
        UserError: it was trained on another one.
    """
    named = metadata.get("cgddi.base_sha256")
    if digest and named not in (None, canonical(digest)):
        raise UserError(
            f"{path}: trained on another base model (sha256 {named[1:13]}..., this one's is {digest[:12]}...). "
            "Train it again on this one, or name the model it was trained on."
        )


def combined(digests: Mapping[str, str]) -> str:
    """One hash for a whole model from its components' hashes."""
    return hashlib.sha256(canonical(dict(digests)).encode()).hexdigest()
