"""A job's spec as the file that a command takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def spec_file(spec: Mapping[str, Any], beside: str | Path) -> str:
    """Write a spec beside an output (a folder or file, which need not exist) and give its path."""
    path = Path(f"{beside}.spec.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(spec))
    return str(path)
