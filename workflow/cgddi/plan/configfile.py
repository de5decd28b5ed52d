"""Reading config files: YAML as Snakemake reads it, but every mistake is one line with the file, the line and the nearest key.

Light: read at every parse of the Snakefile. What the keys mean stands in `config.py`.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from cgddi.core.errors import InvalidInput, Problem, refuse

Key = tuple[str, ...]
"""Where a value stands: names of sections and keys from the top; entries of a list by number."""


class Mistakes(ValueError):
    """What a model finds wrong in values below it.

    Args:
        found: (key below the model, with points; what is wrong; remedy) each.
    """

    def __init__(self, found: Sequence[tuple[str, str, str]]):
        super().__init__("; ".join(f"{key}: {message}" for key, message, _ in found))
        self.found = found


def unknown(key: str, name: str, names: Iterable[str]) -> tuple[str, str, str]:
    """A name that is none of those there are, for `Mistakes`, with the one that was meant, if one is near."""
    names = list(names)
    close = get_close_matches(name, names, n=1)
    remedy = f"Did you mean {close[0]}?" if close else f"`cgddi config {key.partition('.')[0]}` says what it takes."
    return key, f"{name!r} is none of {', '.join(names)}", remedy


@dataclass
class Values:
    """What config files say. (Kept beside a config for its messages; configs are compared without it.)

    Args:
        values: the merged mapping; a later file changes keys of those before it.
        places: key -> (file, line) that gave it last.
    """

    values: dict[str, Any] = field(default_factory=dict, compare=False)
    places: dict[Key, tuple[str, int]] = field(default_factory=dict, compare=False)
    files: list[str] = field(default_factory=list, compare=False)

    def problem(self, key: Key, message: str, remedy: str, value: object = None) -> Problem:
        """A problem of a key, with the file and line that gave it or the section nearest to it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.places:
                source, line = self.places[key[:length]]
                break
        else:
            source, line = " ".join(self.files) or "config", None
        return Problem(source, message, remedy, value=value, line=line, key=".".join(key) or None)


def read(paths: Sequence[str | Path]) -> Values:
    """Read config files.

    Raises:
        InvalidInput: what keeps them from being read, all files together.
    """
    found, problems = Values(), []
    for path in map(str, paths):
        found.files.append(path)
        try:
            values, lines = _mapping(path, problems)
        except InvalidInput as error:
            problems += error.problems
        else:
            found.places |= {key: (path, line) for key, line in lines.items()}
            merge(found.values, values)
    refuse(problems)
    return found


def stop_at_unreadable(words: Sequence[str]) -> None:
    """End with a line for each config file on Snakemake's command line that cannot be read. `profiles/default` calls it.

    Args:
        words: what stands after `snakemake`.
    """
    files: list[str] = []
    taking = False
    for word in words:
        option, _, value = word.partition("=")
        if word.startswith("-"):
            taking = option in ("--configfile", "--configfiles")
            files += [value] if taking and value else []
        elif taking:
            files.append(word)
    try:
        read(files)
    except InvalidInput as error:
        sys.exit(f"snakemake: {error}")


def merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Lay `changes` over `values`, in place: mappings are merged, anything else replaced (as Snakemake's update_config).
    Names are texts, also where YAML reads a number (`5: 10`)."""
    for key, value in changes.items():
        key = str(key)
        if isinstance(value, Mapping):
            if not isinstance(values.get(key), dict):
                values[key] = {}
            merge(values[key], value)
        else:
            values[key] = value


# ---- one file --------------------------------------------------------------------------------------------------------


def _mapping(path: str, problems: list[Problem]) -> tuple[dict[str, Any], dict[Key, int]]:
    """Values of one file and the line of each key; keys that stand twice are added to `problems`."""

    def fault(message: str, remedy: str, line: int | None = None) -> InvalidInput:
        return InvalidInput([Problem(path, message, remedy, line=line)])

    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise fault("no such file", "Give --configfile a path that exists; `cgddi init FOLDER` writes one.") from None
    except OSError as error:
        raise fault(f"cannot be read ({error.strerror})", "Give --configfile a file you may read.") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise fault("not UTF-8", "Save the file with encoding UTF-8.", line) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what, remedy = error.problem or str(error.context), "Correct this line or the one before it."
        if "'\\t'" in what:
            what, remedy = "a tab, which YAML does not take before a key", "Indent with spaces."
        raise fault(f"not YAML: {what}", remedy, mark.line + 1 if mark else None) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = text[: getattr(error, "position", 0)].count("\n") + 1 if hasattr(error, "position") else None
        raise fault(f"not YAML: {' '.join(str(error).split())}", "Correct this line.", line) from None
    if not isinstance(values, dict):
        raise fault("holds no keys", "Write `key: value` lines; `cgddi config` lists the keys.", 1)
    lines: dict[Key, int] = {}
    for key, line, before in _keys(node, ()):
        if before is not None:
            message, remedy = f"this key stands in line {before} too", "Keep one of them: YAML would drop the first."
            problems.append(Problem(path, message, remedy, line=line, key=".".join(key)))
        lines[key] = line
    return values, lines


def _keys(node: yaml.Node, above: Key) -> Iterator[tuple[Key, int, int | None]]:
    """(key, its line, the line of the same key before it or None) of everything under a node."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for name, value in node.value:
            key, line = (*above, str(name.value)), name.start_mark.line + 1
            yield key, line, seen.get(key[-1])
            seen[key[-1]] = line
            yield from _keys(value, key)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            key = (*above, str(number))
            yield key, value.start_mark.line + 1, None
            yield from _keys(value, key)


# ---- values against the models ---------------------------------------------------------------------------------------


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The settings model a field holds (alone or optional); None when it holds something else."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel) and get_origin(annotation) is not dict:
            return kind
    return None


def entries_of(annotation: Any) -> type[BaseModel] | None:
    """The settings model of each entry of a mapping by name (`cohorts`, `splits`); None for other fields."""
    return section_of(get_args(annotation)[1]) if get_origin(annotation) is dict else None


def complete(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with what a partial section leaves out: a section without a key is the default one, and keys that the default
    names keep their value beside those that are given (`models: {base: {revision: X}}` keeps the source)."""
    full = dict(values)
    for name, info in model.model_fields.items():
        below, each = section_of(info.annotation), entries_of(info.annotation)
        if name not in full:
            continue
        if full[name] is None and (each or (below and info.default is not None)):
            full[name] = {}
        if below and isinstance(full[name], Mapping):
            base = info.default.model_dump(exclude_unset=True) if isinstance(info.default, BaseModel) else {}
            merge(base, full[name])
            full[name] = complete(below, base)
        elif each and isinstance(full[name], Mapping):
            full[name] = {
                key: complete(each, entry or {}) if entry is None or isinstance(entry, Mapping) else entry
                for key, entry in full[name].items()
            }
    return full


def nearest(model: type[BaseModel], key: Key) -> str:
    """What an unknown key may have meant: a key of its section of much the same name, or one of that name elsewhere."""
    for name in key[:-1]:
        info = model.model_fields.get(name) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if info is not None:
            model = section_of(info.annotation) or entries_of(info.annotation) or model
    close = get_close_matches(key[-1], model.model_fields, n=1)
    return ".".join((*key[:-1], close[0])) if close else ""


def elsewhere(model: type[BaseModel], name: str, above: Key = ()) -> list[str]:
    """Keys of a name in any section under a model."""
    found = [".".join((*above, name))] if name in model.model_fields else []
    for key, info in model.model_fields.items():
        if below := section_of(info.annotation):
            found += elsewhere(below, name, (*above, key))
    return found


def check(model: type[BaseModel], given: Values) -> BaseModel:
    """The model of what config files say.

    Raises:
        InvalidInput: every unknown key and bad value, all at once.
    """
    try:
        return model.model_validate(complete(model, given.values))
    except ValidationError as error:
        problems = []
        issues = error.errors()
        for issue in issues:
            if issue["type"] == "too_short" and any(other["loc"][:-1] == issue["loc"] for other in issues):
                continue  # the list is too short because an entry of it is wrong
            if isinstance(own := issue.get("ctx", {}).get("error"), Mistakes):
                above = tuple(map(str, issue["loc"]))
                problems += [given.problem((*above, *key.split(".")), *told) for key, *told in own.found]
                continue
            key = tuple(part for part in map(str, issue["loc"]) if part != "[key]" and not re.search(r"[\[\]]", part))
            if issue["type"] == "extra_forbidden":
                near = [nearest(model, key)] if nearest(model, key) else elsewhere(model, key[-1])[:3]
                if "." in key[-1] and (section := key[-1].partition("."))[0] in model.model_fields:
                    problems.append(given.problem(key, "no such key", f"Write `{section[0]}: {{{section[2]}: ...}}`."))
                    continue
                remedy = f"Did you mean {' or '.join(near)}?" if near else "Remove it; `cgddi config` lists the keys."
                problems.append(given.problem(key, "no such key", remedy))
                continue
            told = [part for part in key if not part.isdigit()]  # not the place in a list
            ask = f"`cgddi config {'.'.join(told)}` says what it takes." if told else "`cgddi config` lists the keys."
            value = None if issue["type"] == "missing" or isinstance(issue["input"], dict) else issue["input"]
            message = (
                issue["msg"]
                .removeprefix("Value error, ")
                .replace("valid tuple", "list")
                .replace("valid dictionary", "mapping")
            )
            problem = given.problem(key, message, ask, value)
            one_of_several = key != tuple(map(str, issue["loc"]))  # of `this or that`
            if one_of_several and problems and problems[-1].key == problem.key:
                problems[-1] = replace(problems[-1], message=f"{problems[-1].message}, or: {message}")
            else:
                problems.append(problem)
        raise InvalidInput(problems) from None
