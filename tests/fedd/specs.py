"""Jobs' specs as the files that commands take, and commands run on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgddi.fedd.command import main


def spec_file(spec: Mapping[str, Any], beside: str | Path) -> str:
    """Write a spec beside an output (a folder or file, which need not exist) and give its path."""
    path = Path(f"{beside}.spec.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(spec))
    return str(path)


def train(job: str, spec: Mapping[str, Any], features: Path, output: Path) -> dict[str, Any]:
    """Run `cgddi fedd segmenter` or `probe` on a feature file, or on the one of a study's folder; gives the record."""
    features = features / "features.safetensors" if features.is_dir() else features
    files = ["--spec", spec_file(spec, output), "--features", str(features), "--output-dir", str(output)]
    assert main([job, *files, "--threads", "1"]) == 0
    return json.loads((output / "record.json").read_text())


def fedd(job: str, spec: Mapping[str, Any], folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a command of the study into `folder`/out; its record."""
    command = [job, "--spec", spec_file(spec, folder / "out"), *arguments, "--output-dir", str(folder / "out")]
    assert main([*command, "--threads", "1"]) == 0
    return json.loads((folder / "out/record.json").read_text())
