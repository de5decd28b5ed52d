"""Who generates, who is learnt from and what each split may use: three uneven cohorts and two splits, every set written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from cgddi.plan.config import load_config
from cgddi.plan.jobs import Plan

from tests.watch.world import row, set_config, write_sheet

ROLES = {  # photo -> (its cohort, whether it has a mask, malignancy, role in split main, role in split other)
    "nevus0": ("big", True, False, "train", ""),
    "nevus1": ("big", True, False, "test", ""),
    "nevus2": ("big", True, False, "train", ""),
    "nevus3": ("big", False, False, "train", ""),
    "nevus4": ("big", False, False, "validation", ""),
    "melanoma0": ("big", True, True, "train", ""),
    "melanoma1": ("big", True, False, "test", ""),
    "acne0": ("big", True, False, "train", ""),
    "nevus10": ("second", True, False, "train", "train"),
    "nevus11": ("second", True, False, "test", "train"),
    "nevus12": ("second", True, False, "train", "test"),
    "melanoma10": ("second", False, True, "train", "test"),
    "nevus20": ("clinic", True, False, "test", "test"),
    "nevus21": ("clinic", True, True, "test", "test"),
    "melanoma20": ("clinic", True, True, "test", "test"),
}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A plan of these photos, with keys of the config changed."""
    monkeypatch.chdir(tmp_path)
    rows, splits = [], {}
    for image, (cohort, mask, malignant, *_) in ROLES.items():
        name = image.rstrip("0123456789")
        rows.append(row(name, int(image[len(name) :]), cohort, malignant, mask))
    write_sheet(rows[::-1])
    Path("diseases.csv").write_text(
        "raw,concept,slug,token\n" + "".join(f"{n},{n},{n},<{n}>\n" for n in ("nevus", "melanoma", "acne"))
    )
    for place, split in ((3, "main"), (4, "other")):
        lines = "".join(f"{image},{facts[place]}\n" for image, facts in ROLES.items())
        Path(f"{split}.csv").write_text(f"image_id,role\n{lines}")
        splits[split] = {"method": "file", "file": f"{split}.csv"}

    def plan(**changes):
        given = {"generator_scope": "split", "cohorts": {"clinic": {"role": "evaluation"}}, "splits": splits}
        set_config(**{**given, "sample_min_images": 2, **changes})
        return Plan(load_config("config.yaml"))

    return plan


def ids(photos):
    return [photo.image_id for photo in photos]


def names(files):
    """Archives by what stands in their path below the stage's folder."""
    return sorted("/".join(Path(file).with_suffix("").parts[2:]) for file in files)


def test_generators_learn_from_the_training_photos_of_their_scope(planned):
    plan = planned()
    assert {key: ids(photos) for key, photos in plan.training.items()} == {
        ("main", "nevus"): ["nevus0", "nevus10", "nevus12", "nevus2", "nevus3"],
        ("main", "melanoma"): ["melanoma0", "melanoma10"],
        ("main", "acne"): ["acne0"],
        ("other", "nevus"): ["nevus10", "nevus11"],
    }
    assert sorted(plan.adapters) == sorted(plan.training)
    assert plan.concept_label("main", "melanoma") is True, "the benign one only tests"
    assert plan.concept_label("main", "nevus") is False, "the malignant one is of an evaluation cohort"
    assert set(plan.samples) == {
        ("main", "big", "nevus"), ("main", "second", "nevus"), ("main", "big", "melanoma"),
        ("main", "second", "melanoma"), ("other", "big", "nevus"), ("other", "second", "nevus"),
    }, "acne has one photo, two are asked for"  # fmt: skip
    assert not any(concept == "melanoma" for *_, concept in planned(sample_min_images=3).samples)
    whole = planned(generator_scope="all")
    assert ids(whole.training["all", "melanoma"]) == ["melanoma0", "melanoma1", "melanoma10"]
    assert whole.concept_label("all", "melanoma") is None


def test_lesions_meet_the_canvases_of_their_own_cohort_and_of_the_first(planned):
    plan = planned()
    assert plan.canvas_cohorts == ["big", "second"]
    own = {("big", image) for image in ("nevus0", "nevus1", "nevus2", "melanoma0", "melanoma1", "acne0")}
    later = {(cohort, f"nevus{n}") for cohort in ("big", "second") for n in (10, 11, 12)}
    assert {(cohort, donor.image_id) for cohort, donor in plan.pairs} == own | later
    every = planned(canvas_cohorts="all")
    assert {(c, d.image_id) for c, d in every.pairs} == own | later | {("second", image) for _, image in own}
    first = planned(first_cohort="second")
    assert {c for c, d in first.pairs if d.cohort == "big"} == {"second", "big"} and len(first.pairs) == 12 + 3
    few = planned(drop_concepts=["melanoma"])
    assert {d.concept for _, d in few.pairs} == {concept for *_, concept in few.samples} | {"acne"} == {"nevus", "acne"}
    assert {concept for _, concept in few.adapters} == {"nevus", "acne"}
    only = planned(only_concepts=["melanoma"])
    assert ids(only.masked("big")) == ["melanoma0", "melanoma1"] and list(only.training) == [("main", "melanoma")]


def test_a_batch_holds_one_concept_masked_or_not_and_those_that_only_test_are_apart(planned):
    plan = planned(images_per_job=2)
    found = {c: {name: ids(batch) for name, batch in batches.items()} for c, batches in plan.batches.items()}
    assert found == {
        "big": {
            "acne.000": ["acne0"],
            "melanoma.000": ["melanoma0", "melanoma1"],
            "nevus.000": ["nevus0", "nevus1"],
            "nevus.001": ["nevus2"],
            "nevus.unmasked.000": ["nevus3", "nevus4"],
        },
        "second": {
            "melanoma.unmasked.000": ["melanoma10"],
            "nevus.000": ["nevus10", "nevus11"],
            "nevus.001": ["nevus12"],
        },
        "clinic": {"test.000": ["melanoma20", "nevus20"], "test.001": ["nevus21"]},
    }
    assert [*plan.healthy_batches["big"]] == ["acne.000", "melanoma.000", "nevus.000", "nevus.001"]
    assert plan.healthy_batches["second"] == {"nevus.000": ["nevus10", "nevus11"], "nevus.001": ["nevus12"]}
    mapped = [tuple(names.values()) for names in plan.mapped_batches]
    assert sorted(mapped) == [
        *(("big", "big", batch) for batch in plan.healthy_batches["big"]),
        *((canvases, "second", batch) for canvases in ("big", "second") for batch in plan.healthy_batches["second"]),
    ], "each canvas cohort with the batches whose donors it meets"
    assert {batch for *_, batch in map(dict.values, planned(drop_concepts=["nevus"]).mapped_batches)} == {
        *("acne.000", "melanoma.000")
    }
    job = plan.job("lesion_mapped", canvas_cohort="big", cohort="second", batch="nevus.000")
    assert job.inputs == {"photos": "results/masks/second/nevus.000.jsonl", "canvases": "results/canvases/big.jsonl"}
    assert job.spec["images"] == [row["image_id"] for row in job.spec["labels"]] == ["nevus10", "nevus11"]


def test_a_split_uses_what_was_made_of_cohorts_that_it_learns_from_on_canvases_of_those_in_it(planned):
    plan = planned()
    main, other = plan.made_for("main"), plan.made_for("other")
    assert names(main["healthy"]) == ["big", "second"] and len(main["lesion_mapped"]) == 5
    assert names(other["healthy"]) == ["second"], "it does not learn from the others"
    assert names(other["lesion_mapped"]) == ["second/second/nevus.000"]
    assert names(other["semantic"]) == ["other/second/nevus"]
    whole = planned(generator_scope="all")
    assert names(whole.made_for("other")["semantic"]) == ["all/second/nevus"], "no melanoma is learnt there"
    assert len(whole.made_for("main")["semantic"]) == 4


def test_adapters_and_limits_stand_on_the_first_cohorts_photos_and_canvases(planned):
    plan = planned()
    job = plan.job("lora", scope="other", concept="nevus")
    assert names(job.inputs["canvases"]) == ["big"] and names([job.inputs["split"]]) == ["other/canvases/big"]
    assert names([job.inputs["embedding"]]) == ["other/nevus/learned_embeds"]
    labels = plan.job("calibration", scope="main").spec["labels"]
    assert [line["image_id"] for line in labels] == ["acne0", "melanoma0", "nevus0", "nevus2"]
    whole = planned(generator_scope="all").job("lora", scope="all", concept="nevus")
    assert "split" not in whole.inputs, "all canvases are priors where the generators see all photos"


def test_a_split_by_tone_is_told_to_its_classifiers_and_no_other(planned):
    splits = {
        "tones": {"method": "out_of_tone", "test_tones": ["dark"]},
        "main": {"method": "file", "file": "main.csv"},
    }
    plan = planned(splits=splits)
    assert plan.out_of_tone == {"tones"}
    told = {
        split: plan.job("classify", split=split, regime="real", method="baseline", run_seed="0").spec.get("out_of_tone")
        for split in splits
    }
    assert told == {"tones": True, "main": None}
