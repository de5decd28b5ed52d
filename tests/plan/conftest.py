"""A folder with a disease sheet, and the finished small world of `tests.watch.world`, made once for all tests of plans."""

import pytest

from tests.plan.sheet import DISEASES
from tests.watch.conftest import finished, world

__all__ = ["finished", "folder", "world"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "diseases.csv").write_text(DISEASES)
    return tmp_path
