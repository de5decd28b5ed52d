"""A browser for the pages that stages write."""

import pytest

from tests.stages.chromium import Chromium, find


@pytest.fixture
def browser(tmp_path, request):
    """A browser, where there is one; to install it takes a minute, which `make test-all` has (as root on Debian)."""
    binary = find(install="not slow" not in request.config.option.markexpr)
    if binary is None:
        pytest.skip("no Chromium here: apt-get install chromium, or `make test-all` as root on Debian")
    chromium = Chromium(binary, tmp_path / "chromium")
    yield chromium
    chromium.close()
