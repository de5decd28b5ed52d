"""What the stage commands share: the `--spec` and `--threads` options."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from cgddi.core.errors import UserError


def stage_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options every stage has.

    Args:
        name: the command, as in `cgddi NAME`.
        description: what it does (usually the module's docstring).
    """
    parser = argparse.ArgumentParser(
        prog=f"cgddi {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--spec",
        type=read_spec,
        required=True,
        help="the job's spec as JSON, or @FILE: a JSON file, which may be the record (.json) beside an earlier result",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads to use (default: all cores)")
    return parser


def read_spec(text: str) -> dict[str, Any]:
    """Parse the value of `--spec`."""
    try:
        value = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"--spec is neither JSON nor @FILE with JSON in it: {error}") from error
    return value.get("spec", value)
