"""Where the adapters of a job go: a folder each, or one tar with a folder for each, which is there whole or not at all.

Beside its tar a pack leaves a ledger of its concepts, by which the plan keeps them together (`cgddi.plan.packs`). It is no
output of the rule: Snakemake would delete it whenever the job runs again, and other nodes would read another plan meanwhile.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cgddi.core.archive import canonical, temporary_beside, write_atomic


@contextmanager
def folders(given: Sequence[Path] | None, pack: Path | None, slugs: Sequence[str]) -> Iterator[list[Path]]:
    """The folders to write to; those of a pack become its tar at the end, equal content giving equal bytes.

    Args:
        given: the folders, one per concept; None for a pack.
        pack: the tar to write, `<pack>.tar`; its ledger is `<pack>.json`.
        slugs: names of the folders in it.
    """
    if pack is None:
        yield list(given or [])
        return
    with tempfile.TemporaryDirectory(prefix="cgddi-pack-") as name:
        yield [Path(name) / slug for slug in slugs]
        pack.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(pack)
        try:
            with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
                for path in sorted(p for p in Path(name).rglob("*") if p.is_file()):
                    info = tarfile.TarInfo(str(path.relative_to(name)))
                    info.size = path.stat().st_size
                    with open(path, "rb") as content:
                        tar.addfile(info, content)
            write_atomic(pack.with_suffix(".json"), canonical({"concepts": list(slugs)}) + "\n")
            os.replace(temporary, pack)
        finally:
            temporary.unlink(missing_ok=True)
