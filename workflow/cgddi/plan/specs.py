"""What every spec holds, whatever the job: which revision of its stage, which model. Read at every parse: light."""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from pathlib import Path
from typing import Any

from cgddi.core.errors import UserError
from cgddi.plan.config import Model

STAGES = (
    *("masks", "healthy", "canvases", "lesion_mapped", "embedding", "fedd", "lora", "semantic", "index", "audit"),
    *("classify", "fairness", "report", "export"),
)
"""Stages: a rule, a config section and a folder of one name."""


def stage_package(stage: str) -> str:
    """Dotted name of the package that holds a stage."""
    return "cgddi.fedd" if stage == "fedd" else f"cgddi.stages.{stage}"


@cache
def revision(stage: str, job: str | None = None) -> int:
    """REVISION of a stage's settings module; of one of its jobs, where each has its own."""
    value = importlib.import_module(f"{stage_package(stage)}.settings").REVISION
    return value[job] if isinstance(value, dict) else value


@cache
def model_spec(model: Model) -> dict[str, Any]:
    """A model's identity for a spec. A local folder is fingerprinted: by content up to 64 MB, else by names and sizes."""
    spec = model.model_dump()
    folder = Path(model.source)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        small = sum(path.stat().st_size for path in files) <= 64 << 20
        digest = hashlib.sha256()
        for path in files:
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
            if small or path.suffix == ".json":
                digest.update(path.read_bytes())
        spec["fingerprint"] = digest.hexdigest()[:16]
    elif model.source.startswith((".", "/", "~")):
        raise UserError(
            f"models: {model.source} is no folder. Download the model there, or name a hub id in the config."
        )
    return spec
