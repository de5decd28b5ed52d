"""Adapters trained in packs: one file per concept, whole packs run again, and only those that something changed for."""

import csv
import json
import shutil

import pytest
import yaml
from cgddi.core.archive import file_sha256
from cgddi.plan.packs import packs_of
from cgddi.plan.sheets import load_sheets

from tests.workflow.conftest import RUN, merge
from tests.workflow.dryrun import counts, messages
from tests.workflow.paper_scale import cgddi, paper_scale, snakemake
from tests.workflow.test_incremental import change, sheet, write_sheet

FILES = ("pytorch_lora_weights.safetensors", "samples.png", "record.json")


def adapters(folder):
    """Every adapter's file, as the workflow names it."""
    concepts = sorted(path.name for path in (folder / "results/toy/embedding/main").iterdir())
    return {c: f"results/toy/lora/main/{c}/{FILES[0]}" for c in concepts}


def concepts_of(folder):
    """(image, concept) of every photo in the sheets."""
    photos = load_sheets(str(folder / "data/toy/images.csv"), str(folder / "config/toy/diseases.csv")).photos
    return [(photo.image_id, photo.concept) for photo in photos]


def packs(folder):
    """Concepts of each pack, as the jobs' messages name them."""
    found = [text for text in messages(folder, *RUN) if text.startswith("adapters of ")]
    return sorted(sorted(text.removeprefix("adapters of ").removesuffix(" (main)").split(", ")) for text in found)


@pytest.fixture(scope="module")
def packed(finished, tmp_path_factory):
    """The finished run, its adapters trained again two by two; and what was planned to do so."""
    folder = tmp_path_factory.mktemp("packed") / "work"
    shutil.copytree(finished, folder, symlinks=True)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(merge(yaml.safe_load(config.read_text()), {"lora": {"concepts_per_job": 2}})))
    planned = packs(folder)
    snakemake(folder, *RUN, "--cores", "2", *adapters(folder).values())
    return folder, planned


@pytest.fixture
def copy(packed, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(packed[0], folder, symlinks=True)
    return folder


def test_each_concept_has_its_own_files_from_one_job_per_pack(finished, packed):
    folder, planned = packed
    assert sorted(c for pack in planned for c in pack) == sorted(adapters(folder)) and max(map(len, planned)) == 2
    for concept in adapters(folder):
        for name in FILES:
            assert (folder / "results/toy/lora/main" / concept / name).is_file()
        record = json.loads((folder / f"results/toy/lora/main/{concept}/record.json").read_text())
        alone = json.loads((finished / f"results/toy/lora/main/{concept}/record.json").read_text())
        assert record["spec"]["concept"] == alone["spec"]["concept"]
        assert record["training_images"] == alone["training_images"]
        assert sorted(record["spec"]["trained_with"]) == next(pack for pack in planned if concept in pack)
    assert not {"lora", "adapter", "embedding"} & set(counts(folder, *RUN))


def test_adapters_of_a_pack_equal_those_trained_alone(finished, packed):
    from safetensors.torch import load_file

    for path in adapters(packed[0]).values():
        alone, together = load_file(finished / path), load_file(packed[0] / path)
        assert alone.keys() == together.keys()
        assert all((alone[name] - together[name]).abs().max() < 2e-3 for name in alone), path


def test_a_new_disease_makes_a_pack_of_its_own_and_the_next_one_of_its_cohort_too(copy):
    extra, before = "data/toy/extra", adapters(copy)
    cgddi(
        copy,
        *("ingest", "ddi", "--metadata", f"{extra}/ddi_metadata.csv", "--images", f"{extra}/images"),
        *("--masks", f"{extra}/masks", "--diseases", "config/toy/diseases.csv", "--append", "--prefix", "new-"),
        *("--output", "data/toy/images.csv"),
    )
    found = counts(copy, *RUN)
    assert (found["embedding"], found["lora"], found["adapter"]) == (1, 1, 1)
    ((new,),) = packs(copy)
    assert new not in before
    path = f"results/toy/lora/main/{new}/{FILES[0]}"
    snakemake(copy, *RUN, "--cores", "2", path)
    rows = sheet(copy)
    old = [row for row in rows if row["image_id"].startswith("new-")]
    assert len({row["cohort"] for row in old}) == 1
    with open(copy / "config/toy/diseases.csv", "a", newline="") as handle:
        csv.writer(handle).writerow(["later", "Later disease", "", ""])
    # One photo without a mask, so that the cohort's canvases and its old photos' roles stay.
    write_sheet(copy, [*rows, old[0] | {"image_id": "later", "disease": "later", "mask": "", "group": ""}])
    wanted = [*before.values(), path, "results/toy/lora/main/later-disease/record.json"]
    assert counts(copy, *wanted, *RUN) == {"masks": 1, "embedding": 1, "lora": 1, "adapter": 1}
    texts = {"token of later-disease (main)", "adapters of later-disease (main)"}
    assert texts < messages(copy, *wanted, *RUN)


def test_packs_are_the_same_while_they_are_trained_again(packed, copy):
    """As a node reads the plan in the middle of a run that another number and learning rate make: some tars are not there."""
    change(copy, {"lora": {"concepts_per_job": 3}})
    assert not {"lora", "adapter", "embedding"} & set(counts(copy, *RUN))
    change(copy, {"lora": {"learning_rate": 1.0e-3}})
    assert packs(copy) == packed[1]
    next((copy / "results/toy/lora/main/packs").glob("*.tar")).unlink()
    assert packs(copy) == packed[1]


def test_a_dropped_concept_leaves_its_pack_and_one_without_rows_leaves_the_others_together(packed, copy):
    gone = packed[1][0][0]
    change(copy, {"drop_concepts": [gone]})
    assert not {"lora", "adapter", "embedding"} & set(counts(copy, *RUN))
    photos = concepts_of(copy)
    change(copy, {"drop_concepts": []})
    names = {image for image, concept in photos if concept == gone}
    write_sheet(copy, [row for row in sheet(copy) if row["image_id"] not in names])
    assert packs(copy) == sorted(left for pack in packed[1] if (left := [c for c in pack if c != gone]))


def test_an_unreadable_ledger_stops_the_plan_in_one_line(copy):
    path = next((copy / "results/toy/lora/main/packs").glob("*.json"))
    path.write_text("")
    done = snakemake(copy, "-n", *RUN, check=False)
    text = done.stdout + done.stderr
    assert done.returncode and f"{path.relative_to(copy)}: " in text and "Delete it" in text and "Traceback" not in text


def test_a_changed_token_runs_its_pack_again_and_no_other(packed, copy):
    path = copy / f"results/toy/embedding/main/{packed[1][0][0]}/learned_embeds.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x3e")
    assert packs(copy) == [packed[1][0]]


def test_a_deleted_adapter_comes_out_of_its_pack_again(copy):
    path = next(iter(adapters(copy).values()))
    before = file_sha256(copy / path)
    (copy / path).unlink()
    assert counts(copy, path, *RUN) == {"adapter": 1}
    snakemake(copy, path, "--cores", "1", *RUN)
    assert file_sha256(copy / path) == before


def test_status_knows_packs(packed):
    text = cgddi(packed[0], "status", "--configfile", "config.yaml", "--json").stdout
    states = [json.loads(line) for line in text.splitlines()]
    assert {job["state"] for job in states if job["stage"] == "lora"} == {"done"}


def test_packs_at_the_papers_scale(tmp_path):
    config = paper_scale(tmp_path)
    found = counts(tmp_path, "--configfile", str(config), "--config", 'lora={"concepts_per_job": 4}')
    assert (found["embedding"], found["lora"], found["adapter"], found["semantic"]) == (65, 17, 65, 36)
    assert sum(found.values()) <= 800


def test_packs_stay_when_cohorts_and_concepts_are_added(finished):
    sheets = load_sheets(str(finished / "data/toy/images.csv"), str(finished / "config/toy/diseases.csv"))
    photos = [photo for photo in sheets.photos if photo.cohort == "toy"]

    def training(photos):
        found = {}
        for photo in photos:
            found.setdefault(("main", photo.concept), []).append(photo)
        return found

    from dataclasses import replace

    before = packs_of(training(photos), 2)
    assert before and max(map(len, before.values())) == 2
    later = [replace(photos[0], cohort="later", concept=name) for name in ("x", "y", "z", photos[-1].concept)]
    after = packs_of(training([*photos, *later]), 2)
    assert {name: after[name] for name in before} == before
    assert {name: after[name] for name in after.keys() - before.keys()} == {
        ("main", "later.000"): ["x", "y"],
        ("main", "later.001"): ["z"],
    }
    grown = packs_of(training([*photos, *(replace(photo, cohort="toy") for photo in later)]), 2)
    whole = {name: pack for name, pack in before.items() if len(pack) == 2}
    assert {name: grown[name] for name in whole} == whole
