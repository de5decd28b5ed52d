"""A shrunken run of the toy world with automatic masks: the study and the masks of its segmenter. In `make test-all` it goes on to
the end: these feed healthy skin and lesion mapping, and the study is reported."""

import csv
import json

import pytest
import yaml
from cgddi.core.archive import Archive

from tests.workflow.conftest import RUN, SMALL, merge, small_world
from tests.workflow.dryrun import counts
from tests.workflow.paper_scale import ROOT, cgddi, snakemake

CONCEPT = "inkblot-naevoma"
SMALLER = {
    "only_concepts": [CONCEPT],
    "sample_min_images": 99,
    "runs": {"regimes": ["healthy_mapped"]},
    "fedd": {
        "features": {"size": 64, "ablation_timesteps": [], "showcase": 1},
        "subsets": {
            "train_per_tone": {"5": 0, "10": 0, "15": 0, "20": 2},
            "validation_per_tone": 1,
            "test_per_tone": 1,
            "balance": "tone_and_malignancy",
        },
        "segmenter": {"ensemble": 2, "steps": 400, "check_every": 100},
        "variants": ["plain"],
        "probe": {"epochs": 5},
        "baselines": {"segmentation": ["mobilenet_v2"], "classification": ["mobilenetv2_100"], "epochs": 1},
        "tables": {"bootstrap": 20},
    },
}
"""What the shrunken run changes in config/toy/fedd.yaml: fewer photos, steps and jobs."""


def configuration(changes):
    """The shrunken configuration as one file's values."""
    toy, fedd = (yaml.safe_load((ROOT / f"config/toy/{name}.yaml").read_text()) for name in ("config", "fedd"))
    values = merge(merge(merge(merge(toy, fedd), SMALL), SMALLER), changes)
    sizes = values["fedd"]["subsets"]["train_per_tone"]
    values["fedd"]["subsets"]["train_per_tone"] = {name: count for name, count in sizes.items() if count}
    return values


def write(folder, changes=None):
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration(changes or {})))


OWN = ("--until", "fedd_tables", "fedd_masks", "masks")
"""The rules of the study and of masks, and what they need."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The working directory after a run of the study and of all masks."""
    folder = small_world(tmp_path_factory.mktemp("fedd") / "work")
    write(folder)
    snakemake(folder, *RUN, "--cores", "2", *OWN)
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """The same after the run has gone on to its end."""
    snakemake(folder, *RUN, "--cores", "2")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return folder / f"results/toy-fedd/only-{CONCEPT}"


def archives(results, stage, cohort="toy"):
    return [Archive(path) for path in sorted((results / stage / cohort).glob("*.tar"))]


def test_masks_come_from_the_segmenter(folder, results):
    learnt = json.loads((results / "fedd/segmenter/plain/20/0/record.json").read_text())["training_images"]
    assert len(learnt) == 6
    masked = []
    for archive in archives(results, "masks"):
        assert archive.record["segmenter_images"] == sorted(learnt)
        assert all(row["mask"] is None for row in archive.record["spec"]["rows"])
        for row in archive.rows:
            assert not row["has_mask"] or row["mask_source"] == "fedd" and "mask.png" in row["members"]
            masked += [row["image_id"]] if row["has_mask"] else []
    assert len(masked) >= 10, "most of 28 photos, although 9 have no mask in the sheet"
    with open(folder / "data/toy/images.csv", newline="") as handle:
        by_hand = {row["image_id"] for row in csv.DictReader(handle) if row["mask"]}
    assert set(masked) - by_hand, "photos without a mask file have a mask now"
    human = [row for archive in archives(results, "masks", "toy-test") for row in archive.rows if row["has_mask"]]
    assert human and {row["mask_source"] for row in human} == {"human"}


def test_the_tables(results):
    tables = results / "fedd/tables"
    with open(tables / "iou.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["class"] for row in rows} >= {"lesion", "skin", "mean"}
    assert json.loads((tables / "summary.json").read_text())["spec"]["cohort"] == "toy"
    assert (tables / "masks.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({}, {}),
        ({"fedd": {"probe": {"epochs": 6}}}, {"fedd_probe": 1, "fedd_tables": 1}),
        ({"fedd": {"tables": {"bootstrap": 21}}}, {"fedd_tables": 1}),
    ],
)
def test_features_are_never_computed_again_for_another_setting(folder, changes, rules):
    write(folder, changes)
    try:
        assert counts(folder, *RUN, *OWN) == rules
    finally:
        write(folder)


@pytest.mark.slow
def test_healthy_skin_and_mapping_use_them(whole, results):
    own = [archive for archive in archives(results, "masks") if archive.path.name.startswith(f"{CONCEPT}.")]
    of_concept = {row["image_id"]: row for archive in own for row in archive.rows}
    usable = {image for image, row in of_concept.items() if row["has_mask"]}
    healthy = {row["key"] for archive in archives(results, "healthy") for row in archive.rows}
    assert healthy and healthy <= usable
    (mapped,) = archives(results, "lesion_mapped", "toy/toy")
    made = {row["donor"] for row in mapped.rows}
    assert made and made <= usable and mapped.record["spec"]["images"] == sorted(of_concept)


@pytest.mark.slow
def test_the_report_has_a_section_nothing_is_left_to_do_and_status_says_so(whole, results):
    assert "FEDD" in (results / "report/index.html").read_text()
    assert counts(whole, *RUN) == {}
    text = cgddi(whole, "status", "--configfile", "config.yaml")
    assert "done" in text and "missing" not in text and "stale" not in text
