"""The lock: the version of every package that requirements.txt and requirements-dev.txt bring along, in requirements.lock.

`python -m tests.plan.lock` writes it from what is installed here, after a pin has changed and `make test` has installed it. It is a
constraints file (`pip install -r requirements.txt -c requirements.lock`), without hashes: those of one machine's wheels would
refuse another's.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from cgddi.core.source import ROOT
from packaging.requirements import Requirement

LOCK = ROOT / "requirements.lock"
HEAD = """# Every package of an environment, with those that others bring along, for `pip install --constraint requirements.lock`.
# Written by `python -m tests.plan.lock`. Packages named nvidia-* and triton belong to the Linux build of torch.
"""


def normal_name(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct(path: Path) -> dict[str, str]:
    """Normal name -> version of what a requirements file pins itself."""
    return {
        normal_name(name): version
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", path.read_text(encoding="utf-8"), re.M)
    }


def tree(names: set[str]) -> dict[str, str]:
    """Normal name -> installed version of distributions and all that they need here (on this system, without extras they do not
    ask for)."""
    found: dict[str, str] = {}
    waiting = [(name, "") for name in names]
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (normal_name(name), extra) in seen:
            continue
        seen.add((normal_name(name), extra))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[normal_name(name)] = distribution.version
        for line in distribution.requires or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting += [(need.name, each) for each in ("", *need.extras)]
    return found


def locked() -> dict[str, str]:
    """What this environment holds of the project's requirements."""
    names = {*direct(ROOT / "requirements.txt"), *direct(ROOT / "requirements-dev.txt")}
    return dict(sorted(tree(names).items()))


if __name__ == "__main__":
    LOCK.write_text(HEAD + "".join(f"{name}=={version}\n" for name, version in locked().items()), encoding="utf-8")
    print(f"{LOCK}: {len(locked())} packages")
