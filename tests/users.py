"""Other users of this machine, for tests of what several people share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@cache
def interpreter() -> tuple[str, dict[str, str]]:
    """A Python that any user can run, and the environment in which it finds what is installed here; a skip where there is none."""
    packages = f"{ROOT / 'workflow'}:{sysconfig.get_paths()['purelib']}"
    for python in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": packages,
            "OMP_NUM_THREADS": "1",
        }
        try:
            words = [python or "", "-c", "import pydantic_core, snakemake, torch"]
            done = subprocess.run(
                words, user=65534, group=65534, extra_groups=[], env=environment, cwd="/", capture_output=True
            )
        except OSError:
            continue
        if done.returncode == 0:
            return str(python), environment
    pytest.skip("no Python here that another user may run has the packages")


def of_user(user: str | int, group: str | int, home: Path, umask: int = 0o022) -> dict[str, Any]:
    """Arguments for `subprocess` that make a process another user's, whose home is made where it is not there."""
    if not home.exists():
        home.mkdir()
        shutil.chown(home, user, group)
    environment = {**interpreter()[1], "HOME": str(home)}
    return {"user": user, "group": group, "extra_groups": [group], "umask": umask, "env": environment}


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that all users reach: pytest's own are closed to others, and closed again whenever a pytest starts."""
    folder = Path(tempfile.mkdtemp(prefix="cgddi-open-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def lab(*names: str, group: str) -> Iterator[None]:
    """Users of one group, for a while."""
    if os.geteuid() != 0 or not shutil.which("useradd"):
        pytest.skip("making users needs root and useradd")
    undo = [*(["userdel", "--force", name] for name in names), ["groupdel", group]]

    def run(commands: list[list[str]], check: bool) -> None:
        for command in commands:
            subprocess.run(command, check=check, capture_output=True)

    run(undo, check=False)  # what a killed test left
    try:
        run([["groupadd", "--system", group]], check=True)
        run([["useradd", "--system", "--no-create-home", "--gid", group, name] for name in names], check=True)
        yield
    finally:
        run(undo, check=False)
