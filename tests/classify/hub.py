"""A Hugging Face cache in its true layout with random weights of a true architecture, so that `weights: hub` works offline."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

COMMIT = "c0ffee" + "0" * 34


def cached(cache: Path, name: str, state: dict | None = None, filename: str = "model.safetensors") -> Path:
    """Put weights of timm's `name` (or `state`) where hf_hub_download would have put them; returns the blob's path."""
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    folder = cache / ("models--" + repository.replace("/", "--"))
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
    if state is None:
        torch.manual_seed(5)
        state = timm.create_model(name, pretrained=False).state_dict()
    new = folder / "blobs/new"
    save_file({key: value.contiguous() for key, value in state.items()}, new)
    with open(new, "rb") as handle:
        blob = folder / "blobs" / hashlib.file_digest(handle, "sha256").hexdigest()
    new.rename(blob)
    (folder / "refs/main").write_text(COMMIT)
    link = folder / "snapshots" / COMMIT / filename
    link.unlink(missing_ok=True)
    os.symlink(os.path.relpath(blob, link.parent), link)
    return blob
