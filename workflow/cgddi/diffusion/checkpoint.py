"""Checkpoints of a training run: one safetensors file, replaced atomically, named by everything the run depends on."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cgddi.artefacts import canonical, sha256
from cgddi.diffusion.weights import read_tensors, write_tensors
from cgddi.errors import UserError


class Checkpoint:
    """The latest state of one run.

    Args:
        folder: kept outside the declared outputs; None keeps no checkpoints.
        stage: prefix of the file name.
        facts: data hashes, settings, versions: another value means another run, which never sees this one's state.
    """

    def __init__(self, folder: str | Path | None, stage: str, facts: Any):
        self.key = sha256(canonical(facts))
        self.path = Path(folder) / f"{stage}-{self.key[:20]}.safetensors" if folder else None
        self.stage = stage

    def save(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the checkpoint; a kill at any moment leaves the old one or the new one."""
        if self.path:
            write_tensors(self.path, tensors, {"facts": canonical(dict(facts))})

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The last state, or None. A damaged file counts as none: the run then starts again and gives the same result."""
        if not self.path or not self.path.is_file():
            return None
        try:
            tensors, metadata = read_tensors(self.path)
            return tensors, json.loads(metadata["facts"])
        except (UserError, KeyError, json.JSONDecodeError):
            return None

    def remove(self) -> None:
        """After success: remove this run's checkpoint, and those of the stage that belong to earlier settings or data."""
        if self.path:
            for old in self.path.parent.glob(f"{self.stage}-*.safetensors"):
                old.unlink(missing_ok=True)


class Terminated(SystemExit):
    """SIGTERM arrived and the state was saved; the exit status is the usual 143."""

    def __init__(self):
        super().__init__(143)


class Termination:
    """Turns SIGTERM into a flag for the length of a `with` block, so that a loop can save its state and leave.

    Only the main thread can catch signals; elsewhere (tests, notebooks) the flag stays down.
    """

    def __init__(self):
        self.asked = False

    def __enter__(self) -> Termination:
        try:
            self._before = signal.signal(signal.SIGTERM, self._note)
        except ValueError:
            self._before = None
        return self

    def _note(self, *_: Any) -> None:
        self.asked = True

    def __exit__(self, *_: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
