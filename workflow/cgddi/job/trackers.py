"""Where trainings report to, by accelerate's trackers: TensorBoard's files beside the logs, and Weights & Biases where the
config says so (key `wandb`)."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cgddi.core.errors import UserError
from cgddi.job import gpu

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

WANDB = "CGDDI_WANDB"
"""Variable that tells jobs the project (config key `wandb`); it changes no result, so it stands in no spec."""


def wandb_missing(project: str | None) -> str | None:
    """What to do where a project is named and the library is not installed; None where nothing is to be done."""
    if project and importlib.util.find_spec("wandb") is None:
        return "Install it into the environment: pip install -e '.[wandb]'. Or take the key `wandb` out of the config."
    return None


def trackers(folder: Path | None) -> list[GeneralTracker]:
    """Trackers of a training.

    Args:
        folder: for TensorBoard's events, `<results>/logs/<stage>/.../NAME.tensorboard`; the path below `logs` is the run's name on
            W&B, its stage the group. None: the training reports to nobody.

    Raises:
        UserError: W&B is asked for and not installed.
    """
    if folder is None:
        return []
    from accelerate.tracking import TensorBoardTracker, WandBTracker
    from accelerate.utils import is_tensorboard_available

    found: list[GeneralTracker] = []
    if is_tensorboard_available():
        found.append(TensorBoardTracker(folder.name, folder.parent))
    if project := os.environ.get(WANDB):
        if remedy := wandb_missing(project):
            raise UserError(f"wandb names project {project!r}, and the library is not installed. {remedy}")
        os.environ.setdefault("WANDB_SILENT", "true")  # its farewell would be the last words of the job's log
        parts = folder.with_suffix("").parts
        below = parts[len(parts) - parts[::-1].index("logs") :] if "logs" in parts else parts[-1:]
        found.append(WandBTracker(project, name="/".join(below), group=below[0], dir=str(folder.parent)))
    return found


def reporting(metrics: str | Path | None, precision: str = "fp32") -> Accelerator:
    """Device, precision, gradient scaling and processes of a network's training.

    What its accelerator logs goes beside the file of `--metrics`, NAME.metrics.jsonl, to NAME.tensorboard.

    Curves that an earlier try left there are removed.

    Args:
        metrics: None reports to nobody.

    Raises:
        UserError: as `trackers`, `start_trackers` and `gpu.mixed_precision`.
    """
    import torch
    from accelerate import Accelerator

    board = metrics and Path(str(metrics).removesuffix(".jsonl").removesuffix(".metrics") + ".tensorboard")
    if board and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        shutil.rmtree(board, ignore_errors=True)
    # Without a GPU accelerate joins processes only where it is told to keep to the CPU.
    cpu = not torch.cuda.is_available()
    mixed = gpu.mixed_precision(precision, torch, cpu)
    accelerator = Accelerator(cpu=cpu, mixed_precision=mixed, log_with=trackers(board or None))
    if board:
        start_trackers(accelerator)
    return accelerator


def start_trackers(accelerator: Accelerator) -> None:
    """Begin to report.

    Raises:
        UserError: W&B does not take the run (no login, no network), before any work is done.
    """
    try:
        accelerator.init_trackers("")
    except Exception as error:
        if os.environ.get(WANDB) is None or not type(error).__module__.startswith("wandb"):
            raise
        raise UserError(
            f"wandb: {str(error).splitlines()[0]}. Run `wandb login`; on nodes without network set WANDB_MODE=offline and "
            "`wandb sync` the files later; or take the key `wandb` out of the config."
        ) from error
