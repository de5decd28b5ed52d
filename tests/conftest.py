"""How tests are shared between workers (`make test` runs three): those that share what is made once stay together."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("workflow", "cluster", "diffusion", "fedd")
"""Folders whose tests share one finished run, cluster or model; the longest first, so that no worker ends with them alone."""


def group_of(nodeid: str) -> str:
    """The folder of a test where its tests stay together, else its file."""
    file = nodeid.split("::")[0].removeprefix("tests/")
    folder = file.split("/")[0]
    return folder if folder in TOGETHER else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(TOGETHER)}
    items.sort(key=lambda item: rank.get(group_of(item.nodeid), len(rank)))


class ByGroup(LoadScopeScheduling):
    """Gives a worker whole groups. (xdist's own `loadgroup` does nothing under pytest 9.)"""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)  # `-p no:xdist` knows no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByGroup:
    return ByGroup(config, log)
