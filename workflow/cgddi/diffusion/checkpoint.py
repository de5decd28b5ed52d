"""Checkpoints of a training run: one safetensors file, replaced atomically, named by everything the run depends on."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cgddi.core.archive import canonical, sha256
from cgddi.core.errors import UserError
from cgddi.diffusion.weights import read_checksummed, write_checksummed


class Checkpoint:
    """The latest state of one run, and the one before it in case the latest is damaged.

    Args:
        folder: kept outside the declared outputs, one per job; None keeps no checkpoints.
        stage: prefix of the file name.
        facts: data hashes, settings, versions: another value means another run, which never sees this one's state.
    """

    def __init__(self, folder: str | Path | None, stage: str, facts: Any):
        self.key = sha256(canonical(facts))
        self.path = Path(folder) / f"{stage}-{self.key[:20]}.safetensors" if folder else None
        self.stage = stage
        self._warned = False

    @property
    def _previous(self) -> Path:
        return self.path.with_name(f"previous-{self.path.name}")

    def save(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the checkpoint; a kill at any moment leaves one. A folder that cannot be written does not stop the run."""
        if not self.path:
            return
        try:
            if self.path.is_file():
                os.replace(self.path, self._previous)
            write_checksummed(self.path, tensors, canonical(dict(facts)))
        except OSError as error:
            if not self._warned:
                self._warned = True
                why = f"{error.strerror or error}; if this run is stopped, its steps since the last one are lost"
                tqdm.write(f"checkpoint {self.path} cannot be written: {why}", file=sys.stderr)

    def load(self, needed: Collection[str] = ()) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The last whole state, or None.

        A damaged file (its checksum tells), or one without the facts `needed`, counts as none and is named on stderr; the run
        then goes on from an earlier state and gives the same result.
        """
        for path in (self.path, self._previous) if self.path else ():
            if not path.exists():
                continue
            try:
                tensors, text = read_checksummed(path)
                facts = json.loads(text)
                if not set(needed) <= set(facts):
                    raise UserError(f"it does not say {', '.join(sorted(set(needed) - set(facts)))}")
                return tensors, facts
            except (UserError, json.JSONDecodeError):
                tqdm.write(f"checkpoint {path} is damaged and not used", file=sys.stderr)
        return None

    def remove(self) -> None:
        """After success: remove this run's checkpoints, those of the stage that belong to earlier settings or data, and what kills
        left of them."""
        if self.path:
            for form in (f"{self.stage}-*.safetensors", f"previous-{self.stage}-*.safetensors", f".{self.stage}-*.tmp"):
                for old in self.path.parent.glob(form):
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


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM raises `Terminated` at once: for phases that need not save anything, around loops that have a `Termination`.

    Also usable as a decorator. Files under way are cleared by their writers, and the exit status is 143.
    """

    def leave(*_: Any) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
