"""Source hashes: code changes count, comments and docstrings do not, and a stage sees only what it imports."""

import subprocess
import sys

import cgddi.plan.code as module
import pytest

CODE = '"""Doc."""\n\ndef f(x):\n    """Doc."""\n    return x + 1\n'


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / "cgddi"
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "shared.py").write_text(CODE)
    for name in "ab":
        (root / name / "command.py").write_text(
            f"def main():\n    from cgddi.shared import f\n    return f({name!r})\n"
        )
    (root / "a" / "command.py").write_text("import json\n\n\ndef main():\n    return json\n")
    monkeypatch.setattr(module, "PACKAGE", root)

    def digest(name):
        module._parsed.cache_clear()
        module.source_hash.cache_clear()
        return module.source_hash(f"cgddi.{name}.command")

    yield root, digest
    module._parsed.cache_clear()
    module.source_hash.cache_clear()


def test_comments_docstrings_and_layout_do_not_count(package):
    root, digest = package
    before = digest("b")
    (root / "shared.py").write_text(
        '"""Other."""\n# a comment\ndef f(x):\n    """Longer\n    text."""\n\n    return (x + 1)\n'
    )
    assert digest("b") == before


def test_code_counts_also_behind_a_lazy_import_and_only_where_imported(package):
    root, digest = package
    a, b = digest("a"), digest("b")
    (root / "shared.py").write_text(CODE.replace("+ 1", "+ 2"))
    assert digest("b") != b
    assert digest("a") == a


def test_relative_imports_are_followed(package):
    root, digest = package
    (root / "a" / "command.py").write_text("from .part import g\nfrom ..shared import f\n")
    (root / "a" / "part.py").write_text("g = 1\n")
    before = digest("a")
    (root / "a" / "part.py").write_text("g = 2\n")
    changed = digest("a")
    (root / "shared.py").write_text(CODE.replace("+ 1", "+ 2"))
    assert len({before, changed, digest("a")}) == 3


def test_data_files_count_for_the_module_that_names_them(package):
    root, digest = package
    (root / "a" / "table.csv").write_text("x\n")
    (root / "a" / "command.py").write_text('TABLE = "table.csv"\n')
    a, b = digest("a"), digest("b")
    (root / "a" / "table.csv").write_text("y\n")
    (root / "a" / "other.csv").write_text("z\n")
    assert digest("a") != a and digest("b") == b


def test_planning_imports_nothing_heavy():
    heavy = ("torch", "diffusers", "pandas", "skimage", "sklearn", "PIL")
    code = f"import cgddi.plan.plan, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "workflow"}
    )
    assert done.stdout.strip() == "[]"


def test_no_stage_reruns_when_planning_code_changes(monkeypatch):
    seen, parsed = set(), module._parsed
    monkeypatch.setattr(module, "_parsed", lambda name: seen.add(name) or parsed(name))
    module.source_hash.cache_clear()
    for command in module.PACKAGE.rglob("*command.py"):
        module.source_hash(".".join(("cgddi", *command.relative_to(module.PACKAGE).with_suffix("").parts)))
    planning = {f"plan.{name}" for name in ("plan", "project", "worklist", "specs", "jobs")}
    planning |= {"fedd.plan", "fedd.worklist", "fedd.refusals"}
    names = {f"cgddi.{name}" for name in planning}
    assert "cgddi.fedd.segmenter" in seen and all(module._path(name) for name in names)
    assert not seen & names
