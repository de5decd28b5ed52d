"""Whether this machine can run the jobs: versions, the GPU driver against torch's build, the card, room on the disks."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cgddi
from cgddi.core.errors import Problem
from cgddi.job.gpu import runs_on
from cgddi.plan.intact import hub_home
from cgddi.watch.cost import samples
from cgddi.watch.fetch import size

if TYPE_CHECKING:
    from cgddi.plan.jobs import Plan
    from cgddi.watch.dag import Job

REQUIREMENTS = Path(__file__).parents[3] / "requirements.txt"
PNG = 1.6
"""Bytes a pixel of a photograph as PNG."""
WEIGHTS = {"lora": 25e6, "embedding": 1e5, "classify": 360e6, "fedd_segmenter": 100e6, "fedd_baseline": 200e6}
"""Bytes that a job of a stage leaves: an adapter of rank 8 and its samples, a ViT-B/16, ten pixel networks, a U-Net."""


def software() -> str:
    """Versions that a bug report needs, and whether torch sees a GPU, in one line."""
    found = [f"cgddi {cgddi.__version__}"]
    for name in ("snakemake", "torch", "diffusers"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    if "no torch" in found:
        return f"Python {platform.python_version()}, {', '.join(found)}"
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"Python {platform.python_version()}, {', '.join(found)}; torch sees {device}"


def versions(requirements: Path = REQUIREMENTS) -> tuple[list[Problem], list[Problem]]:
    """Problems: libraries that are missing. Warnings: those of another minor version than the project is tested with."""
    problems, other = [], []
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    for line in lines:
        if not (match := re.match(r"([\w.-]+)==([\w.]+)", line)):
            continue
        name, tested = match.groups()
        try:
            found = version(name)
        except PackageNotFoundError:
            problems.append(Problem("this environment", f"{name} is not installed", "Run `make env`."))
            continue
        if found.split(".")[:2] != tested.split(".")[:2]:
            other.append(f"{name} {found} instead of {tested}")
    if other:
        remedy = "Numbers may differ; `make env` installs the tested ones."
        return problems, [Problem("this environment", f"other versions than tested: {', '.join(other)}", remedy)]
    return problems, []


# ---- GPUs


def cards() -> tuple[list[tuple[str, str]], str | None]:
    """(name, driver) of each GPU that the driver lists, and the newest CUDA that it can run; nothing where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return [], None
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        rows = subprocess.run(query, capture_output=True, text=True, timeout=60)
        whole = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return [], None
    if rows.returncode:
        return [], None
    newest = re.search(r"CUDA Version:\s*([\d.]+)", whole)
    found = [tuple(map(str.strip, line.split(",", 1))) for line in rows.stdout.splitlines() if "," in line]
    return found, newest[1] if newest else None


def gpu_problems(config: Any) -> list[Problem]:
    """What is wrong with this node's GPUs: torch sees none, was not built for the card, or the card has no bf16 of its own."""
    listed, newest = cards()
    if not listed:
        return []
    import torch

    (name, driver), build = listed[0], torch.version.cuda
    place = f"this node ({name}, driver {driver})"
    if build is None:
        return [Problem(place, f"torch {torch.__version__} is built without CUDA", "Install a build with it.")]
    if not torch.cuda.is_available():
        if newest and tuple(map(int, newest.split("."))) >= tuple(map(int, build.split("."))):
            text = f"torch {torch.__version__} (CUDA {build}) sees no GPU, though the driver runs CUDA {newest}"
            remedy = f"Look at CUDA_VISIBLE_DEVICES ({os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}) and the node."
        else:
            runs = f", which runs CUDA {newest} at most" if newest else ""
            text = f"torch {torch.__version__} is built for CUDA {build} and sees no GPU through this driver{runs}"
            remedy = f"Install a torch that is built for CUDA {newest or 'of the driver'} or older, or a newer driver."
        return [Problem(place, text, remedy)]
    problems, card = [], torch.cuda.get_device_capability()
    if not runs_on(card, torch.cuda.get_arch_list()):
        text = f"torch {torch.__version__} has no code for this card (compute capability {card[0]}.{card[1]})"
        problems.append(Problem(place, text, "Install a build that lists it, or take another card."))
    if card < (8, 0) and (stages := sorted(in_bf16(config))):
        text = f"this card only imitates bf16, in which {', '.join(stages)} compute"
        problems.append(Problem(place, text, "Set their `precision` to fp16 or fp32, or take a newer card."))
    return problems


def in_bf16(settings: Any, name: str = "") -> Iterator[str]:
    """Sections of the settings whose `precision` is bf16."""
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        if key == "precision" and value == "bf16":
            yield name
        elif hasattr(type(value), "model_fields"):
            yield from in_bf16(value, f"{name}.{key}".strip("."))


# ---- disks


def room(path: str | Path) -> tuple[Path, int]:
    """The nearest folder that exists, and the bytes free there for this user: on the disk, and by a quota that `quota` tells."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return place, min(free, _quota(place, free))


def _quota(place: Path, otherwise: int) -> int:
    """What a quota leaves, in bytes, by `quota` (blocks of 1024 bytes)."""
    if shutil.which("quota") is None:
        return otherwise
    try:
        text = subprocess.run(["quota", "-w", "-p"], capture_output=True, text=True, timeout=20).stdout
        mounts = {fields[0]: fields[1] for fields in map(str.split, Path("/proc/mounts").read_text().splitlines())}
    except (OSError, subprocess.TimeoutExpired):
        return otherwise
    for fields in map(str.split, text.splitlines()):
        if len(fields) > 3 and fields[0] in mounts and fields[1].rstrip("*").isdigit() and fields[3].isdigit():
            used, limit = int(fields[1].rstrip("*")), int(fields[3])
            if limit and os.stat(mounts[fields[0]]).st_dev == os.stat(place).st_dev:
                return max(0, limit - used) * 1024
    return otherwise


def estimate(plan: Plan, jobs: list[Job]) -> float:
    """Bytes that the jobs still to run will leave in the results, by number and size of their images and the weights they write."""
    config, total = plan.config, 0.0
    for job in jobs:
        if not job.planned:
            continue
        spec, images, side = job.spec, 0, 0
        if job.stage in ("masks", "healthy"):
            images, side = len(spec.get("rows") or spec.get("images") or ()), config.masks.size
        elif job.stage == "lesion_mapped":
            images = len(spec["images"]) * len(plan.masked(job.wildcards["canvas_cohort"]))
            side = config.lesion_mapped.image_size
        elif job.stage == "semantic":
            images = samples(plan, job.wildcards["scope"], job.wildcards["canvas_cohort"])
            side = int(spec["settings"].get("image_size") or config.masks.size)
        total += images * side * side * PNG + WEIGHTS.get(job.stage, 0)
    return total


def disk_problems(plan: Plan, jobs: list[Job]) -> tuple[list[str], list[Problem], list[Problem]]:
    """What is said of the disks, problems and warnings: room for the results against the plan's estimate, and for the cache.

    An estimate is no measurement, and a disk that fills up costs no result: only where there is next to no room is that a problem.
    """
    config, needed = plan.config, estimate(plan, jobs)
    place, free = room(config.results)
    lines = [f"{config.results}: about {size(needed)} to come, {size(free)} free"]
    problems, warnings = [], []
    if needed > free:
        remedy = "Make room, or name a folder on a larger disk in `results`."
        found = config.problem("results", f"needs about {size(needed)}, {place} has {size(free)} left", remedy)
        (problems if free < needed / 10 else warnings).append(found)
    place, left = room(config.cache)
    wanted = min(config.cache_gb * 1e9, needed)
    if wanted > left:
        remedy = "Lower `cache_gb`, or move `cache` to a larger disk: without room there, a correction costs GPU hours."
        warnings.append(config.problem("cache", f"may hold {size(wanted)}, {place} has {size(left)} left", remedy))
    return lines, problems, warnings


def home_warnings(named: bool, queued: bool) -> list[Problem]:
    """A warning where jobs on other nodes will not find the models: HF_HOME on a node's own disk."""
    home = hub_home()
    own = any(home.is_relative_to(place) for place in ("/tmp", "/var/tmp", "/dev/shm", "/scratch/local", "/local"))
    if not (named and queued and own):
        return []
    return [
        Problem(
            "HF_HOME", f"{home} is on this node's own disk", "Set it to a folder that all nodes see, and fetch again."
        )
    ]
