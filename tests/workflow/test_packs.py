"""Adapters trained in packs: one file per concept, whole packs run again, and only those that something changed for."""

import json
import shutil

import pytest
import yaml
from cgddi.artefacts import file_sha256
from cgddi.packs import packs_of
from cgddi.sheets import load_sheets

from tests.workflow.conftest import RUN, merge
from tests.workflow.dryrun import counts, messages
from tests.workflow.paper_scale import cgddi, paper_scale, snakemake

FILES = ("pytorch_lora_weights.safetensors", "samples.png", "record.json")


def adapters(folder):
    """Every adapter's file, as the workflow names it."""
    concepts = sorted(path.name for path in (folder / "results/toy/embedding/main").iterdir())
    return {c: f"results/toy/lora/main/{c}/{FILES[0]}" for c in concepts}


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


def test_a_new_disease_makes_a_pack_of_its_own(copy):
    extra = "data/toy/extra"
    cgddi(
        copy,
        *("ingest", "ddi", "--metadata", f"{extra}/ddi_metadata.csv", "--images", f"{extra}/images"),
        *("--masks", f"{extra}/masks", "--diseases", "config/toy/diseases.csv", "--append", "--prefix", "new-"),
        *("--output", "data/toy/images.csv"),
    )
    found = counts(copy, *RUN)
    assert (found["embedding"], found["lora"], found["adapter"]) == (1, 1, 1)
    (pack,) = packs(copy)
    assert len(pack) == 1 and pack[0] not in adapters(copy)


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
