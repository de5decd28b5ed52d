"""A run whose results lie on a file system of their own, which fills up on the way."""

import shutil
import subprocess

import pytest
from cgddi.core.archive import Archive, file_sha256

from tests.disk import mounted
from tests.workflow.conftest import RUN
from tests.workflow.paper_scale import snakemake

TARGETS = ("results/toy/canvases/toy.jsonl", "results/toy/embedding/main/button-naevule/learned_embeds.safetensors")


@pytest.fixture
def disk(finished, tmp_path):
    """The toy world before its run, with its results on a mounted disk of 400 KB; and a way to make the disk larger."""
    folder = tmp_path / "work"
    ignore = shutil.ignore_patterns("results", ".snakemake", ".cache")
    shutil.copytree(finished, folder, symlinks=True, ignore=ignore)
    with mounted(folder / "results", "400k") as place:

        def resize(size):
            subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)

        yield folder, resize


def archives(folder):
    return sorted((folder / "results/toy").rglob("*.tar"))


@pytest.mark.slow
def test_a_run_on_a_disk_that_fills_up_stops_clean_and_goes_on_when_there_is_room(finished, disk):
    """The message names the remedy, what is there is whole, and the same command then ends with the undisturbed run's bytes."""
    folder, resize = disk
    first = snakemake(folder, *RUN, "--cores", "2", *TARGETS, check=False)
    text = first.stdout + first.stderr
    assert first.returncode != 0 and "the disk is full" in text and "Make room" in text
    assert "Traceback" not in text
    assert not [path for path in (folder / "results").rglob("*") if path.name.endswith(".tmp")]
    whole = archives(folder)
    for path in whole:
        archive = Archive(path)
        assert all(archive.read(row) for row in archive.rows)
    done = {path: path.stat().st_mtime_ns for path in whole}

    resize("64m")
    snakemake(folder, *RUN, "--cores", "2", *TARGETS)
    assert whole and all(path.stat().st_mtime_ns == time for path, time in done.items())
    results = [
        path for path in (folder / "results/toy").rglob("*") if path.suffix in (".tar", ".jsonl", ".safetensors")
    ]
    results = [path for path in results if "logs" not in path.parts and ".state" not in path.parts]
    assert len(results) > 10
    for path in results:
        assert file_sha256(path) == file_sha256(finished / path.relative_to(folder)), path
    assert not list((folder / "results/toy/.state").rglob("*.safetensors"))
