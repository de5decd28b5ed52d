"""The contact sheet of an adapter: concept x tone, sampled with fixed noise, for the report."""

from __future__ import annotations

from cgddi.diffusion.adapters import FILE, apply, read_adapter
from cgddi.diffusion.backbone import Backbone
from cgddi.diffusion.sheet import write_sheet
from cgddi.stages.lora.data import LoraJob
from cgddi.stages.lora.settings import LoraSettings

NAME = "samples.png"


def write_grid(backbone: Backbone, job: LoraJob, settings: LoraSettings) -> None:
    """Sample the finished adapter and write `samples.png` beside it."""
    applied = apply(backbone, read_adapter(job.output / FILE))
    try:
        write_sheet(job.output / NAME, backbone, job.spec, settings)
    finally:
        applied.remove()
