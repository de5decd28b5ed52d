"""The base of every settings model, and which of its keys change no result. Light: planning reads it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Keys of one part of the configuration; unknown keys are errors.

    The settings module of a stage also holds `REVISION`, an integer that is raised when a change of the stage's code changes its
    numbers: it stands in every spec of the stage, so that its results are made again. Nothing else of the code does that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def neutral(default: Any, **more: Any) -> Any:
    """A field that changes no result (intervals of checkpoints, logs and previews): it stands in no spec, and its change reruns
    nothing.

    Args:
        default, more: as pydantic's `Field` takes them.
    """
    return Field(default, json_schema_extra={"neutral": True}, **more)


def is_neutral(model: type[BaseModel], name: str) -> bool:
    """Whether a key of a model changes no result (see `neutral`)."""
    extra = model.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("neutral"))
