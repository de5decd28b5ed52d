"""What `preset: paper` does to a stage's settings. Imports nothing heavy: planning reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_preset(values: Any, paper: Mapping[str, object]) -> Any:
    """Settings as given, with the published values of the keys that were not given where the preset is `paper`.

    Args:
        values: what the settings model is made from; passed on as it is unless it is a mapping.
        paper: the stage's published values.
    """
    if isinstance(values, Mapping) and values.get("preset") == "paper":
        return {**paper, **values}
    return values
