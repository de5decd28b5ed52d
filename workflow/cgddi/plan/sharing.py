"""Whether this user may write all that a run writes: results, cache and Snakemake's notes may be another's. Light."""

import os
import pwd
import stat
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
    """That a folder or file cannot be read and written, and what helps."""
    status = os.stat(path)
    if status.st_uid == os.getuid():
        return Problem(str(path), "cannot be written", "Look at its mode (`chmod -R u+rwX`) and at the disk.")
    text = f"belongs to {owner(path)}, and you may not read and write it"
    group = (
        "" if status.st_gid in (os.getgid(), *os.getgroups()) else f"`chgrp -R GROUP {path}` (a group of you both), "
    )
    remedy = f"Have {owner(path)} run {group}`chmod -R g+rwX {path}` and `find {path} -type d -exec chmod g+s {{}} +`"
    return Problem(str(path), text, f"{remedy}, and use umask 002.")


def nearest(path: str | Path) -> Path:
    """The path itself, or the first folder above it that is there."""
    path = Path(path)
    return path if path.exists() else next(above for above in path.absolute().parents if above.exists())


def without_notes() -> list[Problem]:
    """That Snakemake can keep no notes in the working directory, or not read them: it ends with a traceback then, in a dry-run
    too. Its notes of results are its user's and group's."""
    place = nearest(".snakemake")
    if place.name != ".snakemake":
        return [] if os.access(place, os.W_OK | os.X_OK) else [problem(place)]
    note = next((path for path in place.glob("metadata/*") if path.is_file()), place)
    return [] if os.access(note, os.R_OK) else [problem(place)]


def unwritable(results: str, cache: str) -> list[Problem]:
    """Folders in which a run writes and this user may not: one level deep, where a run makes files of its own."""
    places: list[Path] = []
    for top in (Path(results), Path(cache), Path(".snakemake")):
        if top.is_dir():
            places += [top, *_below(top)]
    places += [nearest(path) for path in (results, cache)]
    wrong = [path for path in dict.fromkeys(places) if not os.access(path, os.W_OK | os.X_OK)]
    tops = [path for path in wrong if not any(other in path.parents for other in wrong)]
    return [problem(path) for path in tops]


def umask_warnings(results: str) -> list[Problem]:
    """That this user's files will be closed to the others of a folder that is shared: one that its group writes and keeps."""
    place = nearest(results)
    mask = os.umask(0)
    os.umask(mask)
    if os.stat(place).st_mode & (stat.S_ISGID | stat.S_IWGRP) != stat.S_ISGID | stat.S_IWGRP or not mask & stat.S_IWGRP:
        return []
    text = f"is shared with a group, and what you make there will be closed to it (umask {mask:03o})"
    return [Problem(str(place), text, "Run `umask 002` before `snakemake`.")]


def _below(folder: Path) -> Iterable[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
