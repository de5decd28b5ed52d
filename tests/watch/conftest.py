"""The finished small world of `tests.watch.world`, made once; tests work in copies of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cgddi.plan.specs import revision

from tests.watch.world import finish, write_world


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The small world after a run."""
    folder = tmp_path_factory.mktemp("small")
    before = os.getcwd()
    os.chdir(folder)
    try:
        write_world()
        finish()
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def world(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished world, times kept, as the working directory."""
    folder = tmp_path / "world"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    yield folder
    revision.cache_clear()  # a test may have raised one
