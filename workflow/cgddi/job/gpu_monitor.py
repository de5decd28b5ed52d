"""How busy a job keeps its GPU: `nvidia-smi` asked every few seconds while the job works. Light."""

from __future__ import annotations

import shutil
import subprocess
import threading


class GpuMonitor:
    """Sample one GPU in the background; use as a context manager.

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
