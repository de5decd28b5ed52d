"""Pinned versions: one list, from which the others must not drift."""

import ast
import re
import sys
from importlib import metadata

import pytest
from cgddi.cli import COMMANDS
from cgddi.plan.code import ROOT

from tests.plan import pins

PINS = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M))


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.name)
def test_environments_have_the_locks_pins(path):
    pins = dict(re.findall(r"- ([A-Za-z0-9._-]+)==(\S+)$", path.read_text(), re.M))
    assert pins and pins.items() <= PINS.items()


def test_what_planning_needs_has_the_locks_pins():
    lines = (ROOT / "requirements-plan.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins.items() <= PINS.items() and not {"torch", "diffusers", "transformers"} & pins.keys()


def test_no_floating_requirement():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(PINS) == len(lines)


def third_party(module: str) -> dict[str, str]:
    """Packages that a module and those of this project that it imports need, each with the module that asks."""
    found, waiting, seen = {}, [module], set()
    while waiting:
        name = waiting.pop()
        if name in seen or not (path := pins.path_of(name)):
            continue
        seen.add(name)
        waiting += pins.imports(name, path)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module else []
            found.update({each.split(".")[0]: name for each in names})
    return {k: v for k, v in found.items() if k not in sys.stdlib_module_names and k != "cgddi"}


def with_dependencies(names: set[str]) -> set[str]:
    """Distributions and all they depend on, in lower case with dashes."""
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        waiting += [re.match(r"[\w.-]+", need)[0] for need in needs if "extra ==" not in need]
    return found


def rules_environments() -> set[tuple[str, str]]:
    """(command, environment file) of every rule."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    parts = re.split(r"^ *rule ", text, flags=re.M)[1:]
    found = {
        (re.search(r"cgddi}(?: --gpus \S+)? (\w+)", p)[1], re.search(r"envs/(\w+\.yaml)", p)[1])
        for p in parts
        if "envs/" in p and "cgddi}" in p
    }
    assert len(found) >= 14
    return found


LAZY = {"masks": {"torch", "transformers", "safetensors", "torchvision", "diffusers"}}
"""What a command needs in jobs of other rules only, which name another environment (masks by SAM 3 or FEDD)."""


@pytest.mark.parametrize(("command", "environment"), sorted(rules_environments()))
def test_an_environment_holds_what_its_stages_import(command, environment):
    """Fast and coarse; tests/workflow/test_environments.py runs them."""
    if command == "fedd":
        pytest.skip("its jobs lie in two environments and import by job")
    pins_of = set(re.findall(r"- ([A-Za-z0-9._-]+)==", (ROOT / "envs" / environment).read_text()))
    there = with_dependencies(pins_of)
    providers = metadata.packages_distributions()
    lazy = LAZY.get(command, set()) if environment == "images.yaml" else set()
    missing = {
        package: asks
        for package, asks in third_party(COMMANDS[command][0]).items()
        if package not in lazy
        and not {re.sub(r"[-_.]+", "-", d).lower() for d in providers.get(package, [package])} & there
    }
    assert not missing
