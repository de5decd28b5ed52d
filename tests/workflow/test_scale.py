"""Ten times the diseases and images, and command lines longer than the kernel takes."""

import hashlib
import os
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
from cgddi.core.archive import ArchiveWriter
from cgddi.core.images import encode_png
from cgddi.plan.config import load_config
from cgddi.plan.plan import Plan
from cgddi.plan.shellprefix import shell_prefix

from tests.stages.lesion_mapped.world import FAULTLESS
from tests.workflow.dryrun import counts
from tests.workflow.paper_scale import ROOT, multiply, paper_scale

PER_IMAGE = ("masks", "healthy", "lesion_mapped", "embedding", "lora")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    return folder, paper_scale(folder)


def planned(config):
    """Jobs of a config by stage, and the CPU seconds of reading its sheets and making their specs (the best of three)."""
    seconds = []
    for _ in range(3):
        began = time.process_time()
        plan = Plan(load_config(config))
        specs = {
            "masks": [plan.masks_spec(*names) for names in batches(plan.batches)],
            "healthy": [plan.healthy_spec(*names) for names in batches(plan.healthy_batches)],
            "lesion_mapped": [plan.lesion_mapped_spec(cohort, donor.image_id) for cohort, donor in plan.pairs],
            "embedding": [plan.generator_spec("embedding", *names) for names in plan.adapters],
            "lora": [plan.generator_spec("lora", *names) for names in plan.adapters],
        }
        seconds.append(time.process_time() - began)
    return {stage: len(found) for stage, found in specs.items()}, min(seconds)


def batches(by_cohort):
    return [(cohort, batch) for cohort, of_cohort in by_cohort.items() for batch in of_cohort]


def test_ten_times_the_diseases_and_images_are_planned_in_ten_times_the_time(world, monkeypatch):
    """Jobs by image and disease grow tenfold, and so does the time (with room for noise)."""
    folder, config = world
    monkeypatch.chdir(folder)
    once, short = planned(multiply(folder, config, 2))
    many, long = planned(multiply(folder, config, 20))
    assert many == {stage: 10 * count for stage, count in once.items()}
    assert long < 16 * short, f"{short:.2f} s, then {long:.2f} s"


@pytest.mark.slow
def test_snakemake_plans_ten_times_the_jobs_in_ten_times_the_time(world):
    folder, config = world
    seconds, found = [], []
    for path in (config, multiply(folder, config, 10)):
        began = time.monotonic()
        found.append(counts(folder, "--configfile", path.name))
        seconds.append(time.monotonic() - began)
    assert [found[1][rule] for rule in PER_IMAGE] == [10 * found[0][rule] for rule in PER_IMAGE]
    assert seconds[1] < 15 * seconds[0], seconds


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A healthy archive under 2,600 names of 900 characters: 2.3 MB of arguments, more than one command takes."""
    folder = tmp_path_factory.mktemp("long")
    picture = encode_png(np.full((8, 8, 3), 90, np.uint8))
    mask = encode_png(np.ones((8, 8), np.uint8))
    row = {"image_id": "a", "cohort": "here", "concept": "acne", "tone": "light", "malignant": False, "keep": True}
    with ArchiveWriter(folder / "one.tar", {"stage": "healthy"}) as archive:
        members = {"png": picture, "before.png": picture, "region.png": mask, "mask.png": mask}
        archive.add("a", members, row | {"triage": FAULTLESS})
    place = folder.joinpath(*["d" * 200] * 4)
    place.mkdir(parents=True)
    for k in range(2600):
        for suffix in ("tar", "json", "jsonl"):
            os.link(folder / f"one.{suffix}", place / f"{k:04d}.{suffix}")
    return folder, [str((place / f"{k:04d}.jsonl").relative_to(folder)) for k in range(2600)]


def test_a_list_too_long_for_a_command_line_reaches_the_job(archives):
    """A pooled rule with the workflow's own prefix, in Snakemake itself."""
    folder, paths = archives
    assert sum(map(len, paths)) > 2 << 20
    prefix = shell_prefix(sys.executable, ROOT / "workflow", ".cache").replace("{", "{{").replace("}", "}}")
    (folder / "Snakefile").write_text(
        f"""
shell.prefix({prefix!r})
rule review:
    input: [line.strip() for line in open("list")]
    output: page="page.html"
    shell: "cgddi review --healthy {{input:q}} --output {{output.page:q}}"
"""
    )
    (folder / "list").write_text("\n".join(paths))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "page.html").read_text().count('"cohort": "here"') == 2600


def test_a_long_argument_and_hostile_ones_arrive_as_they_are(tmp_path):
    """One argument of 200 KB, quotes, a newline, a leading `-`; and the command's status is the stage's."""
    (tmp_path / "python").write_text(
        "#!/bin/bash\nshift 2\nif [[ $1 == @* ]]; then cat ${1:1} | sha256sum; else printf '%s\\0' \"$@\" | sha256sum; fi\nexit 7\n"
    )
    (tmp_path / "python").chmod(0o755)
    prefix = shell_prefix(str(tmp_path / "python"), tmp_path, "c")
    for words in (
        ["a b", "$(touch x)", "'\"\n;", "-n", "é"],
        ["$(touch x)`touch x`" * 10_000, "'", "\n", "-e", "é\\n"],
    ):
        done = subprocess.run(
            ["bash"], input=f"{prefix}cgddi {shlex.join(words)}", capture_output=True, text=True, cwd=tmp_path
        )
        expected = hashlib.sha256(b"".join(word.encode() + b"\0" for word in words)).hexdigest()
        assert done.stdout.split()[0] == expected and done.returncode == 7, done
    assert not (tmp_path / "x").exists()


def test_arguments_from_a_file(tmp_path, capsys):
    from cgddi.cli import main

    (tmp_path / "arguments").write_bytes(b"audit\0--help\0")
    with pytest.raises(SystemExit):
        main([f"@{tmp_path}/arguments"])
    assert "memorisation" in capsys.readouterr().out
    assert main([f"@{tmp_path}/none"]) == 2
    assert "none: cannot be read (No such file or directory)" in capsys.readouterr().err
