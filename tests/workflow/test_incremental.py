"""Change one thing after a finished run, and compare the exact set of jobs that would run."""

import csv
import json
import os
import re
import shutil
import time

import numpy as np
import pytest
import yaml

from tests.stages.canvases.chromium import Chromium, find
from tests.workflow.conftest import RUN, merge
from tests.workflow.dryrun import counts, messages
from tests.workflow.paper_scale import ROOT, cgddi, snakemake

POOLED = {"index": 1, "leakage": 1, "audit": 3, "classify": 3, "fairness": 1, "report": 1}
"""Jobs that pool everything, and so run whenever anything is added."""


def change(folder, changes):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(merge(yaml.safe_load(path.read_text()), changes)))


def sheet(folder):
    with open(folder / "data/toy/images.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def write_sheet(folder, rows):
    with open(folder / "data/toy/images.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_nothing_changed(copy):
    assert counts(copy, *RUN) == {}


def test_a_new_disease_pays_only_for_its_own_jobs(copy):
    """Six photos of a disease that is not in the toy set, appended as a cohort of their own."""
    cgddi(
        copy,
        *("ingest", "ddi", "--metadata", "data/toy/extra/ddi_metadata.csv", "--images", "data/toy/extra/images"),
        *(
            "--masks",
            "data/toy/extra/masks",
            "--diseases",
            "config/toy/diseases.csv",
            "--append",
            "--prefix",
            "new-",
            "--output",
            "data/toy/images.csv",
        ),
    )
    new = [row for row in sheet(copy) if row["cohort"] not in ("toy", "toy-test")]
    assert len({row["cohort"] for row in new}) == 1
    cohort = new[0]["cohort"]
    donors = [row["image_id"] for row in new if row["mask"]]
    found, texts = counts(copy, *RUN), messages(copy, *RUN)
    own = ("masks of", "split main of", "healthy skin for", "canvases of")
    assert all(cohort in text for text in texts if text.startswith(own))
    mapped = {text for text in texts if text.startswith("lesion of")}
    assert mapped == {f"lesion of {d} onto the canvases of {c}" for d in donors for c in ("toy", cohort)}
    generated = {text for text in texts if text.startswith(("token of", "adapter of", "samples of"))}
    assert len(generated) == 4 and len({text.split()[2] for text in generated}) == 1
    rest = {"masks", "healthy", "review", "canvases", "audit_pictures", "lesion_mapped", "embedding", "lora"}
    rest |= {"semantic", "split"}
    assert {rule: n for rule, n in found.items() if rule not in rest} == POOLED


def test_a_dropped_disease_runs_the_pooled_jobs_only(copy):
    """Of the first cohort, whose canvases and priors all others use: nothing generated runs again."""
    slug = sorted((copy / "results/toy/semantic/main/toy").glob("*.tar"))[0].stem
    change(copy, {"drop_concepts": [slug]})
    assert counts(copy, *RUN) == POOLED
    assert not [text for text in messages(copy, *RUN) if slug in text]
    again = cgddi(copy, "status", "--configfile", "config.yaml", "--json").stdout
    assert {json.loads(line)["state"] for line in again.splitlines() if '"lora"' in line} == {"done"}
    change(copy, {"drop_concepts": ["nosuch"]})
    done = snakemake(copy, "-n", *RUN, check=False)
    assert done.returncode and "column drop_concepts: no such concept" in (done.stdout + done.stderr)


def test_growing_a_finished_cohort_says_what_it_costs(copy):
    rows = sheet(copy)
    donor = next(row for row in rows if row["cohort"] == "toy" and row["mask"])
    before = len(list((copy / "results/toy/lesion_mapped/toy").glob("*.tar")))
    write_sheet(copy, [*rows, donor | {"image_id": "late", "group": ""}])
    done = snakemake(copy, "-n", "--cores", "1", *RUN)
    text = done.stdout + done.stderr
    assert "Cohort toy has grown by 1 masked photo(s)" in text
    assert int(re.search(r"(\d+) finished mapping", text)[1]) > before
    assert counts(copy, *RUN)["lesion_mapped"] == before + 1


def test_a_finished_cohort_that_loses_photos_says_what_it_costs_and_how_to_avoid_it(copy):
    rows = sheet(copy)
    donor = next(row for row in rows if row["cohort"] == "toy" and row["mask"])
    write_sheet(copy, [row for row in rows if row is not donor])
    done = snakemake(copy, "-n", "--cores", "1", *RUN)
    text = done.stdout + done.stderr
    assert "Cohort toy has lost 1 masked photo(s)" in text and "drop_concepts" in text


def test_a_new_evaluation_cohort_generates_nothing(copy):
    rows = sheet(copy)
    test = [row for row in rows if row["cohort"] == "toy-test"]
    write_sheet(
        copy, rows + [row | {"image_id": "x" + row["image_id"], "cohort": "clinic", "group": ""} for row in test[:6]]
    )
    change(copy, {"cohorts": {"clinic": {"role": "evaluation"}}})
    texts = messages(copy, *RUN)
    assert all("clinic" in text for text in texts if text.startswith(("masks of", "split main of")))
    assert not [
        text for text in texts if text.startswith(("healthy", "canvases", "lesion of", "token", "adapter", "samples"))
    ]


def test_a_changed_mask(copy):
    row = next(row for row in sheet(copy) if row["cohort"] == "toy" and row["mask"])
    path = copy / row["mask"]
    mask = np.load(path)
    mask[0, 0] = 3 if mask[0, 0] != 3 else 0
    np.save(path, mask)
    found = counts(copy, *RUN)
    assert (found["masks"], found["healthy"], found["canvases"]) == (1, 1, 1)


def test_a_hyper_parameter_of_one_stage(copy):
    change(copy, {"lora": {"learning_rate": 1.0e-3}})
    found = counts(copy, *RUN)
    before = {"masks", "healthy", "canvases", "lesion_mapped", "embedding", "split", "review"}
    assert not before & set(found)
    assert found["lora"] >= 3 and found["semantic"] >= 1
    assert {k: found[k] for k in POOLED} == POOLED


def test_a_classifier_setting_reruns_classifiers_only(copy):
    change(copy, {"classify": {"images_per_epoch": 48}})
    assert counts(copy, *RUN) == {"classify": 3, "fairness": 1, "report": 1}


def test_touched_sheet_config_and_photos_rerun_nothing(copy):
    time.sleep(0.1)
    for path in [
        copy / "config.yaml",
        copy / "data/toy/images.csv",
        *sorted((copy / "data/toy/ddi/images").iterdir())[:3],
    ]:
        os.utime(path)
    assert counts(copy, *RUN) == {}


def test_a_fresh_copy_with_new_times_reruns_nothing(finished, tmp_path):
    """Copied without keeping the times, as a sync tool or a checkout does."""
    folder = tmp_path / "fresh"
    shutil.copytree(finished, folder, copy_function=shutil.copyfile)
    assert counts(folder, *RUN) == {}


def test_a_review_exported_from_the_page_reruns_what_depends_on_it(copy, tmp_path):
    """In a real browser: open the run's own page, discard one image by key, export, and name the csv in the config."""
    binary = find()
    if binary is None:
        pytest.skip("no Chromium here, and it cannot be installed (needs root on Debian: apt-get install chromium)")
    browser = Chromium(binary, tmp_path / "chromium")
    try:
        browser.open(copy / "results/toy/review/index.html")
        browser.press("d")
        browser.press("e")
        exported = browser.downloaded("review.csv")
    finally:
        browser.close()
    rows = exported.read_text().splitlines()
    assert len(rows) == 2 and ",toy,discard," in rows[1]
    shutil.copyfile(exported, copy / "review.csv")
    change(copy, {"review": "review.csv"})
    found = counts(copy, *RUN)
    donors = len(list((copy / "results/toy/lesion_mapped/toy").glob("*.tar")))
    adapters = len(list((copy / "results/toy/lora/main").iterdir()))
    samples = len(list((copy / "results/toy/semantic/main/toy").glob("*.tar")))
    pictures = {"canvases": 1, "review": 1, "audit_pictures": 1}
    assert found == {**pictures, "lesion_mapped": donors, "lora": adapters, "semantic": samples} | POOLED


def test_another_triage_threshold_paints_nothing_again(copy):
    change(copy, {"canvases": {"triage": {"texture": [0.2, 3.0]}}})
    found = counts(copy, *RUN)
    assert {"review", "canvases", "lesion_mapped"} <= set(found)
    assert not set(found) & {"masks", "healthy", "embedding"}


def test_a_review_of_an_unknown_photo_is_named(copy):
    (copy / "review.csv").write_text("image_id,cohort,verdict,note\nnosuch,toy,discard,\n")
    change(copy, {"review": "review.csv"})
    done = snakemake(copy, "-n", *RUN, check=False)
    text = done.stdout + done.stderr
    assert done.returncode and "review.csv, row 2, column image_id" in text and "Traceback" not in text


def test_a_changed_comment_in_the_code_reruns_nothing_and_changed_code_its_stage(copy, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(
        ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", "results", "data", ".snakemake", "tests", "slurm")
    )
    stage = tree / "workflow/cgddi/lora/settings.py"
    stage.write_text(stage.read_text() + "\n# a comment\n")
    run = ("-s", str(tree / "Snakefile"), *RUN)
    assert counts(copy, *run) == {}
    stage.write_text(stage.read_text() + "\nCHANGED = True\n")
    found = counts(copy, *run)
    assert "lora" in found and "semantic" in found
    assert not {"masks", "healthy", "canvases", "lesion_mapped", "embedding"} & set(found)
