"""Finished images of an unfinished job."""

from __future__ import annotations

import shutil
from pathlib import Path

from cgddi.core.archive import sha256, write_atomic


class Partial:
    """One PNG each, written atomically, in a folder named by all the job depends on; its name holds its seed and hash."""

    def __init__(self, state: Path | None, key: str):
        self.folder = state / f"semantic-{key[:20]}" if state else None
        self.state = state

    def get(self, key: str) -> tuple[bytes, int] | None:
        """An image's PNG bytes and the seed that gave it; a damaged file counts as none and goes."""
        for file in self.folder.glob(f"{key}.*.*.png") if self.folder and self.folder.is_dir() else []:
            _, seed, digest, _ = file.name.split(".")
            png = file.read_bytes()
            if sha256(png).startswith(digest):
                return png, int(seed)
            file.unlink()
        return None

    def put(self, key: str, png: bytes, seed: int) -> None:
        """Keep an image."""
        if self.folder:
            write_atomic(self.folder / f"{key}.{seed}.{sha256(png)[:20]}.png", png, alone=False)

    def remove(self) -> None:
        """After success: remove this job's partial work and that of earlier settings, with what a kill left half written."""
        for folder in self.state.glob("semantic-*") if self.state else []:
            shutil.rmtree(folder, ignore_errors=True)
