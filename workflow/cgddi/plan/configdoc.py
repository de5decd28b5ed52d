"""`cgddi config`: what each key of the configuration means, its default and what it takes, from the typed models.

cgddi config                    the sections and keys at the top
cgddi config lora               a section, as YAML with comments: copy what you change into your config file
cgddi config lora.rank          one key
cgddi config --all              everything
cgddi config --schema           a JSON schema, for editors
"""

import json
import textwrap
from typing import Any

import yaml
from pydantic import BaseModel

from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.core.settings import is_neutral
from cgddi.plan.config import Config
from cgddi.plan.configfile import elsewhere, entries_of, nearest, section_of

WIDTH = 118
LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {} of them",
}


def scalar(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.replace("\n...", "").strip()


def takes(model: type[BaseModel], name: str) -> str:
    """What a key takes, in words: its choices or its type and limits."""
    schema = model.model_json_schema()["properties"][name]
    words = []
    for option in schema.get("anyOf", [schema]):
        kind = "null" if option.get("type") == "null" else option.get("type", "section")
        limits = [text.format(f"{option[key]:g}") for key, text in LIMITS.items() if key in option]
        choices = option.get("enum") or ([option["const"]] if "const" in option else [])
        if kind == "array":
            each = option.get("items", {})
            choices = each.get("enum", [])
            kind = "a list of" if choices else f"a list of {each['type']}s" if "type" in each else "a list"
            words.append(" ".join([kind, ", ".join(map(str, choices)), ", ".join(limits)]).strip())
        elif choices:
            words.append(" | ".join(map(str, choices)))
        else:
            words.append(", ".join([{"object": "a mapping", "string": "text"}.get(kind, kind), *limits]))
    return " or ".join(words)


def _comment(text: str, pad: str) -> list[str]:
    return [f"{pad}# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH - len(pad))]


def yaml_of(model: type[BaseModel], value: BaseModel | None, depth: int = 0) -> list[str]:
    """Lines of YAML with every key of a section, its default, its meaning and its choices.

    Args:
        value: the section's default; None shows the keys as comments, for an entry whose name the user chooses.
    """
    pad, lines = "  " * depth, []
    for name, info in model.model_fields.items():
        default, below, each = _default(model, value, name), section_of(info.annotation), entries_of(info.annotation)
        text = info.description or (below.__doc__ if below else None) or ""
        choices = "" if below or each else takes(model, name)
        text = text.split("\n\n")[0]
        lines += _comment(f"{text} [{choices}]" if " | " in choices else text, pad)
        if isinstance(default, BaseModel):
            lines += [f"{pad}{name}:", *yaml_of(below, default, depth + 1)]
        elif each and default:
            lines.append(f"{pad}{name}:")
            for key, item in default.items():
                lines += [f"{pad}  {key}:", *yaml_of(each, item, depth + 2)]
        else:
            lines.append(f"{pad}{name}: {scalar(_plain(default))}")
            lines += [f"{pad}#   NAME:", *(f"{pad}#   {line}" for line in yaml_of(each, None, 1))] if each else []
        if depth == 0 and isinstance(default, BaseModel):
            lines.append("")
    return lines


def all_yaml() -> str:
    """Every key with its default, as a config file."""
    head = ["# Every key with its default. A config needs only the keys it changes; unknown keys are errors.", ""]
    return "\n".join([*head, *yaml_of(Config, Config())]).rstrip() + "\n"


def _overview() -> str:
    lines = []
    for name, info in Config.model_fields.items():
        if below := section_of(info.annotation):
            text, shown = info.description or (below.__doc__ or "").split("\n")[0], f"{name}:"
        else:
            value = _plain(getattr(Config(), name))
            text, shown = info.description, f"{name}:" if isinstance(value, dict) else f"{name}: {scalar(value)}"
        lines.append(textwrap.shorten(f"{shown:<28} # {' '.join(text.split())}", WIDTH + 12, placeholder=" ..."))
    return "\n".join([*lines, "", "`cgddi config KEY` explains one (`lora`, `lora.rank`); `--all` prints everything."])


def describe(key: str) -> str:
    """A key's default, what it takes and what it means; a section as YAML.

    Raises:
        UserError: there is no such key; the nearest are named.
    """
    path = tuple(key.split("."))
    return "\n".join(_describe(Config, Config(), path, path))


def _describe(
    model: type[BaseModel], value: BaseModel | None, rest: tuple[str, ...], path: tuple[str, ...]
) -> list[str]:
    name, *rest = rest
    info = model.model_fields.get(name)
    if info is None:
        close = nearest(Config, path[: len(path) - len(rest)])
        near = [close] if close else elsewhere(Config, path[-1])[:4]
        raise UserError(
            f"no key {'.'.join(path)}. " + (f"Did you mean {' or '.join(near)}?" if near else "See `cgddi config`.")
        )
    default = _default(model, value, name)
    below, each = section_of(info.annotation), entries_of(info.annotation)
    if each and rest:  # the name of an entry is the user's own
        below, default = each, default.get(rest[0]) if isinstance(default, dict) else None
        rest = rest[1:]
    if rest and not below:
        raise UserError(f"{'.'.join(path[: len(path) - len(rest)])} is a single key, with none below it.")
    if rest:
        return _describe(below, default, tuple(rest), path)
    if below:
        text = _comment(info.description or (below.__doc__ or "").split("\n")[0], "  " * (len(path) - 1))
        heads = ["  " * depth + f"{part}:" for depth, part in enumerate(path)]
        return [*heads[:-1], *text, heads[-1], *yaml_of(below, default, len(path))]
    lines = [f"{'.'.join(path)}: {scalar(_plain(default))}", *_wrapped(info.description or "")]
    lines += _wrapped(f"takes: {takes(model, name) if not each else 'entries by name'}")
    if is_neutral(model, name):
        lines += _wrapped("changes no result, so that nothing runs again when it is changed")
    return [*lines, "  NAME:", *yaml_of(each, None, 2)] if each else lines


def _default(model: type[BaseModel], value: BaseModel | None, name: str) -> Any:
    info = model.model_fields[name]
    if value is not None:
        return getattr(value, name)
    return None if info.is_required() else info.get_default(call_default_factory=True)


def _plain(value: Any) -> Any:
    """A default as YAML holds it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent="  ", subsequent_indent="  ")


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi config`."""
    parser = command_parser("config", __doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("key", nargs="?", help="a section or a key, e.g. lora or lora.rank")
    what.add_argument("--all", action="store_true", help="every key, as YAML with comments")
    what.add_argument("--schema", action="store_true", help="a JSON schema")
    args = parser.parse_args(argv)
    if args.schema:
        print(json.dumps(Config.model_json_schema(), indent=1, sort_keys=True))
    elif args.all:
        print(all_yaml(), end="")
    else:
        print(describe(args.key) if args.key else _overview())
    return 0
