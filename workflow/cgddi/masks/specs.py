"""A job's spec checked against the stage's settings model, with errors a user can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cgddi.errors import InvalidInput, Problem, UserError

Settings = TypeVar("Settings", bound=BaseModel)


def checked(model: type[Settings], spec: Mapping[str, Any], *keys: str) -> Settings:
    """The spec's settings as the stage's model.

    Args:
        model: the settings model.
        spec: the job's spec.
        keys: further keys the spec must hold.

    Raises:
        UserError: a key is missing.
        InvalidInput: settings that the model refuses, each named.
    """
    missing = [key for key in ("settings", "seed", *keys) if key not in spec]
    if missing:
        raise UserError(
            f"--spec lacks {', '.join(missing)}. Give the spec the workflow wrote, or the record of an earlier job."
        )
    try:
        return model.model_validate(spec["settings"])
    except ValidationError as error:
        raise InvalidInput(
            [
                Problem(
                    "settings",
                    issue["msg"],
                    "See `description` of this key in the config schema.",
                    column=".".join(map(str, issue["loc"])),
                    value=issue.get("input"),
                )
                for issue in error.errors()
            ]
        ) from error
