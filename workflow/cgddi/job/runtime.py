"""Torch at run time: threads, device, determinism and a log of what a job used. Light: torch is imported by `start`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgddi.job import gpu
from cgddi.job.imports import without_gc

if TYPE_CHECKING:
    import torch


def start(threads: int, tf32: bool = True) -> torch.device:
    """Set torch up for one job: threads, deterministic kernels, and the device (CUDA if there is one).

    Args:
        threads: the rule's `threads`; torch would otherwise take every core of a shared node.
        tf32: whether a GPU may round what float32 products multiply to 10 bits, as its convolutions do; many times as fast.

    Raises:
        UserError: the job was given a GPU that torch does not see, or has no kernels for.
    """
    with without_gc():
        import torch

    gpu.check(torch)
    torch.set_num_threads(max(1, threads))
    torch.backends.cudnn.benchmark = False
    # As `use_deterministic_algorithms(True, warn_only=True)`, which would import torch's compiler, a second or two, to tell it too.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # an eighth of a classifier's step; nothing reads such memory
    )
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    return torch.device("cuda")


def torch_dtype(precision: str) -> torch.dtype:
    """Torch's type of a `Precision`.

    Raises:
        UserError: one that this job's card only imitates.
    """
    import torch

    gpu.check_precision(precision, torch)
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _cuda() -> Any:
    """`torch.cuda` where there is a GPU and this process has imported torch; None otherwise: without torch it uses no GPU."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def device_name() -> str | None:
    """UUID by which `nvidia-smi` knows the GPU of this process; None without one."""
    if (cuda := _cuda()) is None:
        return None
    uuid = str(cuda.get_device_properties(0).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


class GpuMonitor:
    """Ask `nvidia-smi` every few seconds how busy a GPU is; use as a context manager.

    Args:
        device: UUID (or index) as `nvidia-smi --id` takes it; None watches nothing.
        seconds: time between two samples.

    Where there is no `nvidia-smi`, or it does not know (a slice of a GPU), there are no samples, and `facts` is empty.
    """

    def __init__(self, device: str | None, seconds: float = 5):
        self._command = [
            "nvidia-smi",
            "--query-gpu=utilization.gpu,memory.used",
            "--format=csv,noheader,nounits",
            f"--id={device}",
        ]
        self._wanted = device is not None and shutil.which("nvidia-smi") is not None
        self._seconds = seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._samples: list[tuple[float, float]] = []

    def _work(self) -> None:
        while not self._end.wait(self._seconds):
            try:
                text = subprocess.run(self._command, capture_output=True, text=True, timeout=30, check=True).stdout
                busy, megabytes = (float(cell) for cell in text.strip().splitlines()[0].split(","))
            except (OSError, subprocess.SubprocessError, ValueError, IndexError):
                return
            self._samples.append((busy / 100, megabytes))

    @property
    def facts(self) -> dict[str, float]:
        """`utilisation`, the mean share of time in which the GPU worked (0 to 1), and `device_memory_bytes`, the most in use."""
        if not self._samples:
            return {}
        busy, megabytes = zip(*self._samples, strict=True)
        return {"utilisation": round(sum(busy) / len(busy), 3), "device_memory_bytes": int(max(megabytes)) << 20}

    def __enter__(self) -> GpuMonitor:
        if self._wanted:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._wanted:
            self._thread.join(40)


@contextmanager
def usage_log(path: str | Path | None, **facts: Any):
    """Append one JSON line on what a job used: seconds, device, peak memory and utilisation of it, and the facts the stage adds.

    Args:
        path: the metrics file (JSON lines), kept apart from the artefacts since it changes from run to run; None writes none.
        facts: known at the start (stage, concept, ...). Yields a dict to which the stage adds counts such as `images` or `steps`.
    """
    began = time.perf_counter()
    monitor = GpuMonitor(None if path is None else device_name())
    try:
        with monitor:
            yield facts
    except BaseException as error:
        facts["failed"] = type(error).__name__  # no rate for `cost`
        if facts["failed"] == "OutOfMemoryError":  # torch's, which is not imported here
            raise gpu.out_of_memory(error, facts.get("stage", "")) from error
        raise
    finally:
        if path is not None:
            facts["seconds"] = round(time.perf_counter() - began, 3)
            cuda = _cuda()
            facts["device"] = cuda.get_device_name() if cuda else "cpu"
            if cuda:
                facts["peak_device_bytes"] = cuda.max_memory_allocated()
            facts.update(monitor.facts)
            for unit in ("images", "steps"):
                if facts.get(unit):
                    facts[f"{unit}_per_second"] = round(facts[unit] / max(facts["seconds"], 1e-3), 3)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a") as log:
                log.write(json.dumps(facts) + "\n")


def read_usage(folder: str | Path) -> list[dict[str, Any]]:
    """What jobs used: the lines that `usage_log` wrote to every `*.metrics.jsonl` below a folder, each with its `file`.

    A metrics file holds other lines too (of a training's steps), and one line for each attempt that ended by itself; a line that a
    killed process left in part is passed over.
    """
    found = []
    for path in sorted(Path(folder).rglob("*.metrics.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                facts = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(facts, dict) and {"stage", "seconds", "device"} <= facts.keys():
                found.append({**facts, "file": str(path)})
    return found
