"""What stands before every shell command of the workflow, so that it can call `cgddi` with arguments of any length. Light."""

from __future__ import annotations

import shlex
from pathlib import Path

LONGEST = 30_000
"""Characters of arguments that are handed over directly. The kernel takes 128 KB in one argument and 2 MB in all."""


def shell_prefix(python: str, workflow: str | Path, cache: str) -> str:
    """Bash that fails on the first error and defines `cgddi`.

    Long arguments go through a pipe, as `cgddi @FILE` reads them: a pooled job names every archive of the run, and a spec every
    row of its batch. Bash's own `printf` writes them, which no limit of the kernel touches; nothing is left on any disk.

    Args:
        python: the interpreter, as words of shell.
        workflow: the folder that holds the package `cgddi`.
        cache: the cache folder; matplotlib's list of fonts goes there too, since a run writes nothing at the user's home.
    """
    return (
        "set -euo pipefail; "
        f"export PYTHONPATH={shlex.quote(str(workflow))} CGDDI_CACHE={shlex.quote(cache)}; "
        'export MPLCONFIGDIR="$CGDDI_CACHE/matplotlib"; '
        'cgddi() { local all="$*"; '
        f'if (( ${{#all}} < {LONGEST} )); then {python} -m cgddi.cli "$@"; '
        f"else {python} -m cgddi.cli @<(printf '%s\\0' \"$@\"); fi; }}; "
    )
