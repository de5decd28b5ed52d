"""A content-addressed store of tensors shared by all jobs: latents and text embeddings are computed once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cgddi.core.archive import canonical, installed_versions, sha256
from cgddi.core.errors import UserError
from cgddi.diffusion.weights import read_checksummed, write_checksummed

VERSIONS = ("torch", "diffusers", "transformers", "tokenizers", "pillow", "numpy")
"""Distributions whose version can change latents and text embeddings."""

DAY = 86400.0


@cache
def _versions() -> dict[str, str]:
    return installed_versions(VERSIONS)


class Store:
    """Tensors by what they were computed from, and by the versions of the libraries that computed them.

    Safe under concurrent jobs: an entry is written to a temporary name and renamed, and equal keys hold equal bytes. An entry that
    is cut or changed (its checksum tells) counts as absent and is made again. A folder that cannot be written or read costs time,
    never the job: a line on stderr says so once.

    Args:
        root: the folder; None keeps nothing on disk.
    """

    def __init__(self, root: str | Path | None):
        self.root = Path(root) if root else None
        self.hits = self.misses = 0
        self._warned = self._tidied = False

    def path(self, kind: str, facts: Any) -> Path | None:
        """Where the tensors computed from `facts` lie (None without a root)."""
        key = sha256(canonical([kind, facts, _versions()]))
        return self.root / kind / key[:2] / f"{key}.safetensors" if self.root else None

    def get(self, kind: str, facts: Any, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors for `facts`, from disk or computed now.

        Args:
            kind: "latents", "prompts", ...: a folder of the store.
            facts: everything the result depends on besides `VERSIONS`, as JSON values.
            compute: makes the tensors (on the CPU, float32) when they are not there.
        """
        path = self.path(kind, facts)
        kept = self._read(path) if path else None
        if kept is not None:
            self.hits += 1
            return kept
        self.misses += 1
        tensors = compute()
        if path:
            self._write(path, tensors)
        return tensors

    def _read(self, path: Path) -> dict[str, torch.Tensor] | None:
        try:
            tensors, key = read_checksummed(path)
        except UserError:
            return None
        return tensors if key == path.stem else None

    def _write(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        try:
            self._tidy()
            write_checksummed(path, tensors, path.stem, alone=False)
        except OSError as error:
            self._warn(error)

    def _tidy(self) -> None:
        """Once per job: remove what killed jobs left half written. Others may be writing now, so only what is a day old."""
        if self._tidied:
            return
        self._tidied = True
        for left in self.root.glob("*/*/.*.tmp"):
            if left.stat().st_mtime < time.time() - DAY:
                left.unlink(missing_ok=True)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            tqdm.write(f"cache {self.root}: {error.strerror or error}; going on without it", file=sys.stderr)
