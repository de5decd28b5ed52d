"""What `preset: paper` does to a stage's settings. Imports nothing heavy: planning reads it."""

from __future__ import annotations

import sys
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


def deviations(config: Any) -> list[str]:
    """A line for each section whose preset is `paper` while keys of it are not as published: so they are when a config with
    every key (config/config.yaml) lies under one that names the preset alone.

    Args:
        config: the checked configuration.
    """
    lines = []
    for stage in ("embedding", "lora", "semantic"):
        settings = getattr(config, stage)
        paper = sys.modules[type(settings).__module__].PAPER
        other = {
            key: (getattr(settings, key), value) for key, value in paper.items() if getattr(settings, key) != value
        }
        if settings.preset == "paper" and other:
            named = ", ".join(f"{key} {mine} (published: {value})" for key, (mine, value) in other.items())
            lines.append(
                f"{stage}.preset is paper, but the config names {named}. Remove these keys to get what was published."
            )
    return lines
