"""The finished small world of `tests.watch.world`, made once for all tests of plans."""

from tests.watch.conftest import finished, world

__all__ = ["finished", "world"]
