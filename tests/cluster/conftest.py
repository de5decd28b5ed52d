"""The test cluster, and a way to run Snakemake on it through profiles/slurm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.running import Run, slurm_run
from tests.cluster.slurm import NoCluster, Slurm


@pytest.fixture(scope="session")
def cluster():
    """A running two-node SLURM, or a skip with the reason."""
    try:
        slurm = Slurm().__enter__()
    except NoCluster as reason:
        pytest.skip(str(reason))
    yield slurm
    slurm.stop()


@pytest.fixture
def start():
    """Start runs through profiles/slurm; they end with the test."""
    runs: list[Run] = []

    def begin(folder: Path, *arguments: str, **process: Any) -> Run:
        runs.append(slurm_run(folder, *arguments, **process))
        return runs[-1]

    yield begin
    for run in runs:
        run.end()
