"""Provenance survives: results that were copied, moved, unpacked or made by a job that nobody watched are kept, or made again."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from cgddi.core.archive import write_record
from cgddi.watch import repair
from cgddi.watch.dag import SNAKEFILE

from tests.watch.world import CONCEPTS, jobs, later, planned_by_snakemake, set_config, sheet

ROOT = Path("results")


def check(deep: bool = False) -> str:
    """What `cgddi repair` says of the results."""
    return "\n".join(repair.check_results(["config.yaml"], deep))


def all_right(returned: int | None = None, root: str = "results") -> str:
    """The line that says that everything is right."""
    total = len(jobs())
    return (
        f"{root}: {total} results are right, {total if returned is None else returned} of which Snakemake did not know"
    )


def shuffle_times(seed: int = 0) -> None:
    """Times in any order, some of them to come, as of `cp -r`, unzip or a checkout."""
    draw = random.Random(seed)
    for path in sorted(path for path in ROOT.rglob("*") if path.is_file()):
        when = path.stat().st_mtime + draw.uniform(-5000, 5000)
        os.utime(path, (when, when))


def test_a_copy_without_snakemakes_notes_and_with_times_in_any_order_makes_nothing_again(world):
    """P5; and changes are seen as before."""
    shutil.rmtree(".snakemake")
    shuffle_times()
    assert sum(planned_by_snakemake().values()) > len(jobs()) / 2
    assert check() == all_right()
    assert planned_by_snakemake() == {}
    assert check() == all_right(returned=0)
    set_config(lora={"rank": 32})
    assert planned_by_snakemake()["lora"] == len(CONCEPTS)


def test_a_copy_with_its_times_sees_a_change_of_settings(world):
    """P4, without and after `repair`."""
    shutil.rmtree(".snakemake")
    set_config(lora={"rank": 32})
    planned = planned_by_snakemake()
    assert planned["lora"] == planned["semantic"] == len(CONCEPTS)
    assert f"  {len(CONCEPTS)} lora: it was made from other settings, rows or content" in check()
    assert planned_by_snakemake() == planned


def test_a_job_that_ended_unwatched_is_kept_and_sees_a_change(world):
    """P3: kill -9 of Snakemake while cluster jobs run; they end; then embedding.learning_rate changes."""
    job = next(job for job in jobs() if job.rule == "embedding")
    for path in job.outputs:
        code = base64.urlsafe_b64encode(path.encode()).decode()
        (Path(".snakemake/metadata") / code).unlink()
        (Path(".snakemake/incomplete") / code).write_text('{"external_jobid": "7"}')
        later(path)
    assert planned_by_snakemake()["embedding"] == 1, "it would be made again"
    unknown = sum(other.planned for other in jobs())
    assert check() == all_right(returned=unknown)
    assert planned_by_snakemake() == {}
    set_config(embedding={"learning_rate": 1e-3})
    assert planned_by_snakemake()["embedding"] == len(CONCEPTS)


def test_results_moved_and_renamed_are_known_again(world):
    """P6: another disk, another name in the config."""
    (world / "disk").mkdir()
    shutil.move("results", "disk/mine")
    set_config(results="disk/mine")
    assert check() == all_right(root="disk/mine")
    assert planned_by_snakemake() == {}
    set_config(results="disk/mine", lora={"rank": 32})
    assert planned_by_snakemake()["lora"] == len(CONCEPTS)


def test_unpacked_results_are_known_again(world):
    with tarfile.open("all.tar", "w") as tar:
        for path in sorted(path for path in ROOT.rglob("*") if path.is_file()):
            info = tar.gettarinfo(path)
            info.mtime = 10**9  # one time for all
            with open(path, "rb") as handle:
                tar.addfile(info, handle)
    shutil.rmtree("results")
    shutil.rmtree(".snakemake")
    with tarfile.open("all.tar") as tar:
        tar.extractall(filter="data")
    assert check() == all_right()
    assert planned_by_snakemake() == {}


@pytest.mark.parametrize("column", ["mask", "file"])
def test_a_corrected_file_with_an_older_time_is_seen(world, column):
    """P7: rsync -a, unzip."""
    path = Path(sheet()[0][column])
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, (10**9, 10**9))
    planned = planned_by_snakemake()
    assert planned["masks"] == 1 and planned["healthy"] == 1


@pytest.mark.parametrize("deep", [False, True])
def test_what_is_not_what_its_record_says_is_made_again_and_nothing_else(world, deep):
    """One adapter changed by hand; its samples descend from it. Times and Snakemake's notes say that all is well."""
    job = next(job for job in jobs() if job.rule == "lora")
    path, before = Path(job.outputs[0]), os.stat(job.outputs[0])
    path.write_text("x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert planned_by_snakemake() == {}
    text = check(deep)
    assert f"  1 lora: {path.name} is not what its record says" in text and "descend from these" in text
    planned = planned_by_snakemake()
    assert planned["lora"] == planned["semantic"] == 1 and "embedding" not in planned


def test_a_result_of_an_input_that_is_no_more_is_made_again(world):
    """Its record holds another hash of the canvases than these have, though all else about it is right."""
    job = next(job for job in jobs() if job.rule == "lesion_mapped")
    record = Path(next(path for path in job.outputs if path.endswith(".json")))
    value = json.loads(record.read_text())
    name = next(name for name in value["inputs"] if "canvases" in name)
    value["inputs"][name] = "0" * 64
    write_record(record, value)
    assert "1 lesion_mapped: canvases/here.jsonl is another than it was made from" in check()
    assert planned_by_snakemake()["lesion_mapped"] == 1


def test_a_result_that_cannot_be_judged_is_left_alone(world):
    """Of an earlier release: its record holds no hashes of what stands beside it."""
    job = next(job for job in jobs() if job.rule == "lora")
    record = Path(next(path for path in job.outputs if path.endswith(".json")))
    value = json.loads(record.read_text())
    value.pop("outputs")
    write_record(record, value)
    assert "  1 lora: its record does not say what its files hold" in check()


def test_large_files_are_read_where_every_byte_is_asked_for(world, monkeypatch):
    monkeypatch.setattr("cgddi.watch.verify.LARGE", 5)
    job = next(job for job in jobs() if job.rule == "lora")
    path, before = Path(job.outputs[0]), os.stat(job.outputs[0])
    path.write_text("x" * before.st_size)
    assert "not what its record says" not in check() and "not what its record says" in check(deep=True)
    path.write_text("x" * (before.st_size - 1))
    assert "not what its record says" in check(), "its size tells"


def test_a_run_says_once_that_results_are_unknown_and_what_to_do(world):
    shutil.rmtree(".snakemake")
    words = ["-n", "--cores", "1", "--configfile", "config.yaml", "--snakefile", str(SNAKEFILE)]
    done = subprocess.run([sys.executable, "-m", "snakemake", *words], capture_output=True, text=True, check=True)
    assert done.stderr.count("Snakemake does not know how they were made") == 1
    assert f"{len(jobs())} result(s) were copied" in done.stderr
    assert "`cgddi repair --configfile config.yaml`" in done.stderr
    check()
    done = subprocess.run([sys.executable, "-m", "snakemake", *words], capture_output=True, text=True, check=True)
    assert "does not know" not in done.stderr
