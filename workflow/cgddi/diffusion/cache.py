"""Latents and text embeddings, computed once for all jobs that share a cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from cgddi.diffusion.weights import to_bytes
from cgddi.job.store import MadeStore


class Store:
    """Tensors by what they were computed from, kept as what jobs made is (see `MadeStore`).

    Args:
        root: the cache's folder; None keeps nothing.
    """

    def __init__(self, root: str | Path | None):
        self.root = root
        self._kept: dict[str, MadeStore] = {}

    def get(self, kind: str, facts: Any, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors for `facts`, from disk or computed now.

        Args:
            kind: "latents" or "prompts": a folder of the store.
            facts: everything the result depends on besides versions of libraries, as JSON values.
            compute: makes the tensors (on the CPU, float32) when they are not there.
        """
        if self.root is None:
            return compute()
        kept = self._kept.setdefault(kind, MadeStore(self.root, kind, None))
        if (made := kept.get(facts)) is not None:
            return load(made.files["tensors"])
        tensors = compute()
        kept.put({"tensors": to_bytes(tensors)}, {}, facts)
        return tensors
