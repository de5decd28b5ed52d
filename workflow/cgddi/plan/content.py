"""What files hold, remembered by path, size and times: photos, masks and models enter a spec by content, not by name. Light."""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cgddi.core.archive import canonical, file_sha256, file_stamp, sha256, write_atomic
from cgddi.core.errors import UserError
from cgddi.core.settings import is_located, is_neutral
from cgddi.plan import intact

COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS = 2
"""After so long a person is told what is being read."""


def spec_hash(spec: Any) -> str:
    """Short hash of a spec, as in the name of its file."""
    return sha256(canonical(spec))[:16]


class Contents:
    """Digests of files and folders, read once: a file that has its size and times of before is not read again.

    Args:
        memory: JSON file that keeps the digests from one planning to the next; left alone unless `saves`.
        saves: whether what was read is kept there (by the process that steers a run).
    """

    def __init__(self, memory: Path, saves: bool = False):
        # Absolute, since it is also saved when the process ends, wherever that then is.
        self.memory, self.saves = memory.absolute(), saves
        self.places: dict[str, Any] = {}
        """What stands in a spec -> where that lies: "sha256:..." a file, "folder:..." or "commit:..." a model."""
        self._changed = False
        try:
            self._known: dict[str, list[Any]] = json.loads(memory.read_text(encoding="ascii"))
        except (OSError, ValueError):
            self._known = {}

    def save(self) -> None:
        """Keep what was read, where that may be written: a person who may only read can still ask for the plan."""
        if self._changed and self.saves:
            with suppress(OSError):
                write_atomic(self.memory, json.dumps(self._known, ensure_ascii=True), alone=False)
        self._changed = False

    def _remembered(self, path: str, kind: str, read: Callable[[str], str | None]) -> str | None:
        """A digest of a file, read only where the file is not the one of before; None where there is no such file."""
        try:
            stamp = file_stamp(os.stat(path))
        except OSError:
            return None
        key = f"{kind}{path}"
        known = self._known.get(key)
        if known is None or known[:-1] != stamp:
            self._known[key] = known = [*stamp, read(path)]
            self._changed = True
        return known[-1]

    # ---- files -------------------------------------------------------------------------------------

    def file(self, path: str) -> str:
        """What stands for a file in a spec: "sha256:" and the hash of its bytes.

        Raises:
            UserError: there is no such file.
        """
        digest = self._remembered(path, "", file_sha256)
        if digest is None:
            raise UserError(f"{path}: no such file. Fix its path, or put it there.")
        self.places[f"sha256:{digest}"] = path
        return f"sha256:{digest}"

    def read_all(self, paths: Iterable[str]) -> None:
        """Read many files at once, so that `file` then finds them remembered; says so where that takes long."""
        paths, began, told = list(dict.fromkeys(paths)), time.monotonic(), False
        with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 3)) as pool:
            for done, _ in enumerate(pool.map(lambda path: self._remembered(path, "", file_sha256), paths)):
                if not told and self.saves and time.monotonic() - began > SECONDS:
                    told = True
                    text = (
                        f"Reading {len(paths)} photos and masks, {done} done: what they hold is remembered for later."
                    )
                    print(text, file=sys.stderr, flush=True)
        self.save()

    def record(self, path: str) -> str | None:
        """Hash of the spec in the record beside a result; None where there is no record."""

        def read(path: str) -> str | None:
            try:
                return spec_hash(json.loads(Path(path).read_text(encoding="utf-8"))["spec"])
            except (OSError, ValueError, KeyError, TypeError):
                return None

        return self._remembered(path, "record:", read)

    # ---- models ------------------------------------------------------------------------------------

    def model(self, source: str, revision: str | None = None, variant: str | None = None) -> dict[str, Any]:
        """What stands for a model in a spec: its commit on the hub where that is known, else what its folder holds.

        Args:
            source: a folder, or a hub id.
            revision: of a hub id: a commit, a branch or a tag.

        Raises:
            UserError: the source is a path, but no folder, or its files are not whole.
        """
        if os.path.isdir(source):
            return {"source": self.folder(source, variant), "variant": variant}
        if source.startswith((".", "/", "~")):
            raise UserError(f"models: {source} is no folder. Download the model there, or name a hub id in the config.")
        if revision and COMMIT.fullmatch(revision):
            self.places[f"commit:{revision}"] = {"source": source, "revision": revision}
            return {"source": f"commit:{revision}", "variant": variant}
        return {"source": source, "revision": revision, "variant": variant}

    def folder(self, folder: str, variant: str | None = None) -> str:
        """What stands for a model's folder in a spec: "commit:..." where it is a download of the hub's, else "folder:...".

        Raises:
            UserError: its files are not whole (see `plan.intact`); found once, and remembered by content.
        """
        files = {
            str(path.relative_to(folder)): path
            for path in sorted(Path(folder).rglob("*"))
            if path.suffix != ".md"
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.is_file()
        }
        commit = self._downloaded(Path(folder), files) or self._snapshot(Path(folder), files)
        if commit:
            token = f"commit:{commit}"
        else:
            token = f"folder:{spec_hash([[name, self._digest(path)] for name, path in files.items()])}"
        key = f"whole:{intact.VERSION}:{variant}:{token}"
        if key not in self._known:
            self._known[key] = ["; ".join(intact.faults(folder, variant))]
            self._changed = True
        self.save()
        if wrong := self._known[key][-1]:
            raise UserError(f"model {folder}: {wrong}. Download it again, or name another.")
        self.places[token] = {"source": folder, "revision": None}
        return token

    def _downloaded(self, folder: Path, files: dict[str, Path]) -> str | None:
        """Commit of a folder that `hf download --local-dir` wrote and nobody changed since."""
        commits = set()
        for name, path in files.items():
            try:
                commit, etag, *_ = (folder / ".cache/huggingface/download" / f"{name}.metadata").read_text().split()
            except (OSError, ValueError):
                return None
            if not self._is(path, etag):
                return None
            commits.add(commit)
        return commits.pop() if len(commits) == 1 else None

    def _snapshot(self, folder: Path, files: dict[str, Path]) -> str | None:
        """Commit of a snapshot in the hub's cache (models--<org>--<name>/snapshots/<commit>), whose files are links to blobs."""
        folder = Path(os.path.abspath(folder))
        if not (COMMIT.fullmatch(folder.name) and folder.parent.name == "snapshots" and files):
            return None
        whole = all(path.is_symlink() and self._is(path, path.resolve().name) for path in files.values())
        return folder.name if whole else None

    def _digest(self, path: Path) -> str | None:
        return self._remembered(str(path), "", file_sha256)

    def _is(self, path: Path, etag: str) -> bool:
        """Whether a file is the one the hub names: by SHA-256 (large files), or by git's hash of a blob."""
        return etag == (self._digest(path) if len(etag) == 64 else self._remembered(str(path), "git:", _git_hash))

    # ---- settings ----------------------------------------------------------------------------------

    def settings(self, settings: BaseModel) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings, as (what decides a result, what does not); see `core.settings.neutral` and `located`."""
        deciding, neutral, model = {}, {}, type(settings)
        for name, plain in settings.model_dump(mode="json").items():
            value = getattr(settings, name)
            if is_neutral(model, name):
                neutral[name] = plain
            elif isinstance(value, BaseModel):
                deciding[name], below = self.settings(value)
                neutral |= {name: below} if below else {}
            elif isinstance(value, dict) and any(isinstance(item, BaseModel) for item in value.values()):
                parts = {key: self.settings(item) for key, item in value.items()}
                deciding[name] = {key: part for key, (part, _) in parts.items()}
                below = {key: part for key, (_, part) in parts.items() if part}
                neutral |= {name: below} if below else {}
            else:
                deciding[name] = self._located(plain) if is_located(model, name) else plain
        return deciding, neutral

    def _located(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._located(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._located(item) for item in value]
        if not isinstance(value, str):
            return value
        if os.path.isfile(value):
            if value.endswith(".safetensors") and (wrong := intact.file_fault(value)):
                raise UserError(f"{value}: {wrong}. Download it again, or name another.")
            return self.file(value)
        if os.path.isdir(value):
            return self.folder(value)
        source, _, revision = value.partition("@")
        whole = (
            "/" in source and COMMIT.fullmatch(revision) and not source.endswith(".safetensors")
        )  # a file stays as named
        return self.model(source, revision)["source"] if whole else value


def _git_hash(path: str) -> str:
    data = Path(path).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
