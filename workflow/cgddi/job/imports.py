"""How a stage imports its libraries. Light."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_gc() -> Iterator[None]:
    """Import large libraries without the garbage collector.

    torch and diffusers make half a million objects that stay to the end. The collector would look through all of them again and
    again while they come, a fifth of the time that importing them takes; and afterwards it need not look at them at all.
    """
    known, enabled = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
            atexit.register(gc.unfreeze)  # else extensions report what they hold as leaked
        if enabled:
            gc.enable()
