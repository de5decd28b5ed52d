"""A content-addressed store of tensors shared by all jobs: latents and text embeddings are computed once."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cgddi.artefacts import canonical, sha256
from cgddi.diffusion.weights import read_tensors, to_bytes
from cgddi.errors import UserError


class Store:
    """Tensors by what they were computed from.

    Safe under concurrent jobs: an entry is written to a temporary name and renamed, equal keys hold equal bytes, and an entry that
    cannot be read (a disk that filled up) counts as absent.

    Args:
        root: the folder; None keeps nothing on disk.
    """

    def __init__(self, root: str | Path | None):
        self.root = Path(root) if root else None
        self.hits = self.misses = 0

    def path(self, kind: str, facts: Any) -> Path | None:
        """Where the tensors computed from `facts` lie (None without a root)."""
        key = sha256(canonical([kind, facts]))
        return self.root / kind / key[:2] / f"{key}.safetensors" if self.root else None

    def get(self, kind: str, facts: Any, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors for `facts`, from disk or computed now.

        Args:
            kind: "latents", "prompts", ...: a folder of the store.
            facts: everything the result depends on, as JSON values.
            compute: makes the tensors (on the CPU, float32) when they are not there.
        """
        path = self.path(kind, facts)
        if path and path.is_file():
            try:
                tensors, _ = read_tensors(path)
                self.hits += 1
                return tensors
            except UserError:
                pass
        self.misses += 1
        tensors = compute()
        if path:
            # A random name: jobs on several nodes may have equal process ids.
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
            temporary.write_bytes(to_bytes(tensors))
            os.replace(temporary, path)
        return tensors
