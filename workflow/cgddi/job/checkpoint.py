"""Checkpoints of a training run: one safetensors file, replaced atomically, named by everything the run depends on.

A loop that can be taken up again at its every turn is written so:

    state = checkpoint.take_up() or the state at the start
    with checkpoint.kept(lambda: state) as look:
        while there is work:
            a turn
            look()    # now and then, and when SIGTERM asks for it, the state is written; on SIGTERM the loop ends here
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cgddi.core.archive import canonical, sha256
from cgddi.core.errors import UserError
from cgddi.diffusion.weights import read_checksummed, write_checksummed

SECONDS = 60.0
"""A loop's state is written after so long, not at every turn: a classifier's is some 200 MB."""


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

    # ---- any state, now and then

    def take_up(self) -> Any:
        """The last whole state that `kept` wrote, on the CPU; None where there is none."""
        saved = self.load(needed=("state",))
        return None if saved is None else _unpack(saved[1]["state"], saved[0])

    @contextmanager
    def kept(
        self, state: Callable[[], Any], seconds: float | None = None, at_once: bool = False
    ) -> Iterator[Callable[[], None]]:
        """Keep a loop's state: gives `look`, to be called whenever the state could be taken up.

        Args:
            state: what the loop needs to go on: numbers, texts, tensors, and lists and dicts of them.
            seconds: how often it is written; by default `SECONDS`.
            at_once: leave on SIGTERM without another state: one of several processes cannot know that the others stop at its turn.

        Raises:
            Terminated: from `look`, when SIGTERM came; the state is written.
        """
        with exit_on_sigterm() if at_once else Termination() as termination:
            written = time.monotonic()

            def look() -> None:
                nonlocal written
                leave = termination is not None and termination.asked
                if leave or time.monotonic() - written >= (SECONDS if seconds is None else seconds):
                    if self.path:
                        tensors: dict[str, torch.Tensor] = {}
                        packed = _pack(state(), tensors)
                        self.save(tensors, {"state": packed})
                    written = time.monotonic()
                if leave:
                    raise Terminated

            yield look

    def remove(self) -> None:
        """After success: remove this run's checkpoints, those of the stage that belong to earlier settings or data, and what kills
        left of them."""
        if self.path:
            for form in (f"{self.stage}-*.safetensors", f"previous-{self.stage}-*.safetensors", f".{self.stage}-*.tmp"):
                for old in self.path.parent.glob(form):
                    old.unlink(missing_ok=True)


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """A state as JSON, its tensors put aside by number."""
    if isinstance(value, torch.Tensor):
        tensors[name := f"{len(tensors):06d}"] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, tensors) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "float" in value:
        return float(value["float"])
    return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["items"]}


def random_state() -> dict[str, torch.Tensor]:
    """State of torch's global generators: the CPU's, and that of the GPU in use."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def generator_states(generators: Sequence[torch.Generator]) -> list[torch.Tensor]:
    """States of a run's own generators."""
    return [generator.get_state() for generator in generators]


def restore_generators(generators: Sequence[torch.Generator], states: Sequence[torch.Tensor]) -> None:
    """Set a run's own generators to states of `generator_states`."""
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def restore_random(state: Mapping[str, torch.Tensor]) -> None:
    """Set torch's global generators to a state of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimizer's state, each tensor laid out in memory as its parameter is: fused steps walk through both alike."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in optimizer.state[parameter].items():
                if value.ndim and value.shape == parameter.shape:
                    optimizer.state[parameter][name] = torch.empty_like(parameter.data).copy_(value)


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
