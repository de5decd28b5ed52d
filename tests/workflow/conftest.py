"""A shrunken toy world, run once from photos to report; tests work on copies of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.workflow.hostile import make_hostile
from tests.workflow.paper_scale import ROOT, cgddi, snakemake

SMALL = {
    "embedding": {"steps": 3, "batch": 2},
    "lora": {"steps": 4, "instances": 2, "priors_per_step": 2, "grid_steps": 2, "grid_columns": 1},
    "healthy": {"steps": 3},
    "semantic": {"steps": 4, "per_tone": 2, "check": False},  # so short a training draws no lesion
    "runs": {"methods": ["baseline"], "regimes": ["real", "synthetic", "synthetic_real"], "seeds": [0]},
    "classify": {"images_per_epoch": 64, "finetune_epochs": 1, "training": {"epochs": 2, "batch_size": 16}},
}
"""What the shrunken run changes in the demo's configuration: fewer steps, nothing else."""

RUN = ("--profile", str(ROOT / "profiles/local-cpu"), "--configfile", "config.yaml")


def merge(base: dict, changes: dict) -> dict:
    """`base` with `changes` merged in, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged


def small_world(folder: Path) -> Path:
    """Write and ingest the small toy world, some of its names hostile; return the working directory, with its config.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "config", folder / "config")
    cgddi(folder, "toy-world", "--output", "data/toy", "--preset", "small")
    for part, cohort, append in (("ddi", "toy", ()), ("test", "toy-test", ("--append", "--prefix", "test-"))):
        cgddi(
            folder,
            *(
                "ingest",
                "ddi",
                "--metadata",
                f"data/toy/{part}/ddi_metadata.csv",
                "--images",
                f"data/toy/{part}/images",
            ),
            *(
                "--masks",
                f"data/toy/{part}/masks",
                "--diseases",
                "config/toy/diseases.csv",
                "--cohort",
                cohort,
                *append,
            ),
            *("--output", "data/toy/images.csv"),
        )
    make_hostile(folder, "data/toy/images.csv", "config/toy/diseases.csv", "button-naevule")
    config = merge(yaml.safe_load((ROOT / "config/toy/config.yaml").read_text()), SMALL)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


SECRETS = {
    name: f"secret-{name}-7c1f" for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "WANDB_API_KEY")
}
"""What a user's environment may hold, and no file of a run may."""


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The small toy world after a whole run, by a user with secrets in the environment and an empty home (`../home`); what
    Snakemake said, at its most talkative, is in `../said`."""
    folder = small_world(tmp_path_factory.mktemp("finished") / "work")
    home = folder.parent / "home"
    home.mkdir()
    done = snakemake(folder, *RUN, "--cores", str(os.cpu_count()), "--verbose", env=SECRETS | {"HOME": str(home)})
    (folder.parent / "said").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of the finished run, times kept, to change one thing in."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    return folder
