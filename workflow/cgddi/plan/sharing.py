"""Whether this user may write all that a run writes: results, cache and Snakemake's notes may be another's. Light."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from cgddi.core.errors import Problem


def owner(path: str | Path) -> str:
    """Name of a file's owner, or its number."""
    number = os.stat(path).st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def problem(path: str | Path) -> Problem:
    """That a folder or file cannot be written, and what helps."""
    if os.stat(path).st_uid == os.getuid():
        return Problem(str(path), "cannot be written", "Look at its mode (`chmod -R u+rwX`) and at the disk.")
    text = f"belongs to {owner(path)}, and you may not write it"
    remedy = f"Have {owner(path)} run `chmod -R g+rwX {path}` and `find {path} -type d -exec chmod g+s {{}} +`, and use umask 002."
    return Problem(str(path), text, remedy)


def unwritable(results: str, cache: str) -> list[Problem]:
    """Folders in which a run writes and this user may not: one level deep, where a run makes files of its own.

    Args:
        results: folder of the results. cache: folder of the cache.
    """
    places: list[Path] = []
    for top in (Path(results), Path(cache), Path(".snakemake")):
        if top.is_dir():
            places += [top, *_below(top)]
    for path in (Path(results), Path(cache)):
        if not path.exists():
            places.append(next(above for above in path.absolute().parents if above.exists()))
    wrong = [path for path in dict.fromkeys(places) if not os.access(path, os.W_OK | os.X_OK)]
    tops = [path for path in wrong if not any(other in path.parents for other in wrong)]
    return [problem(path) for path in tops]


def _below(folder: Path) -> Iterable[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
