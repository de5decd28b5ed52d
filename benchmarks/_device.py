"""The parts of `python -m benchmarks device`, each run as a process of its own: `python -m benchmarks._device PART FOLDER`.

Results are JSON lines in FOLDER/results.jsonl as they come. Without a GPU every part works on the toy's model with a few steps, so
that it can be tried anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import _engine

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
WORK = Path(os.environ.get("CGDDI_DEVICE_WORK", tempfile.gettempdir())) / "cgddi-device"
LORA = (
    {"image_size": 256, "instances": 16, "priors_per_step": 16}
    if CUDA
    else {"image_size": 64, "instances": 2, "priors_per_step": 2}
)
TOKEN = (
    {"image_size": 512, "batch": 16, "accumulation": 1} if CUDA else {"image_size": 64, "batch": 2, "accumulation": 1}
)
STEPS, BATCH = (40, 16) if CUDA else (21, 2)


def out() -> Path:
    """The folder of results."""
    return Path(sys.argv[2])


def note(name: str, **facts: object) -> None:
    """One line of results."""
    line = json.dumps({"name": name, **facts, **({"peak_gib": peak()} if CUDA else {})}, default=str)
    print(line, flush=True)
    with open(out() / "results.jsonl", "a") as lines:
        lines.write(line + "\n")


def peak() -> float:
    """Most GiB that torch held since the last call."""
    found = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(found, 2)


@contextlib.contextmanager
def tried(name: str) -> Iterator[None]:
    """A failure is a result too, and does not end the others."""
    try:
        yield
    except Exception as error:  # whatever a driver, a compiler or a library raises
        note(f"{name} failed", error=f"{type(error).__name__}: {str(error)[:600]}")
        with open(out() / "errors.txt", "a") as lines:
            lines.write(f"== {name}\n{traceback.format_exc()[-5000:]}\n")
    finally:
        if CUDA:
            torch.cuda.empty_cache()


def model() -> Path:
    """Random-weight SD 2.1 (the toy's model without a GPU), written once for all parts."""
    if not CUDA:
        return _engine.toy_model(WORK / "toy")
    folder = WORK / "sd21"
    if not (folder / "model_index.json").is_file():
        began = time.perf_counter()
        _engine.sd21_model(folder)
        note("model written", seconds=round(time.perf_counter() - began, 1))
    return folder


def photos(size: int) -> tuple[Path, Path, list[str]]:
    """48 photos: their folder, archive and ids; made once."""
    folder = WORK / f"photos{size}"
    if not (folder / "photos.tar").is_file():
        return _engine.photos(folder, size, 48)
    return folder / "files", folder / "photos.tar", [f"x{number:03d}" for number in range(48)]


def seconds(call: Callable[[], object], rounds: int = 3, warm: int = 1) -> float:
    """Least seconds of a call, the device drained around each."""
    found = []
    for number in range(rounds + warm):
        drain()
        began = time.perf_counter()
        call()
        drain()
        if number >= warm:
            found.append(time.perf_counter() - began)
    return min(found)


def drain() -> None:
    if CUDA:
        torch.cuda.synchronize()


def fresh() -> None:
    """accelerate keeps its first settings for the whole process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    torch._dynamo.reset()


# -- what the machine is ------------------------------------------------------------------------------------------------------
def machine() -> None:
    """Versions, and the ceilings of arithmetic, memory, launches and copies."""
    from cgddi.core.archive import DISTRIBUTIONS, installed_versions

    facts = {**installed_versions(DISTRIBUTIONS), "python": sys.version.split()[0], "cpus": os.cpu_count()}
    if CUDA:
        card = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": card.name,
            "capability": f"{card.major}.{card.minor}",
            "gib": round(card.total_memory / 2**30, 1),
        }
        facts |= {"cuda": torch.version.cuda, "built for": " ".join(torch.cuda.get_arch_list())}
    note("machine", **facts)
    if not CUDA:
        return
    for dtype in (torch.bfloat16, torch.float16):
        a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=dtype) for _ in range(2))
        rate = 2 * 8192**3 / seconds(lambda a=a, b=b: a @ b, 20, 5)
        note("product of 8192", dtype=str(dtype)[6:], tflops=round(rate / 1e12, 1))
    big = torch.empty(1 << 30, device=DEVICE, dtype=torch.int32)
    other = torch.empty_like(big)
    note("copy on the device", tb_per_s=round(2 * big.nbytes / seconds(lambda: other.copy_(big)) / 1e12, 2))
    small = torch.zeros(8, device=DEVICE)
    note("launch", us=round(seconds(lambda: [small.add_(1) for _ in range(5000)]) / 5000 * 1e6, 2))
    x = torch.randn(32, 320, 64, 64, device=DEVICE, dtype=torch.bfloat16)
    norm = torch.nn.GroupNorm(32, 320).to(x)
    for form in (torch.channels_last, torch.contiguous_format):
        conv, y = torch.nn.Conv2d(320, 320, 3, padding=1).to(x).to(memory_format=form), x.to(memory_format=form)
        with torch.no_grad():
            took = seconds(lambda conv=conv, y=y: conv(torch.nn.functional.silu(norm(y))), 20)
        note("norm, silu, convolution of 32 x 320 x 64 x 64", form=str(form)[6:], ms=round(took * 1e3, 3))
    host = torch.randn(32, 4, 32, 32)
    w = torch.randn(4096, 4096, device=DEVICE, dtype=torch.bfloat16)
    for kind, source in (("pageable", host), ("pinned", host.pin_memory())):
        drain()
        for _ in range(30):
            w @ w
        began = time.perf_counter()
        source.to(DEVICE, non_blocking=True)
        note("host waits for a copy behind 30 products", memory=kind, ms=round((time.perf_counter() - began) * 1e3, 3))


def tests() -> None:
    """The tests that only a GPU can run."""
    root = Path(__file__).parents[1]
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", "--durations=5", "-k", "not slow"]
    done = subprocess.run([*argv, str(root / "tests/diffusion/test_cuda.py")], cwd=root, capture_output=True, text=True)
    print(done.stdout[-6000:], done.stderr[-2000:])
    note("CUDA tests", rc=done.returncode, last=done.stdout.strip().splitlines()[-6:])


def main() -> None:
    """Run one part."""
    from benchmarks import _device_runs as runs
    from benchmarks import _device_steps as steps

    parts = {"machine": machine, "tests": tests, "lora": steps.lora, "token": steps.token, "sampling": steps.sampling}
    parts |= {"whole": runs.whole, "classify": runs.classify, "profile": runs.profile, "scripts": steps.scripts}
    warnings.filterwarnings("ignore")
    if not CUDA:
        torch.set_num_threads(1)
    WORK.mkdir(parents=True, exist_ok=True)
    with tried(sys.argv[1]):
        parts[sys.argv[1]]()


if __name__ == "__main__":
    main()
