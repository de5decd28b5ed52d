"""Real runs after a finished one: a disease comes, goes again, and a stage's code changes. Old results stay as they are."""

import csv
import json
import re
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import yaml
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


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_one_mask_pixel_costs_the_gpu_what_it_touches(copy):
    """P10, measured as items computed anew: one healed image, the adapter of the photo's own concept, and of other concepts the
    samples on its canvas alone. With few priors, so that the canvas is none: else all adapters learnt from it."""
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["lora"]["prior_per_tone"] = 1
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    run(copy, "--until", "semantic")
    root, (split,) = copy / "results/toy", {path.name for path in (copy / "results/toy/lora").iterdir()}
    priors = {
        image
        for path in root.glob(f"lora/{split}/*/record.json")
        for image in json.loads(path.read_text())["prior_images"]
    }
    drawn = {
        path.stem: Counter(row["canvas"] for row in lines(path)) for path in root.glob(f"semantic/{split}/toy/*.jsonl")
    }
    canvases = {row["image_id"]: row for row in lines(root / "canvases/toy.jsonl")}
    with open(copy / "data/toy/images.csv", newline="") as handle:
        masks = {row["image_id"]: row["mask"] for row in csv.DictReader(handle)}
    concept = {row["image_id"]: path.stem[:-4] for path in root.glob("healthy/toy/*.jsonl") for row in lines(path)}
    image = next(
        image
        for image in sorted(canvases.keys() - priors)
        if concept[image] in drawn and any(count[image] for name, count in drawn.items() if name != concept[image])
    )
    own, mask = concept[image], np.load(copy / masks[image])
    ys, xs = np.nonzero(mask == 1)
    side = 9 if xs.max() + 9 < mask.shape[1] else -9
    mask[ys[xs.argmax()] if side > 0 else ys[xs.argmin()], (xs.max() if side > 0 else xs.min()) + side] = 1
    np.save(copy / masks[image], mask)
    before = {path: path.read_text() for path in root.glob("logs/**/*.metrics.jsonl")}

    _, said = run(copy, "--until", "semantic")
    assert re.search(r"finished jobs will run again \(.*\), at most [\d.]+ GPU hours; ", said)
    now = {row["image_id"]: row for row in lines(root / "canvases/toy.jsonl")}
    assert {name for name in canvases.keys() | now if now[name]["sha256"] != canvases[name]["sha256"]} == {image}
    used = {
        (found[-1]["stage"], found[-1].get("concept") or found[-1].get("batch")): found[-1]
        for path in root.glob("logs/**/*.metrics.jsonl")
        if path.read_text() != before.get(path)
        for found in [lines(path)]
    }
    (healed,) = (facts for (stage, _), facts in used.items() if stage == "healthy")
    assert healed["images"] == 1 and healed["reused"] >= 1
    assert {concept: facts["steps"] for (stage, concept), facts in used.items() if stage == "lora"} == {
        concept: 4 if concept == own else 0 for concept in drawn
    }
    others = {concept: facts for (stage, concept), facts in used.items() if stage == "semantic" and concept != own}
    assert {name: facts["images"] for name, facts in others.items()} == {name: drawn[name][image] for name in others}
    assert others.keys() == drawn.keys() - {own} and all(facts["reused"] for facts in others.values())
