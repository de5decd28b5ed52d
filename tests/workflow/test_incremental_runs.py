"""Real runs after a finished one: a disease comes, goes again, and a stage's code changes. Old results stay as they are."""

import csv
import re
import shutil

import pandas as pd
import pytest
from cgddi.core.archive import file_sha256

from tests.workflow.conftest import RUN
from tests.workflow.dryrun import messages
from tests.workflow.paper_scale import cgddi, snakemake

POOLED = ("index", "audit", "classify", "fairness", "published", "report", "review")
"""Folders of results that pool everything."""
OWN = (
    "masks of",
    "split main of",
    "healthy skin for",
    "canvases of",
    "lesion of",
    "token of",
    "adapter of",
    "samples of",
)


def files(folder):
    """Result -> (bytes' hash, time of change in ns); the logs, times and curves of a run are none."""
    root = folder / "results/toy"
    return {
        str(path.relative_to(root)): (file_sha256(path), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] not in ("logs", "benchmarks", ".state")
    }


def run(folder, *arguments):
    """Run for real; the messages of the jobs that ran."""
    done = snakemake(folder, *RUN, "--cores", "2", "--printshellcmds", *arguments)
    text = done.stdout + done.stderr
    assert snakemake(folder, *RUN, "-n", "--cores", "1", *arguments).stdout.count("Nothing to be done") == 1
    return set(re.findall(r"^Job \d+: (.*)$", text, re.M)), text


@pytest.fixture(scope="module")
def grown(finished, tmp_path_factory):
    """The finished world, to which a disease was added by a real run: (folder, files before, planned, ran)."""
    folder = tmp_path_factory.mktemp("grown") / "work"
    shutil.copytree(finished, folder, symlinks=True)
    before = files(folder)
    cgddi(
        folder,
        *("ingest", "ddi", "--metadata", "data/toy/extra/ddi_metadata.csv", "--images", "data/toy/extra/images"),
        *("--masks", "data/toy/extra/masks", "--diseases", "config/toy/diseases.csv", "--append", "--prefix", "new-"),
        *("--output", "data/toy/images.csv"),
    )
    planned = messages(folder, *RUN)
    ran, _ = run(folder)
    return folder, before, planned, ran


def new_rows(folder):
    with open(folder / "data/toy/images.csv", newline="") as handle:
        return [row for row in csv.DictReader(handle) if row["cohort"] not in ("toy", "toy-test")]


@pytest.mark.slow
def test_a_new_disease_runs_its_own_jobs_and_the_pooled_ones_and_nothing_else(grown):
    folder, before, planned, ran = grown
    assert ran == planned
    (cohort,) = {row["cohort"] for row in new_rows(folder)}
    donors = {row["image_id"] for row in new_rows(folder) if row["mask"]}
    own = {text for text in ran if text.startswith(OWN)}
    (concept,) = {text.split()[2] for text in own if text.startswith("token of")}
    assert all(cohort in text or concept in text or text.split()[2] in donors for text in own)
    assert {text.split()[0] for text in own} == {text.split()[0] for text in OWN}


@pytest.mark.slow
def test_old_results_keep_their_bytes_and_times(grown):
    """Every file of the first run, but for those of jobs that pool."""
    folder, before, _, _ = grown
    after = files(folder)
    changed = {name for name in before if after.get(name) != before[name]}
    assert {name.split("/")[0] for name in changed} == set(POOLED)
    kept = {name.split("/")[0] for name in before.keys() - changed}
    assert kept == {"masks", "healthy", "canvases", "lesion_mapped", "embedding", "lora", "semantic", "splits"}


@pytest.mark.slow
def test_the_new_disease_is_in_what_is_pooled(grown):
    folder, _, _, _ = grown
    ids = {row["image_id"] for row in new_rows(folder)}
    index = pd.read_parquet(folder / "results/toy/index/main.parquet")
    assert ids <= set(index["image_id"]) and ids & set(index["donor"].dropna())


@pytest.mark.slow
def test_a_disease_that_goes_leaves_the_pooled_files_as_they_were_before(grown):
    """Its rows are gone from the index, no generator runs, and every pooled table has the bytes of the first run."""
    folder, before, _, _ = grown
    with open(folder / "data/toy/images.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    ids = {row["image_id"] for row in new_rows(folder)}
    with open(folder / "data/toy/images.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(row for row in rows if row["image_id"] not in ids)
    ran, _ = run(folder)
    assert ran and not [text for text in ran if text.startswith(OWN)]
    index = pd.read_parquet(folder / "results/toy/index/main.parquet")
    assert not any(ids & set(index[column].dropna()) for column in ("image_id", "donor", "canvas"))
    after = files(folder)
    pooled = [name for name in before if name.startswith(("index/", "audit/", "classify/", "fairness/"))]
    assert [name for name in pooled if after[name][0] != before[name][0]] == []
