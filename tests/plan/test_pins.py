"""What a stage computes is pinned: who changes it raises the stage's REVISION, or says that no number changed by pinning anew."""

import json
import shutil
import subprocess
import sys

import pytest
from cgddi.core.source import PACKAGE, ROOT

from tests.plan import pins
from tests.plan.normal import normal
from tests.plan.pins import PINS, now

CODE = '''
"""A module."""
import numpy as np
from cgddi.core.errors import UserError

def scale(x: float, by: int = 2) -> float:
    """Scale."""
    if x < 0:
        raise UserError(f"{x} is negative. Give another.")
    print("scaled", x)
    return x * by
'''


@pytest.mark.parametrize("stage", sorted(now()))
def test_a_stage_computes_what_was_pinned(stage):
    assert PINS.is_file(), "no stage is pinned: run `python -m tests.plan.pins`"
    pinned = json.loads(PINS.read_text())
    assert now()[stage] == pinned.get(stage), (
        f"The code of stage {stage} changed, or code it shares. If its numbers change: raise REVISION in its settings, so that "
        "its results are made again, and say so in CHANGELOG.md. Then, or if no number changes: `python -m tests.plan.pins`."
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("is negative. Give another.", "must not be negative."),
        ('"""Scale."""', '"""Scale it.\n\n    Longer.\n    """'),
        ("x: float, by: int = 2) -> float", "x, by: float = 2)"),
        ("import numpy as np", "import numpy.linalg as np"),
        ("from cgddi.core.errors import UserError", "from cgddi.core.problems import UserError"),
        ('"scaled", x', '"scaled once", x'),
        ("    return x * by", "\n    # a comment\n    return (x * by)"),
    ],
)
def test_what_changes_no_number_changes_no_hash(old, new):
    assert old in CODE and normal(CODE.replace(old, new)) == normal(CODE)


@pytest.mark.parametrize(
    ("old", "new"), [("x * by", "x / by"), ("x < 0", "x <= 0"), ("= 2", "= 3"), ("scale", "rescale")]
)
def test_what_may_change_a_number_changes_the_hash(old, new):
    assert normal(CODE.replace(old, new)) != normal(CODE)


def test_the_text_of_a_key_is_none_of_its_value():
    assert normal('a = Field(4, description="rank")') == normal('a: int = Field(4, description="the rank")')
    assert normal("a = Field(4)") != normal("a = Field(8)")
    assert normal('MODE = "a"') != normal('MODE = "b"')


def test_code_counts_where_it_is_imported_however_late(tmp_path, monkeypatch):
    root = tmp_path / "cgddi"
    for name, code in {
        "stages/a/command.py": "def main():\n    from cgddi.core.shared import f\n    return f",
        "stages/b/command.py": "from .part import g",
        "stages/b/part.py": 'TABLE = "table.csv"',
        "stages/b/table.csv": "x\n",
        "core/shared.py": "f = 1",
        "plan/x.py": "y = 1",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(code)
    monkeypatch.setattr(pins, "PACKAGE", root)

    def hashes():
        pins._hashed.cache_clear()
        return pins.code_hash("cgddi.stages.a"), pins.code_hash("cgddi.stages.b")

    first = hashes()
    (root / "plan/x.py").write_text("y = 2")
    assert hashes() == first
    (root / "core/shared.py").write_text("f = 2")
    second = hashes()
    assert second[0] != first[0] and second[1] == first[1]
    (root / "stages/b/table.csv").write_text("y\n")
    assert hashes()[0] == second[0] and hashes()[1] != second[1]
    (root / "core/shared.py").rename(root / "core/common.py")
    (root / "stages/a/command.py").write_text("def main():\n    from cgddi.core.common import f\n    return f")
    assert hashes()[0] == second[0]
    pins._hashed.cache_clear()


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_every_python_finds_the_same(version):
    """Case P18: `ast.unparse` differs between versions, what is hashed here does not."""
    code = "import sys; from hashlib import sha256; from tests.plan.normal import normal\n"
    code += "print(*(sha256(normal(open(p).read()).encode()).hexdigest() for p in sys.argv[1:]))"
    files = sorted(map(str, PACKAGE.rglob("*.py")))

    def hashes(python):
        return subprocess.run([python, "-c", code, *files], capture_output=True, text=True, cwd=ROOT)

    other = hashes(shutil.which(f"python{version}") or "false")
    if other.returncode:
        pytest.skip(f"no Python {version} here")
    assert other.stdout.split() == hashes(sys.executable).stdout.split()
