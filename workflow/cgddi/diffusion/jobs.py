"""What the three stages share at run time: options, prompts with tones and suffixes, metrics files, headers."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cgddi.core.archive import canonical, installed_versions, sha256, write_atomic
from cgddi.core.images import MARKER, RULER
from cgddi.diffusion.photos import Photo


def engine_options(parser: argparse.ArgumentParser) -> None:
    """Options of every diffusion stage."""
    parser.add_argument(
        "--state", type=Path, help="folder of checkpoints, kept apart from results and cleared on success"
    )
    parser.add_argument("--cache", type=Path, help="folder of latents and text embeddings, shared by all jobs")
    parser.add_argument(
        "--metrics", type=Path, help="JSON lines file on what the job used (time, memory); training curves go beside it"
    )


def suffix_of(photo: Photo, settings: Any) -> str:
    """The caption suffix of a photo: ruler, marker or both, where its row or mask shows one."""
    if not settings.suffixes:
        return ""
    ruler, marker = photo.row.get("has_ruler"), photo.row.get("has_marker")
    if photo.mask is not None:
        ruler = bool((photo.mask == RULER).any()) if ruler is None else ruler
        marker = bool((photo.mask == MARKER).any()) if marker is None else marker
    if ruler and marker:
        return settings.both_suffix
    return settings.ruler_suffix if ruler else settings.marker_suffix if marker else ""


def fill_prompt(template: str, token: str, tone: str) -> str:
    """A prompt template (see `check_prompt`) with {token} and {tone} filled in."""
    return template.format(token=token, tone=tone)


class PromptList:
    """Prompts by number, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        """The number of a prompt, new or known."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text)


class Curves:
    """What a run shows while it trains: `NAME.training.jsonl`, TensorBoard events in `NAME.tensorboard` where tensorboard is
    installed, and pictures.

    Args:
        base: NAME, a path without suffix, in the log folder; None keeps nothing.
        concepts: slugs of what is trained together, in order; with several, TensorBoard shows each beside their mean.
    """

    def __init__(self, base: Path | None, concepts: Sequence[str] = ()):
        self.base, self.board, self.concepts = base, None, concepts
        if base is None:
            return
        base.parent.mkdir(parents=True, exist_ok=True)
        self.path("training.jsonl").unlink(missing_ok=True)
        shutil.rmtree(self.path("tensorboard"), ignore_errors=True)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.path("tensorboard")))
        except ImportError:
            pass

    def path(self, suffix: str) -> Path:
        """A file of this run."""
        return self.base.with_name(f"{self.base.name}.{suffix}")

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Add one line."""
        if self.base:
            with open(self.path("training.jsonl"), "a") as log:
                log.write(json.dumps(line) + "\n")
        if self.board:
            self._draw(line, line["step"], "")
            for concept, own in zip(self.concepts, line.get("each", ()), strict=False):
                self._draw(own, line["step"], f"/{concept}")

    def _draw(self, line: Mapping[str, Any], step: int, of: str) -> None:
        for key, value in line.items():
            if key != "step" and isinstance(value, int | float):
                self.board.add_scalar(f"{key}{of}", value, step)

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self.board:
            self.board.close()


def curves_beside(metrics: Path | None) -> Path | None:
    """Where the curves go: beside the file of `--metrics`, by its name."""
    return metrics and metrics.with_name(metrics.name.removesuffix(".jsonl").removesuffix(".metrics"))


def write_history(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `metrics.jsonl` of a finished run beside its result: equal runs give equal bytes."""
    write_atomic(folder / "metrics.jsonl", "".join(json.dumps(line, sort_keys=True) + "\n" for line in history))


def header(spec: Mapping[str, Any], packages: Iterable[str], photos: Sequence[Photo], **facts: Any) -> dict[str, str]:
    """Text facts for a weights file's header, each as JSON.

    Args:
        spec: the job's spec.
        packages: distributions whose installed versions are named.
        photos: all images it was trained on; `data_sha256` is over their pixels, tones, marks and masks.
        facts: what else explains the file.
    """
    kept = {name: spec.get(name) for name in ("stage", "settings", "seed", "concept", "model")}
    kept["versions"] = installed_versions(packages)
    kept["data_sha256"] = sha256(canonical([photo.facts for photo in photos]))
    kept |= facts
    return {f"cgddi.{name}": json.dumps(value, sort_keys=True) for name, value in kept.items()}
