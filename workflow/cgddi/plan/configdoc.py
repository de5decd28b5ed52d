"""Write config/config.yaml, its JSON schema and the key tables of config/README.md from the typed models (`make config`)."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from cgddi.core.archive import write_atomic
from cgddi.plan.code import ROOT
from cgddi.plan.config import Config

BEGIN, END = "<!-- keys: written by `make config` -->", "<!-- end of keys -->"


def _scalar(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).replace("\n...", "").strip()


def _yaml_lines(model: BaseModel, indent: int) -> list[str]:
    lines = []
    pad = "  " * indent
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if field.description:
            width = 118 - len(pad)
            lines += [f"{pad}# {line}" for line in textwrap.wrap(" ".join(field.description.split()), width)]
        if isinstance(value, BaseModel):
            lines += [f"{pad}{name}:", *_yaml_lines(value, indent + 1)]
        elif isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
            lines.append(f"{pad}{name}:")
            for key, item in value.items():
                lines += [f"{pad}  {key}:", *_yaml_lines(item, indent + 2)]
        else:
            plain = json.loads(type(model).__pydantic_serializer__.to_json(model))[name]
            lines.append(f"{pad}{name}: {_scalar(plain)}")
        if indent == 0 and isinstance(value, BaseModel):
            lines.append("")
    return lines


def default_yaml() -> str:
    """The default configuration (DDI) as commented YAML."""
    head = [
        "# The DDI configuration, with every key and its default. A config of your own needs only the keys it changes.",
        "# Written by `make config` from the models in workflow/cgddi; unknown keys are errors.",
        "",
    ]
    return "\n".join([*head, *_yaml_lines(Config(), 0)]).rstrip() + "\n"


def schema_json() -> str:
    """JSON schema of the configuration, for editors."""
    return json.dumps(Config.model_json_schema(), indent=1, sort_keys=True) + "\n"


def _rows(model: type[BaseModel], prefix: str) -> list[str]:
    rows = []
    defaults = model.model_construct() if prefix else Config()
    for name, field in model.model_fields.items():
        value = getattr(defaults, name, None)
        if isinstance(value, BaseModel):
            rows += _rows(type(value), f"{prefix}{name}.")
            continue
        if isinstance(value, dict | tuple | list) or value is None or isinstance(value, str | int | float | bool):
            if isinstance(value, dict):
                value = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in value.items()}
            shown = json.dumps(value, default=str)
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | `{shown}` | {text} |")
    return rows


def key_table() -> str:
    """Every config key with its default and meaning, as a Markdown table."""
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *_rows(Config, "")])


def documents(root: Path = ROOT) -> dict[Path, str]:
    """The generated files: path -> text."""
    readme = root / "config" / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return {
        root / "config" / "config.yaml": default_yaml(),
        root / "workflow" / "schemas" / "config.schema.json": schema_json(),
        readme: f"{before}{BEGIN}\n\n{key_table()}\n\n{END}{after}",
    }


if __name__ == "__main__":
    for path, text in documents().items():
        write_atomic(path, text)
        print(path, file=sys.stderr)
