"""How tests are shared between workers (`make test` runs two): tests of a group share what is made once, so they stay together."""

from __future__ import annotations

from pathlib import Path

import pytest

TOGETHER = ("workflow", "cluster", "diffusion", "fedd")
"""Folders whose tests share one finished run, cluster or model; the longest first, so that no worker ends with them alone."""


def _group(item: pytest.Item) -> str:
    folder, *rest = Path(item.path).relative_to(Path(__file__).parent).parts
    return folder if folder in TOGETHER else "/".join((folder, *rest))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    rank = {name: place for place, name in enumerate(TOGETHER)}
    items.sort(key=lambda item: rank.get(_group(item), len(rank)))
