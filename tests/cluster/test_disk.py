"""A full disk, and results on a file system of their own."""

import os
import subprocess
import sys

import pytest
from cgddi import cli
from cgddi.core.archive import Archive, ArchiveWriter

from tests.disk import mounted


@pytest.fixture
def small_disk(tmp_path):
    """A mounted disk of 256 KB."""
    with mounted(tmp_path / "disk", "256k") as place:
        yield place


def write(place, size):
    with ArchiveWriter(place / "a.tar", {"stage": "masks"}) as archive:
        for k in range(4):
            archive.add(f"k{k}", {"png": os.urandom(size)}, {"id": f"k{k}"})


def test_a_full_disk_leaves_nothing_behind_and_the_next_try_succeeds(small_disk):
    """Nothing half-written, no temporary file that keeps the disk full, and the old result is whole."""
    write(small_disk, 1000)
    before = sorted(small_disk.iterdir())
    whole = (small_disk / "a.tar").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        write(small_disk, 200_000)
    assert sorted(small_disk.iterdir()) == before
    assert (small_disk / "a.tar").read_bytes() == whole
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    write(small_disk, 200_000)
    assert len(Archive(small_disk / "a.tar").rows) == 4


def test_the_command_says_that_the_disk_is_full(small_disk, monkeypatch, capsys):
    """A message with the remedy, no traceback."""

    class Stage:
        @staticmethod
        def main(_):
            write(small_disk, 200_000)

    monkeypatch.setitem(cli.COMMANDS, "masks", ("stage_under_test", ""))
    monkeypatch.setitem(sys.modules, "stage_under_test", Stage)
    assert cli.main(["masks"]) == 2
    assert "the disk is full" in capsys.readouterr().err
