"""What a stage reads of its job's spec: keys that must be there and settings checked against the stage's model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cgddi.core.archive import canonical, file_sha256, know_digests, sha256
from cgddi.core.errors import InvalidInput, Problem, UserError

Settings = TypeVar("Settings", bound=BaseModel)


class Spec(dict):
    """A spec as a stage uses it: with the places of its photos and models, and keys that change no result.

    Attributes:
        planned: the spec as planned, without these: what a record holds and a checkpoint is named by.
        inputs: option -> files that the job reads.
    """

    planned: dict[str, Any]
    inputs: dict[str, Any]


def read_spec(path: str | Path) -> Spec:
    """Read a spec: the file that the workflow wrote, or the record beside an earlier result.

    Photos and masks are read once to see that they are the planned ones.

    Raises:
        UserError: the file cannot be read, or something is not where it was planned.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--spec {path}: no JSON file that can be read ({error}).") from error
    planned = value.get("spec", value) if isinstance(value, dict) else None
    if not isinstance(planned, dict):
        raise UserError(f"--spec {path}: no spec and no record. Give the file the workflow wrote below .plan.")
    plan = next((above / ".plan" for above in Path(path).absolute().parents if (above / ".plan").is_dir()), None)
    beside = _beside(plan)
    if plan:
        know_digests(plan / "digests.json")
    spec = Spec(_placed(planned, beside["places"]))
    own = beside["neutral"].get(sha256(canonical(planned.get("settings")))[:16], {})
    if own:
        spec["settings"] = _merged(spec["settings"], own)
    spec.planned = planned
    root = plan.parent if plan else Path()
    spec.inputs = {name: _below(root, files) for name, files in planned.get("inputs", {}).items()}
    return spec


def _beside(plan: Path | None) -> dict[str, Any]:
    """Where photos and models lie, and keys that change no result (see `cgddi.plan.specs`)."""
    try:
        return json.loads((plan / "places.json").read_text(encoding="ascii")) if plan else {"places": {}, "neutral": {}}
    except (OSError, ValueError):
        return {"places": {}, "neutral": {}}


def _below(root: Path, files: str | list[str]) -> str | list[str]:
    # Relative to the working directory where that is possible, so that records do not depend on where the project lies.
    if isinstance(files, list):
        return [_below(root, file) for file in files]
    path = root / files
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _placed(value: Any, places: Mapping[str, Any]) -> Any:
    """A spec with places in the stead of contents."""
    if isinstance(value, list):
        return [_placed(item, places) for item in value]
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            place = _place(item, places) if isinstance(item, str) else _placed(item, places)
            if isinstance(item, str) and isinstance(place, dict):
                folder = f"{place['source']}@{place['revision']}" if place["revision"] else place["source"]
                found.update(place if key == "source" else {key: folder})
            else:
                found[key] = place
        return found
    return _place(value, places) if isinstance(value, str) else value


def _place(value: str, places: Mapping[str, Any]) -> Any:
    kind, _, digest = value.partition(":")
    if kind not in ("sha256", "folder", "commit") or not digest:
        return value
    if value not in places:
        raise UserError(
            f"--spec: where {value} lies is not known here. Start the workflow once with the config that names it."
        )
    place = places[value]
    if kind == "sha256":
        try:
            same = file_sha256(place) == digest
        except OSError as error:
            raise UserError(
                f"{place}: cannot be read ({error.strerror}). Put it back and start the workflow again."
            ) from None
        if not same:
            raise UserError(f"{place}: changed since the workflow was started. Start it again: what is finished stays.")
    return place


def _merged(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(settings)
    for key, value in more.items():
        found[key] = (
            _merged(found[key], value) if isinstance(value, dict) and isinstance(found.get(key), dict) else value
        )
    return found


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
                    "`cgddi config` tells what this key takes.",
                    column=".".join(map(str, issue["loc"])),
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
