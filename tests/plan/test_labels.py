"""What a corrected label and one more photo make again, each set of jobs computed by hand.

Beside the small world of tests.watch.world stands a larger one: cohort `here` (18 masked photos), cohort `second` (four of nevus,
two with a mask) that split `main` tests and split `outside` learns from, and cohort `clinic`, which only tests.
"""

import os
import shutil

import pytest
from cgddi.plan.config import load_config
from cgddi.plan.jobs import Plan

from tests.watch.test_agreement import said
from tests.watch.world import (
    POOLED,
    finish,
    planned_by_snakemake,
    row,
    run_snakemake,
    set_config,
    sheet,
    write_sheet,
    write_world,
)

TABLES = {"fairness": 1, "published": 1, "report": 1}
SPLITS = {
    "main": {"method": "cohorts", "test_cohorts": ["second", "clinic"], "validation": 0},
    "outside": {"method": "holdout", "validation": 0},
}


@pytest.fixture(scope="module")
def larger_finished(tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("larger"), os.getcwd()
    os.chdir(folder)
    try:
        write_world()
        second = [row("nevus", k, "second", mask=k < 32) for k in range(30, 34)]
        clinic = [
            row("melanoma" if k % 2 else "acne", k, "clinic", malignant=k % 2 == 1, mask=False) for k in range(40, 46)
        ]
        write_sheet([*sheet(), *second, *clinic])
        set_config(generator_scope="split", cohorts={"clinic": {"role": "evaluation"}}, splits=SPLITS)
        finish()
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def larger(larger_finished, tmp_path, monkeypatch):
    """A copy of the larger world after a run."""
    folder = tmp_path / "larger"
    shutil.copytree(larger_finished, folder)
    monkeypatch.chdir(folder)
    return folder


def correct(image, **changes):
    rows = sheet()
    next(row for row in rows if row["image_id"] == image).update(changes)
    write_sheet(rows)


# ---- labels


@pytest.mark.parametrize(
    "change", [{"malignant": "True"}, {"malignant": ""}, {"skin_tone": "dark"}, {"disease": "melanoma"}], ids=str
)
def test_a_label_of_a_photo_that_only_tests_makes_the_tables_again(larger, change, capsys):
    """P13: masks, index and classifiers stay. Images are compared with held-out photos of their tone, in both splits."""
    correct("acne40", **change)
    assert planned_by_snakemake() == TABLES | ({"audit": 2} if "skin_tone" in change else {})
    ((name, value),) = change.items()
    name = {"skin_tone": "tone", "disease": "concept"}.get(name, name)
    assert said("fairness", capsys)[1].startswith(f"  labels.acne40.{name}: ")


def test_a_label_of_a_photo_that_one_split_tests_concerns_only_the_splits_that_learn_from_it(larger):
    """Its malignancy: nevus has then malignant and benign training photos outside, so that its samples there lose their label; the
    classifiers of main stay, of which it is a test photo, and so do all photos, canvases, composites and adapters."""
    correct("nevus30", malignant="True")
    assert planned_by_snakemake() == {"semantic": 2} | POOLED


def test_the_tone_of_a_training_photo_without_a_mask_concerns_its_own_adapter(larger):
    """P10; and the quality audit of the other split, in which it is held out."""
    assert {p.image_id: p.skin_tone for p in Plan(load_config("config.yaml")).photos}["nevus33"] == "light"
    correct("nevus33", skin_tone="dark")
    pooled = POOLED | {"audit": POOLED["audit"] + 1}
    assert planned_by_snakemake() == {"embedding": 1, "lora": 1, "semantic": 2} | pooled


def test_labels_that_decide_the_training_are_in_the_index(larger):
    """Epochs chosen by test photos, composites of test photos, a concept left out."""

    def told(**changes):
        values = {"generator_scope": "split", "cohorts": {"clinic": {"role": "evaluation"}}, "splits": SPLITS}
        set_config(**(values | changes))
        plan = Plan(load_config("config.yaml"))
        return {row["image_id"] for row in plan.job("index", split="main").spec["labels"]}

    here = {row["image_id"] for row in sheet() if row["cohort"] == "here"}
    every = {row["image_id"] for row in sheet()}
    assert told() == here
    assert told(classify={"selection": "test"}) == every
    assert told(index={"drop_touching": ["canvas", "generator"]}) == every
    assert told(index={"drop_touching": ["donor", "own_canvas"]}) == every
    assert told(drop_concepts=["nevus"]) == here | {f"nevus{k}" for k in range(30, 34)}


@pytest.mark.parametrize(
    ("task", "said_of"),
    [
        ({"task": "concept"}, ["no test photo of acne", "test photos of wart, but no training photo"]),
        ({"task": "partition", "partition": {"wart": "x", "nevus": "x", "acne": "x", "melanoma": "y"}}, []),
        ({"task": "malignancy"}, ["no benign test photo"]),
    ],
    ids=lambda value: value.get("task") if isinstance(value, dict) else "",
)
def test_what_test_photos_must_have_is_looked_at_by_the_plan(world, task, said_of):
    """The classifiers do not know their labels."""
    tested = [row("wart", k, "clinic", malignant=True) for k in range(3)]
    tested += [row(name, k, "clinic", malignant=True) for name in ("nevus", "melanoma") for k in range(10, 13)]
    write_sheet([*sheet(), *tested])
    set_config(
        cohorts={"clinic": {"role": "evaluation"}},
        splits={"main": {"method": "holdout", "validation": 0}},
        classify=task,
    )
    found = [problem.message.removeprefix("the split has ") for problem in Plan(load_config("config.yaml")).untestable]
    assert found == said_of


# ---- photos that come


def test_a_photo_without_a_mask_costs_nothing_beyond_itself(larger, capsys):
    """P10: its concept's adapter where it trains one; no healthy skin, canvas, composite or adapter of others."""
    both = {rule: 2 * count for rule, count in POOLED.items() if rule not in TABLES}
    write_sheet([*sheet(), row("nevus", 35, "second", mask=False)])
    own = {"masks": 1, "split": 2, "embedding": 1, "lora": 1, "semantic": 2}
    assert planned_by_snakemake() == own | both | TABLES
    write_sheet([*sheet()[:-1], row("acne", 47, "clinic", mask=False)])
    assert planned_by_snakemake() == {"masks": 1, "split": 2} | both | TABLES


def test_a_test_photos_malignancy_touches_no_training_image(world):
    """P13: an evaluation cohort; nothing of what is generated runs again, and no label of a sample changes."""
    set_config(cohorts={"clinic": {"role": "evaluation"}}, splits={"main": {"method": "holdout"}})
    rows = [*sheet(), *(row("nevus", k + 20, "clinic", malignant=k % 2 == 0, mask=False) for k in range(6))]
    write_sheet(rows)
    before = Plan(load_config("config.yaml"))
    rows[-1]["malignant"] = "True"
    rows[-2]["malignant"] = "True"
    write_sheet(rows)
    after = Plan(load_config("config.yaml"))
    names = {"scope": "all", "canvas_cohort": "here", "concept": "nevus"}
    assert after.job("semantic", **names) == before.job("semantic", **names)
    assert after.job("semantic", **names).spec["malignant"] is False
    assert after.job("masks", cohort="here", batch="nevus.000") == before.job("masks", cohort="here", batch="nevus.000")


def test_a_new_evaluation_cohort_generates_nothing(world):
    """Nor does it take part in a split by strata: its photos are made ready, and the page tells the config's difference."""
    set_config(cohorts={"clinic": {"role": "evaluation"}})
    write_sheet([*sheet(), *(row("nevus", k + 20, "clinic") for k in range(6))])
    assert planned_by_snakemake() == {"masks": 1, "report": 1}


@pytest.mark.parametrize("policy", ["split", "error"])
def test_evaluation_photos_make_no_concept_mixed(world, policy):
    """P13."""
    set_config(
        cohorts={"clinic": {"role": "evaluation"}}, splits={"main": {"method": "holdout"}}, mixed_malignancy=policy
    )
    write_sheet([*sheet(), *(row("nevus", k + 20, "clinic", malignant=True, mask=False) for k in range(6))])
    assert ("all", "nevus") in Plan(load_config("config.yaml")).training


def test_a_grown_cohort_says_what_it_costs_before_anything_runs(world):
    """P10."""
    write_sheet([*sheet(), row("nevus", 9)])
    text = run_snakemake("-n")
    again = "1 healthy, 3 lesion_mapped, 1 embedding, 3 lora, 3 semantic"
    assert all(part in text for part in again.split(", ")) and "finished jobs will run again" in text
    assert "Cohort here has grown by 1 masked photo(s)" in text and "`cgddi ingest --append`" in text
    write_sheet(sheet()[:-2])
    assert "Cohort here has lost 1 masked photo(s)" in run_snakemake("-n")
