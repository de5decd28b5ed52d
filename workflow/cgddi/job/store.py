"""What a GPU made, kept by the digest of everything that made it: a correction costs what it touches, and a killed job goes on.

An entry is one file below `<cache>/made/<kind>/`: a line of JSON, then the bytes of the files it holds. Results are copies of them
and no hard links: a link would share its time with a result of another run, and a change in place would change both. Light.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from cgddi.core.archive import DISTRIBUTIONS, canonical, installed_versions, sha256, write_atomic

DAY = 86400.0


class Made(NamedTuple):
    """One item: its files by name, and what else is to be known of it."""

    files: dict[str, bytes]
    facts: dict[str, Any]

    def write(self, folder: str | Path) -> None:
        """Write its files into a folder."""
        for name, data in self.files.items():
            write_atomic(Path(folder) / name, data)


class MadeStore:
    """The items of one job.

    Safe under concurrent jobs: entries are renamed into place, and equal keys hold equal content. An entry that is cut or changed
    counts as none. A folder that cannot be written or read costs time, never the job; stderr says so once.

    Args:
        cache: the cache's folder; None keeps nothing.
        facts: all that made every item of the job, as JSON values, beside the versions of the libraries.
        device: "cpu" or "cuda", which round differently.
    """

    def __init__(self, cache: str | Path | None, kind: str, facts: Any, device: str = "cpu"):
        self.folder = Path(cache) / "made" / kind if cache else None
        self._facts = [kind, facts, str(device).partition(":")[0]]
        self._base: str | None = None
        self.computed = self.reused = 0
        self._warned, self._lock = False, threading.Lock()

    def _path(self, item: Any) -> Path:
        if self._base is None:
            self._base = sha256(canonical([*self._facts, installed_versions(DISTRIBUTIONS)]))
        key = sha256(canonical([self._base, item]))
        return self.folder / key[:2] / key

    def get(self, item: Any = None) -> Made | None:
        """An item that was made before, by what it alone was made from (JSON values); None where there is none."""
        if self.folder is None:
            return None
        path = self._path(item)
        try:
            head, _, body = path.read_bytes().partition(b"\n")
            about = json.loads(head)
            if about["sha256"] != sha256(body) or about["key"] != path.name:
                return None
            with suppress(OSError):  # another user's
                os.utime(path)  # what is used last is pruned last
        except (OSError, ValueError, KeyError, TypeError):
            return None
        files, start = {}, 0
        for name, size in about["files"]:
            files[name], start = body[start : start + size], start + size
        self.reused += 1
        return Made(files, about["facts"])

    def put(self, files: Mapping[str, bytes], facts: Mapping[str, Any], item: Any = None) -> Made:
        """Keep an item that was made now."""
        with self._lock:
            self.computed += 1
        made = Made(dict(files), dict(facts))
        if self.folder is not None:
            path, body = self._path(item), b"".join(files.values())
            sizes = [[name, len(data)] for name, data in files.items()]
            about = {"key": path.name, "sha256": sha256(body), "files": sizes, "facts": made.facts}
            try:
                write_atomic(path, [canonical(about).encode(), b"\n", body], alone=False)
            except OSError as error:
                self._warn(error)
        return made

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            print(f"cache {self.folder}: {error.strerror or error}; going on without it", file=sys.stderr)


def prune(cache: str | Path, gigabytes: float) -> int:
    """Remove what was not used for longest until the store of a cache is no larger than this; gives the entries removed.

    What killed jobs left half written goes too, once it is a day old: others may be writing now.
    """
    entries, total, removed = [], 0, 0
    for path in Path(cache, "made").glob("*/*/*"):
        try:
            status = path.stat()
            if path.name.startswith(".") and status.st_mtime < time.time() - DAY:
                path.unlink()
            elif not path.name.startswith("."):
                entries.append((status.st_mtime_ns, path, status.st_size))
                total += status.st_size
        except OSError:
            continue  # another run prunes too
    for _, path, size in sorted(entries):
        if total <= gigabytes * 1e9:
            break
        path.unlink(missing_ok=True)
        total, removed = total - size, removed + 1
    return removed
