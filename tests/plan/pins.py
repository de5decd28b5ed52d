"""A hash of what each stage computes, pinned in pins.json beside this file: a change of it asks for a thought about REVISION.

`python -m tests.plan.pins` pins anew. The hash is of the code of a stage's folder and of all it imports from this project, without
what changes no number: comments, docstrings, annotations, imports, names of modules, and the texts of errors, help, logs and
descriptions. It is the same under every version of Python.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import sys
from functools import cache
from pathlib import Path

from cgddi.core.source import PACKAGE
from cgddi.plan.specs import STAGES, stage_package

from tests.plan.normal import normal

PINS = Path(__file__).with_name("pins.json")
NEUTRAL = ("cgddi.cli", "cgddi.job", "cgddi.plan", "cgddi.watch", "cgddi.core.errors")
"""Modules (with all below them) that carry a stage without shaping its numbers."""


def imports(module: str, path: Path) -> set[str]:
    """The modules of this project that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                inside = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*inside[: len(inside) - node.level + 1], *filter(None, [node.module])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] == "cgddi" and path_of(name)}


def path_of(module: str) -> Path | None:
    """File of a module; None where there is none."""
    base = PACKAGE.parent.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _hashed(module: str) -> tuple[str, frozenset[str]]:
    """(hash of a module and of the csv files beside it that it names, what it imports)."""
    path = path_of(module)
    code = path.read_text(encoding="utf-8")
    digest = hashlib.sha256(normal(code).encode())
    named = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    for table in sorted(path.parent.glob("*.csv")):
        if table.name in named:
            digest.update(table.read_bytes())
    return digest.hexdigest(), frozenset(imports(module, path))


def code_hash(package: str) -> str:
    """Hash of all modules of a package and of what they import."""
    folder = PACKAGE.parent.joinpath(*package.split("."))
    waiting = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in folder.rglob("*.py")
    ]
    seen: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name not in seen and not any(name == off or name.startswith(f"{off}.") for off in NEUTRAL):
            seen[name], more = _hashed(name)
            waiting += more
    return hashlib.sha256("\n".join(sorted(seen.values())).encode()).hexdigest()[:16]


def now() -> dict[str, dict[str, object]]:
    """Stage -> its revision and the hash of its code."""
    packages = {stage: stage_package(stage) for stage in STAGES}
    return {
        stage: {"revision": importlib.import_module(f"{package}.settings").REVISION, "code": code_hash(package)}
        for stage, package in packages.items()
    }


if __name__ == "__main__":
    PINS.write_text(json.dumps(now(), indent=1, sort_keys=True) + "\n")
    print(f"{len(STAGES)} stages pinned in {PINS}", file=sys.stderr)
