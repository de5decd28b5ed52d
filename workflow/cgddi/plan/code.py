"""Hash of the code a stage really runs, so that a change to it reruns the stage, and a comment reruns nothing."""

from __future__ import annotations

import ast
import hashlib
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parent.parent
NEUTRAL = {"cgddi.cli", "cgddi.job.command", "cgddi.core.errors", "cgddi.job.imports", "cgddi.job.runtime"}
"""Modules that carry a stage without shaping its result: their changes rerun nothing."""


@cache
def _parsed(module: str) -> tuple[str, frozenset[str]]:
    """(hash of a module's code without comments and docstrings, the cgddi modules it imports)."""
    path = _path(module)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            imports.add(base)
            imports.update(f"{base}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body[0] = ast.copy_location(ast.Pass(), first)
    code = hashlib.sha256(ast.unparse(tree).encode())
    for name in sorted(
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and _is_data(node.value)
    ):
        for data in (path.parent / name, path.parent / "templates" / name):
            if data.is_file():
                code.update(data.read_bytes())
    return code.hexdigest(), frozenset(
        name for name in imports if name.split(".")[0] == "cgddi" and _path(name) is not None
    )


def _is_data(value: object) -> bool:
    """Whether a constant of the code names a data file, which may lie beside it."""
    return isinstance(value, str) and re.fullmatch(r"[\w-]+\.(csv|html)", value) is not None


def _path(module: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def source_hash(module: str) -> str:
    """Hash of a module, of all cgddi modules it imports, directly or not, and of the csv and html files beside them they name.

    Args:
        module: dotted name, e.g. "cgddi.stages.lora.command".

    Returns:
        16 hex digits.
    """
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name in NEUTRAL:
            continue
        seen[name], imports = _parsed(name)
        waiting += imports
    return hashlib.sha256("\n".join(sorted(f"{k} {v}" for k, v in seen.items())).encode()).hexdigest()[:16]


@cache
def pinned_versions() -> dict[str, str]:
    """Distribution -> version as pinned in requirements.txt: the same on every machine, whatever the head node has."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / "requirements.txt").read_text(), flags=re.M)
    return {name.lower(): version for name, version in pins}
