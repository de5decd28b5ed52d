"""What every spec holds, whatever the job: which code, which pinned versions, which model. Read at every parse: light."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from cgddi.core.errors import UserError
from cgddi.plan.code import pinned_versions
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
def stage_versions(stage: str, more: tuple[str, ...] = ()) -> dict[str, str]:
    """Pinned versions of the distributions that shape a stage's result (its settings module's VERSIONS, and `more`)."""
    module = __import__(f"{stage_package(stage)}.settings", fromlist=["VERSIONS"])
    return {name: pinned_versions().get(name.lower(), "unpinned") for name in (*module.VERSIONS, *more)}


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
