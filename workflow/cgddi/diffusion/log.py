"""What a run shows while it trains, and what it leaves about itself beside its result."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgddi.core.archive import DISTRIBUTIONS, canonical, installed_versions, sha256, write_atomic
from cgddi.job.trackers import start_trackers, trackers

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker


def engine_options(parser: argparse.ArgumentParser) -> None:
    """Options of every diffusion stage."""
    parser.add_argument("--cache", type=Path, help="folder of latents and text embeddings, shared by all jobs")
    parser.add_argument(
        "--metrics", type=Path, help="JSON lines file on what the job used (time, memory); training logs go beside it"
    )


def logs_beside(metrics: Path | None) -> Path | None:
    """Where a run's logs go: beside the file of `--metrics`, by its name."""
    return metrics and metrics.with_name(metrics.name.removesuffix(".jsonl").removesuffix(".metrics"))


class TrainingLog:
    """`NAME.training.jsonl`, accelerate's trackers (TensorBoard events in `NAME.tensorboard`; see `job.trackers`), and pictures.

    Args:
        accelerator: of the run; its main process writes.
        base: NAME, a path without suffix, in the log folder; None keeps nothing.
    """

    def __init__(self, accelerator: Accelerator, base: Path | None):
        self.accelerator, self.base = accelerator, base if accelerator.is_main_process else None
        if self.base is not None:
            self.base.parent.mkdir(parents=True, exist_ok=True)
            self.path("training.jsonl").unlink(missing_ok=True)
            shutil.rmtree(self.path("tensorboard"), ignore_errors=True)
        if base is not None:
            start_trackers(accelerator)

    @staticmethod
    def trackers(base: Path | None) -> list[GeneralTracker]:
        """What the accelerator of a run with that NAME reports to."""
        return trackers(base and base.with_name(f"{base.name}.tensorboard"))

    def path(self, suffix: str) -> Path:
        """A file of this run."""
        return self.base.with_name(f"{self.base.name}.{suffix}")

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Add one line: `step` and numbers."""
        if self.base is not None:
            with open(self.path("training.jsonl"), "a") as log:
                log.write(json.dumps(line) + "\n")
        self.accelerator.log({name: value for name, value in line.items() if name != "step"}, step=line["step"])

    def close(self) -> None:
        """Close the trackers."""
        self.accelerator.end_training()


def write_history(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write `metrics.jsonl` of a finished run beside its result: equal runs give equal bytes."""
    write_atomic(folder / "metrics.jsonl", "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


def header(spec: Mapping[str, Any], data: Sequence[Any], **facts: Any) -> dict[str, str]:
    """Text facts for a weights file's header, each as JSON.

    Args:
        data: all of the images that the training depended on (see `training_facts`), of which `data_sha256` is.
        facts: what else explains the file.
    """
    planned = getattr(spec, "planned", spec)
    kept = {name: planned.get(name) for name in ("stage", "settings", "seed", "concept", "model")}
    kept["versions"] = installed_versions(DISTRIBUTIONS)
    kept["data_sha256"] = sha256(canonical(data))
    kept |= facts
    return {f"cgddi.{name}": json.dumps(value, sort_keys=True) for name, value in kept.items()}
