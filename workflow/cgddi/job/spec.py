"""What a stage reads of its job's spec: keys that must be there and settings checked against the stage's model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cgddi.core.errors import InvalidInput, Problem, UserError

Settings = TypeVar("Settings", bound=BaseModel)


def need(spec: Mapping[str, Any], *keys: str) -> list[Any]:
    """Values of a spec.

    Raises:
        UserError: one is missing.
    """
    missing = [key for key in keys if key not in spec]
    if missing:
        raise UserError(
            f"--spec lacks {', '.join(missing)}. Give the spec the workflow wrote, or the record of an earlier job."
        )
    return [spec[key] for key in keys]


def settings_of(model: type[Settings], spec: Mapping[str, Any]) -> Settings:
    """The spec's settings as the stage's model; the model's defaults where the spec has none.

    Raises:
        InvalidInput: settings that the model refuses, each named.
    """
    try:
        return model.model_validate(spec.get("settings", {}))
    except ValidationError as error:
        raise InvalidInput(
            [
                Problem(
                    f"settings of stage {spec['stage']}" if "stage" in spec else "settings",
                    issue["msg"],
                    "`cgddi config` says what each key takes.",
                    key=".".join(map(str, issue["loc"])),
                    value=issue.get("input"),
                )
                for issue in error.errors()
            ]
        ) from error


def checked(model: type[Settings], spec: Mapping[str, Any], *keys: str) -> Settings:
    """The settings of a spec that must hold them, a seed and `keys`.

    Raises:
        UserError: a key is missing.
        InvalidInput: settings that the model refuses, each named.
    """
    need(spec, "settings", "seed", *keys)
    return settings_of(model, spec)
