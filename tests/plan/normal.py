"""What of a module's code decides numbers. Needs the standard library alone, so that any Python can tell whether it agrees."""

from __future__ import annotations

import ast
import json

SKIPPED = {"ctx", "type_comment", "type_params", "kind", "annotation", "returns"}
"""Fields of a syntax tree that differ between versions of Python, or are annotations."""
TELLING = {"print", "warn", "info", "warning", "error", "debug", "exception", "UserError", "Problem", "InvalidInput"}
"""Functions whose texts are read by a person alone."""
TEXTS = {"description", "help", "message", "remedy", "epilog", "prog", "metavar", "desc"}
"""Keywords of which that is true, whatever the function."""
TEXT = ast.Constant("")


class _Texts(ast.NodeTransformer):
    """Texts for a person become empty."""

    def __init__(self) -> None:
        self.telling = 0

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self.telling += 1
        self.generic_visit(node)
        self.telling -= 1
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        told = int(name in TELLING)
        self.telling += told
        self.generic_visit(node)
        self.telling -= told
        for keyword in node.keywords:
            if keyword.arg in TEXTS:
                keyword.value = TEXT
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return TEXT if self.telling and isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return TEXT if self.telling else node


def normal(code: str) -> str:
    """What of a module's code decides numbers, as text."""
    return json.dumps(_flat(_Texts().visit(ast.parse(code))), sort_keys=True)


def _flat(node: object) -> object:
    """A syntax tree as lists, without docstrings, imports and what SKIPPED names."""
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 has empty parts that others have not
        return ["JoinedStr", [_flat(part) for part in node.values if getattr(part, "value", None) != ""]]
    if isinstance(node, list):
        kept = [_flat(item) for item in node if not (isinstance(item, ast.Import | ast.ImportFrom) or _is_text(item))]
        return [item for item in kept if item is not None]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, int | str | bool | None) else repr(node)
    name = "Assign" if isinstance(node, ast.AnnAssign) else type(node).__name__
    fields = {}
    for field, value in ast.iter_fields(node):
        if field not in SKIPPED and value not in (None, []) and field != "simple":
            # An assignment with an annotation is one without.
            plain = [value] if isinstance(node, ast.AnnAssign) and field == "target" else value
            fields["targets" if plain is not value else field] = _flat(plain)
    return [name, fields]


def _is_text(node: object) -> bool:
    """A string that stands by itself: a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
