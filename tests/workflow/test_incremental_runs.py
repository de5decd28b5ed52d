"""Real runs after a finished one: a disease comes, goes again, and a stage's code changes. Old results stay as they are."""

import csv
import json
import re
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from cgddi.core.archive import Archive, file_sha256
from cgddi.core.images import LESION, SKIN
from cgddi.job.runtime import read_usage

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
    "lesions of",
    "token of",
    "adapter of",
    "samples of",
)


def files(folder):
    """Result -> (bytes' hash, time of change in ns); the logs, times, specs and states of a run are none."""
    root = folder / "results/toy"
    return {
        str(path.relative_to(root)): (file_sha256(path), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] not in ("logs", "benchmarks", ".plan", ".state")
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
    own = {text for text in ran if text.startswith(OWN)}
    (concept,) = {text.split()[2] for text in own if text.startswith("token of")}
    assert all(cohort in text or concept in text for text in own)
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


def used(folder):
    """What each attempt of a job used, as it was logged."""
    return Counter(json.dumps(line, sort_keys=True) for line in read_usage(folder / "results/toy"))


@pytest.mark.slow
def test_a_corrected_mask_pixel_costs_the_gpu_what_it_touches(copy):
    """One image is healed, only its concept's adapter takes steps, and others' samples are drawn on its canvas alone."""
    with open(copy / "data/toy/images.csv", newline="") as handle:
        photo = next(row for row in csv.DictReader(handle) if row["cohort"] == "toy" and row["mask"])
    mask = np.load(copy / photo["mask"])
    rows, columns = np.nonzero(mask == LESION)
    first = np.lexsort((columns, rows))[0]  # on the lesion's rim: nothing of it lies above
    mask[rows[first], columns[first]] = SKIN
    np.save(copy / photo["mask"], mask)
    before = used(copy)
    run(copy)
    new = list(map(json.loads, used(copy) - before))
    of = {stage: [line for line in new if line["stage"] == stage] for stage in {line["stage"] for line in new}}
    assert [line["images"] for line in of["healthy"]] == [1]
    assert of["healthy"][0]["reused"] > 0
    assert all(line["steps"] == 0 for line in of.get("embedding", []))
    own = {line["concept"] for line in of["lora"] if line["steps"]}
    samples = [Archive(path) for path in (copy / "results/toy/semantic").rglob("*.tar")]
    concepts = {archive.record["spec"]["concept"]["slug"]: archive for archive in samples}
    assert len(own) == 1 and len(concepts) > 1
    for line in of["semantic"]:
        if line["concept"] not in own:
            drawn = [row for row in concepts[line["concept"]].rows if row["canvas"] == photo["image_id"]]
            assert line["images"] in (0, len(drawn)) and line["reused"] > 0
    print(json.dumps(of, indent=1))
