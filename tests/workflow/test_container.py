"""Jobs in a container and in conda, as a site's profile asks for them. The container's program is stood in for by a script."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.dryrun import counts
from tests.workflow.paper_scale import ROOT, paper_scale, snakemake

TARGET = "results/ddi/masks/ddi/angioma.000.jsonl"
STAND_IN = """#!/bin/bash
if [[ $1 == --version ]]; then echo "apptainer version 1.3.4"; exit; fi
printf '%s ' "$@" >> "$HOME/called"
while [[ $1 != bash ]]; do shift; done
IN_CONTAINER=1 exec "$@"
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A paper-scale configuration, a site's profile that runs jobs in `cgddi.sif`, and an `apptainer` that only notes the call."""
    folder = tmp_path_factory.mktemp("container")
    paper_scale(folder)
    (folder / "bin").mkdir()
    (folder / "bin/apptainer").write_text(STAND_IN)
    (folder / "bin/apptainer").chmod(0o755)
    (folder / "cgddi.sif").write_text("")
    (folder / "site").mkdir()
    site = {
        "software-deployment-method": "apptainer",
        "apptainer-args": "--nv --bind /data",
        "config": ["container=cgddi.sif"],
        "cores": 1,
    }
    (folder / "site/config.yaml").write_text(yaml.safe_dump(site))
    return folder


def environment(folder):
    python = Path(sys.executable).parent
    return {"PATH": f"{folder}/bin:{python}:{os.environ['PATH']}", "HOME": str(folder)}


def test_jobs_run_in_the_image_that_the_profile_names(world):
    """With the site's arguments, `python` from the image, and the workflow's own code from outside."""
    run = ("--configfile", "config.yaml", "--profile", str(world / "site"))
    snakemake(world, *run, TARGET, env=environment(world))
    called = (world / "called").read_text()
    assert called.count("exec --home") == 1 and " --nv --bind /data " in called and " cgddi.sif bash -c " in called
    assert " python -m cgddi.cli masks" in called and f"PYTHONPATH={ROOT}/workflow" in called
    assert (world / TARGET).read_text()


def test_moving_to_a_container_or_to_conda_reruns_nothing(world):
    """Its spec decides whether a job is out of date, not where Python lies."""
    plain = ("--configfile", "config.yaml")
    before = counts(world, *plain)
    moved = snakemake(
        world, *plain, "-n", "--profile", str(world / "site"), "--cores", "1", TARGET, env=environment(world)
    )
    assert "Nothing to be done" in moved.stdout
    assert before["masks"] == 99


def test_without_the_program_the_message_is_clear(world):
    done = snakemake(
        world,
        *("--configfile", "config.yaml", "--config", "container=cgddi.sif", "--sdm", "apptainer", "--cores", "1"),
        "results/ddi/masks/ddi/melanoma.000.jsonl",
        check=False,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )
    assert done.returncode and "apptainer or singularity command has to be available" in done.stdout + done.stderr


def test_the_image_is_made_of_the_pinned_packages():
    text = (ROOT / "envs/cgddi.def").read_text()
    assert "requirements.txt /opt/cgddi/requirements.txt" in text and "-r /opt/cgddi/requirements.txt" in text
    assert "python:3.11" in text
