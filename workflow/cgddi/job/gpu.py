"""What can be wrong between a job and its GPU, told before the work starts or where memory ends."""

import os
from typing import Any

from cgddi.core.errors import UserError
from cgddi.job import lease

HIDE = "To compute on the CPU on purpose, give the rule no GPU: `--set-resources RULE:gpu=0`."

SMALLER = {
    "embedding": "lower `embedding.batch` and raise `embedding.accumulation` by the same factor: a step's images stay the same",
    "lora": "raise `lora.accumulation`: a step's images stay the same",
    "semantic": "lower `semantic.batch`",
    "healthy": "lower `healthy.batch_size`",
    "masks": "lower `masks.sam3.batch_size`",
    "classify": "lower `classify.training.batch_size`",
    "fedd_features": "lower `fedd.features.batch`",
    "fedd_segmenter": "lower `fedd.segmenter.batch_pixels`",
    "fedd_baseline": "lower `fedd.baselines.batch_size`",
}
"""The key that makes a stage's jobs need less memory of a GPU."""


def send(tensor: Any, device: Any) -> Any:
    """A tensor on a device; to a GPU from pinned memory: a copy from any other waits for all that the GPU has to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def given() -> list[str]:
    """The GPUs that this job asked for and got (`cgddi --gpus N`); empty on a node without one, or where they are hidden."""
    return [name for name, _ in lease.pool()] if os.environ.get(lease.ASKED, "0") != "0" else []


def check(torch: Any) -> None:
    """Compare what a job was given with what torch sees.

    Raises:
        UserError: it was given a GPU and torch sees none, or has no kernels for it.
    """
    if torch.cuda.is_available():
        card, built = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
        if not runs_on(card, built):
            raise UserError(
                f"{torch.cuda.get_device_name()} (capability {card[0]}.{card[1]}) is not among those this torch was built for "
                f"({' '.join(built)}). Install a build of torch {torch.__version__.split('+')[0]} for this card. {HIDE}"
            )
    elif names := given():
        wheel = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a build without CUDA"
        remedy = (
            "Update the driver, or install a torch built for an older CUDA"
            if torch.version.cuda
            else "Install one with it"
        )
        raise UserError(
            f"this job was given GPU {', '.join(names)}, but torch sees none: torch {torch.__version__} {wheel}"
            f"{_driver()}. {remedy}. {HIDE}"
        )


def runs_on(card: tuple[int, int], built: list[str]) -> bool:
    """Whether a build of torch has kernels for a card.

    Args:
        card: its compute capability, (major, minor).
        built: `torch.cuda.get_arch_list()`: sm_XY runs on X.Y and later minors of X, compute_XY is compiled for any later card.
    """
    for name in built:
        kind, _, number = name.partition("_")
        digits = "".join(filter(str.isdigit, number))
        major, minor = int(digits[:-1]), int(digits[-1])
        if (kind == "compute" and (major, minor) <= card) or (major == card[0] and minor <= card[1]):
            return True
    return not built


def _driver() -> str:
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii", errors="replace") as lines:
            words = lines.readline().split()
        return f", the driver is {next(word for word in words if word[:1].isdigit())}"
    except (OSError, StopIteration):
        return ""


def check_precision(precision: str, torch: Any) -> None:
    """Refuse what a card can only imitate, many times slower.

    Raises:
        UserError: bf16 on a card before Ampere (capability 8.0).
    """
    if precision == "bf16" and torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        raise UserError(
            f"precision bf16 is only imitated by {torch.cuda.get_device_name()}, slower than fp32. Set `precision: fp16` (or "
            "fp32) for the whole run, so that all jobs compute alike; `cgddi config --all | grep precision` lists the keys."
        )


def mixed_precision(precision: str, torch: Any, cpu: bool) -> str:
    """accelerate's name of a `Precision`.

    Args:
        cpu: whether the CPU computes.

    Raises:
        UserError: one that the device cannot compute in.
    """
    if not cpu:
        check_precision(precision, torch)
    elif precision == "fp16":
        raise UserError("precision fp16 needs a GPU, and none was found. Use fp32 or bf16, or a node with a GPU.")
    return "no" if precision == "fp32" else precision


def out_of_memory(error: Exception, stage: str) -> UserError:
    """A GPU's memory did not suffice: what was asked for, what is free, and the key to change."""
    text = " ".join(str(error).split()).removeprefix("CUDA out of memory. ")
    facts = ". ".join(part for part in text.split(". ") if part.startswith(("Tried", "GPU", "Of the allocated")))
    remedy = SMALLER.get(stage, "give the job a GPU with more memory")
    return UserError(
        f"the GPU's memory is full. {facts or text[:300]}. To need less, {remedy}; or let fewer jobs share a GPU (`runs_per_gpu`). "
        "Nothing finished is lost: start the workflow again."
    )
