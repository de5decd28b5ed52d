"""The base of every settings model, and which of its keys change no result. Light: planning reads it."""

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Precision = Literal["fp32", "bf16", "fp16"]
"""In which a model computes: a setting, never found out from the device."""


class Settings(BaseModel):
    """Keys of one part of the configuration; unknown keys are errors.

    The settings module of a stage also holds `REVISION`, an integer that is raised when a change of the stage's code changes its
    numbers: it stands in every spec of the stage, so that its results are made again. Nothing else of the code does that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes`, `on` and `no` as truth values, which would count as 1 and 0."""
        if not _holds_truth(value) or bool in _kinds(cls.model_fields[info.field_name].annotation):
            return value
        raise ValueError("YAML reads this as a truth value (yes, no), not as a number or text")


def _holds_truth(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return any(isinstance(each, bool) for each in values)


def _kinds(annotation: Any) -> set[Any]:
    """Every type that stands in an annotation; `bool` too where it holds a section, which looks for itself."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {bool}
    if get_origin(annotation) is Literal or not get_args(annotation):
        return {annotation}
    return set().union(*map(_kinds, get_args(annotation)))


def setting(default: Any, description: str, **more: Any) -> Any:
    """A key of a section: its default, what it is, and its limits as pydantic names them."""
    return Field(default, description=description, **more)


def neutral(default: Any, description: str, **more: Any) -> Any:
    """A field that changes no result (intervals of checkpoints, logs and previews): it stands in no spec, and its change reruns
    nothing.
    """
    return setting(default, description, json_schema_extra={"neutral": True}, **more)


def is_neutral(model: type[BaseModel], name: str) -> bool:
    """Whether a key of a model changes no result (see `neutral`)."""
    extra = model.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("neutral"))


def located(default: Any, description: str, **more: Any) -> Any:
    """A field that may name a file or folder (weights, a table): in a spec stands what that holds, not where it lies. Other values
    (`hub`, `random`, a hub id) stand there as they are.
    """
    return setting(default, description, json_schema_extra={"located": True}, **more)


def is_located(model: type[BaseModel], name: str) -> bool:
    """Whether a key of a model may name a file or folder (see `located`)."""
    extra = model.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("located"))
