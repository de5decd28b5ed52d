"""Where the code that runs lies, and its commit, for what a person reads: no result depends on it."""

import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parent.parent


def source_commit() -> str | None:
    """The clone's commit, "(changed)" behind it where files differ from it; None outside a clone of this workflow."""
    asked = ("rev-parse --show-prefix", "rev-parse HEAD", "status --porcelain --untracked-files=no -- .")
    try:
        prefix, commit, changed = (
            subprocess.run(
                ["git", "-C", str(PACKAGE), *words.split()], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for words in asked
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # An installed package may lie in somebody else's repository.
    return f"{commit[:12]}{' (changed)' if changed else ''}" if prefix == "workflow/cgddi/" else None
