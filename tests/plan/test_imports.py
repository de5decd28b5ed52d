"""Stages import what they need and no more: every job starts a process, and most jobs of a small run are short."""

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cgddi.job.imports import without_gc

MODELS = {"torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "timm"}
FRAMES = {"pandas", "pyarrow", "sklearn", "matplotlib"}
COMPILER = {"torch._dynamo", "torch._inductor"}
"""A second or two, which torch imports on little cause."""

GROUPS = {
    # Modules in which stages work, and what they are not to import.
    "pictures": (
        ["stages.lesion_mapped.stage", "stages.masks.stage", "stages.canvases.stage", "stages.canvases.review"],
        MODELS | FRAMES | {"skimage", "scipy.optimize", "scipy.stats", "scipy.sparse.linalg"},
    ),
    "healthy": (
        ["stages.healthy.stage", "core.heal"],
        MODELS | FRAMES | {"skimage", "scipy.optimize", "scipy.stats"},
    ),
    "tables": (
        [
            "stages.index.table",
            "stages.audit.leakage",
            "stages.audit.quality",
            "stages.audit.copies",
            "stages.report.page",
            "stages.export.command",
            "job.runtime",
        ],
        MODELS | {"sklearn", "matplotlib", "scipy.stats"},
    ),
    "diffusion": (
        [
            "stages.semantic.sample",
            "fedd.features.extract",
            "fedd.probe",
            "fedd.segmenter.train",
        ],
        MODELS - {"torch"} | FRAMES | COMPILER | {"scipy"},
    ),
    "trainers": (["stages.lora.train", "stages.embedding.train"], FRAMES | {"timm", "torchvision"}),
    "classifiers": (
        ["stages.classify.train", "stages.classify.methods"],
        {"diffusers", "transformers", "sklearn", "matplotlib"},
    ),
}


@pytest.mark.parametrize("group", GROUPS)
def test_stages_leave_out_what_they_do_not_need(group):
    stages, unneeded = GROUPS[group]
    lines = [f"import cgddi.{stage}" for stage in stages]
    if group == "diffusion":
        lines.append("import cgddi.job.runtime; cgddi.job.runtime.start(1)")
    lines += ["import json, sys", "print(json.dumps(list(sys.modules)))"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "workflow"},
    )
    assert unneeded & set(json.loads(done.stdout)) == set()


def test_a_stage_imports_no_other_stage_and_nothing_below_imports_a_stage():
    package = Path("workflow/cgddi")
    found = {}
    for path in package.rglob("*.py"):
        layer, *inner = path.relative_to(package).parts
        if layer in ("core", "job", "diffusion", "stages"):
            own = inner[0] if layer == "stages" else None
            others = set(re.findall(r"^\s*(?:from|import) cgddi\.stages\.(\w+)", path.read_text(), re.M)) - {own}
            found |= {str(path): others} if others else {}
    assert found == {}


def test_the_collector_is_as_it_was_after_imports():
    assert gc.isenabled()
    with pytest.raises(ImportError), without_gc():
        assert not gc.isenabled()
        import cgddi.no_such_module  # noqa: F401
    assert gc.isenabled()
