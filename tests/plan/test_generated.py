"""Pinned versions: what is imported is pinned, what is pinned is locked, and no list drifts from another."""

import ast
import re
import sys
from importlib import metadata

import pytest
from cgddi.cli import COMMANDS
from cgddi.core.source import ROOT

from tests.plan import lock, pins

PINS = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M))
OURS = {"cgddi", "snakemake_logger_plugin_cgddi", "tests", "benchmarks"}
SNAKEMAKES_OWN = {"snakemake-interface-logger-plugins", "snakemake-interface-common"}
"""Parts of Snakemake that it distributes apart."""
UNIMPORTED = {
    "tensorboard": "torch.utils.tensorboard",
    "tokenizers": "what transformers reads prompts with: its version decides a token's number",
    "snakemake-executor-plugin-slurm": "profiles/slurm",
}
"""Pins of requirements.txt that no line of the code imports, with who does."""


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.name)
def test_environments_have_the_locks_pins(path):
    pins = dict(re.findall(r"- ([A-Za-z0-9._-]+)==(\S+)$", path.read_text(), re.M))
    assert pins and pins.items() <= PINS.items()


def test_what_planning_needs_has_the_locks_pins():
    lines = (ROOT / "requirements-plan.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins.items() <= PINS.items() and not {"torch", "diffusers", "transformers"} & pins.keys()


def test_no_floating_requirement():
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-plan.txt", "requirements.lock"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-r "))]
        assert len(lock.direct(ROOT / name)) == len(lines), name


def imported(*files) -> dict[str, str]:
    """Distribution that gives it -> a file that imports it, for all that files of this project import from elsewhere."""
    providers, found = metadata.packages_distributions(), {}
    for path in files:
        tree = ast.parse(path.read_text()) if path.suffix == ".py" else None
        names = (
            re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.M)
            if tree is None
            else [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
            + [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level and n.module]
        )
        for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - OURS:
            if not path.with_name(f"{name}.py").is_file():  # a script's neighbour
                found.update({lock.normal_name(each): str(path) for each in providers.get(name, [name])})
    return found


def test_what_a_run_imports_is_pinned_and_nothing_else_is():
    code = [*(ROOT / "workflow").rglob("*.py"), *(ROOT / "rules").glob("*.smk"), ROOT / "Snakefile"]
    asked, pinned = imported(*code), {lock.normal_name(name) for name in PINS}
    asked.pop("wandb", None)  # an extra
    assert {name: path for name, path in asked.items() if name not in pinned | SNAKEMAKES_OWN} == {}
    assert pinned - asked.keys() == set(UNIMPORTED)


def test_what_tests_and_benchmarks_import_is_pinned_and_no_user_installs_it():
    tools = {"ruff", "shfmt-py", "snakefmt", "pytest-xdist", "packaging"}
    asked = imported(*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"))
    dev = set(lock.direct(ROOT / "requirements-dev.txt"))
    pinned = {lock.normal_name(name) for name in PINS}
    assert {n: path for n, path in asked.items() if n not in dev | pinned | tools | SNAKEMAKES_OWN | {"wandb"}} == {}
    assert dev <= asked.keys() | tools and not dev & pinned


def test_the_lock_has_all_that_the_pins_bring_along():
    locked = lock.direct(lock.LOCK)
    pinned = lock.direct(ROOT / "requirements.txt") | lock.direct(ROOT / "requirements-dev.txt")
    assert pinned.items() <= locked.items()
    there = lock.tree(set(pinned))
    assert there.keys() - locked.keys() == set(), "`python -m tests.plan.lock` writes it anew"
    assert len(locked) > 3 * len(pinned)


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


LAZY = {"masks": {"torch", "transformers", "safetensors", "torchvision", "diffusers", "huggingface_hub"}}
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
