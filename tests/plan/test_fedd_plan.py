"""FEDD in the plan: which jobs there are, what each depends on, and what is refused before anything runs."""

import csv
from pathlib import Path

import pytest
from cgddi.core.errors import InvalidInput
from cgddi.fedd.plan import STUDY
from cgddi.plan.config import load_config, parse_config
from cgddi.plan.jobs import Plan

from tests.plan.walk import counts, jobs, write_model

TONES = ("light", "medium", "dark")
SIZES = {"train_per_tone": {"5": 2, "20": 4}, "validation_per_tone": 2, "test_per_tone": 2}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory: cohort `clinic` with masks, cohort `archive` without, and a model's folder."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    rows = [row(f"c{n}", "clinic", n) for n in range(60)] + [row(f"a{n}", "archive", n, mask="") for n in range(12)]
    write_sheet(rows)
    (tmp_path / "diseases.csv").write_text("raw,concept,slug,token\nnevus,nevus,nevus,<nevus>\nwart,wart,wart,<wart>\n")
    return tmp_path


def row(image, cohort, n, mask=None):
    mask = f"{image}.npy" if mask is None else mask
    for name in filter(None, (f"{image}.png", mask)):
        Path(name).write_bytes(name.encode())
    facts = {"image_id": image, "file": f"{image}.png", "cohort": cohort, "disease": "nevus" if n % 2 else "wart"}
    return {**facts, "skin_tone": TONES[n % 3], "malignant": str(n % 2 == 0), "mask": mask}


def write_sheet(rows):
    with open("images.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def sheet():
    with open("images.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def make(fedd=None, cohorts=None, **changes):
    values = {
        "images": "images.csv",
        "diseases": "diseases.csv",
        "mixed_malignancy": "unlabelled",
        "runs": {"methods": ["baseline"], "seeds": [0]},
        "models": {"fedd": {"source": "./model"}},
        "cohorts": cohorts or {},
        "fedd": {"subsets": SIZES, "features": {"ablation_timesteps": [0, 1000]}, **(fedd or {})},
    }
    return Plan(parse_config({**values, **changes}))


AUTOMATIC = {"archive": {"masks": {"source": "fedd"}}}


def specs(plan):
    return {key: job.spec for key, job in jobs(plan).items()}


def changed(before, after):
    return {stage for key in before.keys() & after.keys() if before[key] != after[key] for stage in [key[0]]}


def test_without_fedd_in_the_config_nothing_of_it_is_planned(folder):
    plan = make(models={})
    assert not [key for key in jobs(plan) if key[0].startswith("fedd")]
    assert {p.image_id for p in plan.masked("clinic")} == {f"c{n}" for n in range(60)} and not plan.masked("archive")


def test_jobs_of_the_study(folder):
    plan = make({"study": True})
    features = [job.spec for key, job in jobs(plan).items() if key[0] == "fedd_features"]
    assert plan.fedd.timesteps == [0, 100, 999] and len(features) == 3
    for spec in features:
        assert len(spec["rows"]) == 3 * (4 + 2 + 2) and spec["pooled"] is True and spec["batch"] == STUDY
        assert spec["maps"] == ([6, 8] if spec["timestep"] == 100 else [])
        assert len(spec["showcase"]) == (6 if spec["timestep"] == 100 else 0)
    found = {rule: count for rule, count in counts(plan).items() if rule.startswith("fedd")}
    expected = {"fedd_features": 3, "fedd_segmenter": 6, "fedd_probe": 6, "fedd_tables": 1}
    assert found == expected | {"fedd_baseline": 10, "fedd_classifier": 10}
    assert plan.paths.file("fedd_tables") in plan.job("report").inputs["fedd"]


def test_automatic_masks_count_as_masks_everywhere(folder):
    plan = make(cohorts=AUTOMATIC)
    assert len(plan.masked("archive")) == 12 and sum(map(len, plan.healthy_batches["archive"].values())) == 12
    assert {donor.image_id for _, donor in plan.pairs if donor.cohort == "archive"} == {f"a{n}" for n in range(12)}
    found = {rule: count for rule, count in counts(plan).items() if rule.startswith("fedd")}
    assert found == {"fedd_features": 3, "fedd_segmenter": 1}, "the study's features, two batches', one segmenter"
    spec = plan.job("masks", cohort="archive", batch="wart.000").spec
    assert all(row["mask"] is None for row in spec["rows"]) and spec["segmenter"]["subset"] == "20"
    assert plan.fedd.mask_features("archive", "wart.000") == [plan.fedd.features(100, "archive", "wart.000")]


def test_a_cohort_names_only_the_masks_keys_in_which_it_differs(folder):
    plan = make(cohorts=AUTOMATIC, masks={"size": 64, "crop": "square"})
    own, section = plan.config.masks_of("archive"), plan.config.masks_of("clinic")
    assert (own.source, own.size, own.crop) == ("fedd", 64, "square") and section.source == "human"


def test_the_studys_own_photos_are_not_computed_twice(folder):
    plan = make(cohorts={"clinic": {"masks": {"source": "fedd"}}})
    inside = {photo.image_id for photo in plan.fedd.study.photos}
    rows = [job.spec["rows"] for key, job in jobs(plan).items() if key[0] == "fedd_features"]
    images = [row["image_id"] for part in rows for row in part]
    assert sorted(images) == sorted(f"c{n}" for n in range(60)) and inside <= set(images)
    keep = make(cohorts={"clinic": {"masks": {"source": "fedd", "prefer_human": True}}})
    assert [key for key in jobs(keep) if key[0] == "fedd_features"] == [("fedd_features", "clinic", "0100", "study")]
    assert keep.fedd.mask_features("clinic", "wart.000") == []


def test_a_setting_reruns_only_what_depends_on_it(folder):
    before = specs(make({"study": True}, AUTOMATIC))
    changes = {
        "probe": ({"epochs": 7}, {"fedd_probe"}),
        "segmenter": ({"learning_rate": 0.01}, {"fedd_segmenter"}),
        "baselines": ({"segmentation": ["vgg16", "resnet50"]}, {"fedd_tables"}),
        "tables": ({"bootstrap": 50}, {"fedd_tables"}),
        "features": ({"ablation_timesteps": [0, 50, 1000]}, {"fedd_tables"}),  # of one more probe
    }
    for group, (values, stages) in changes.items():
        after = specs(make({"study": True, group: values}, AUTOMATIC))
        assert changed(before, after) - {"report"} == stages, group  # it lists all settings that are not the usual
    human = specs(make({"study": True, "masks_from": {"subset": "5"}}, AUTOMATIC, models={"fedd": {"source": "a/b"}}))
    again = {key for key in before if key[0] == "masks" and before[key] != human[key]}
    assert again and {key[1] for key in again} == {"archive"}


def test_a_corrected_label_of_a_tested_photo_makes_the_tables_again_and_no_network(folder):
    """P13, where neither the split nor the study is drawn by labels (`balance: tone`)."""
    options = {"study": True, "subsets": {**SIZES, "balance": "tone", "further": True}}
    published = {"main": {"method": "published", "seed": 1, "test": 0.3}}
    plan = make(options, AUTOMATIC, splits=published)
    study = plan.fedd.study
    for image in (study.test[0].image_id, study.further[0].image_id):
        rows = sheet()
        (one,) = (row for row in rows if row["image_id"] == image)
        one["malignant"] = str(one["malignant"] != "True")
        before = specs(make(options, AUTOMATIC, splits=published))
        write_sheet(rows)
        after = specs(make(options, AUTOMATIC, splits=published))
        assert {stage for stage in changed(before, after) if stage.startswith("fedd")} == {"fedd_tables"}, image


def test_growth_elsewhere_leaves_study_and_masks_alone(folder):
    before = specs(make({"study": True}, AUTOMATIC))
    write_sheet([*sheet(), *(row(f"n{n}", "later", n) for n in range(9))])
    after = specs(make({"study": True}, AUTOMATIC))
    pooled = {"review", "index", "leakage", "audit", "audit_pictures", "published", "report"}
    own = {"embedding", "lora", "semantic"}
    assert changed(before, after) <= own | pooled, "the concepts' generators have more photos now"


def test_no_held_out_photo_teaches_the_segmenter(folder):
    plan = make(cohorts=AUTOMATIC, splits={"a": {"seed": 1}, "b": {"seed": 2}})
    for photo in plan.fedd.study.train["20"]:
        assert {plan.roles[split][photo.image_id] for split in ("a", "b")} == {"train"}


@pytest.mark.parametrize(
    ("fedd", "cohorts", "text"),
    [
        ({"subsets": {**SIZES, "train_per_tone": {"20": 40}}}, AUTOMATIC, r"needs 20 malignant photos of light skin"),
        ({"cohort": "archive"}, AUTOMATIC, r"none of its photos has a mask file.*clinic 60, archive 0"),
        ({"cohort": "nosuch"}, AUTOMATIC, r"no such cohort in the image sheet"),
        ({"masks_from": {"subset": "20"}, "subsets": {**SIZES, "train_per_tone": {"5": 2}}}, AUTOMATIC, r"none of 5"),
        ({"subsets": {**SIZES, "keep_to_training": False}}, AUTOMATIC, r"fedd.subsets.keep_to_training"),
    ],
)
def test_what_cannot_work_is_said_at_planning(folder, fedd, cohorts, text):
    with pytest.raises(InvalidInput, match=text):
        make(fedd, cohorts)


def test_a_subset_of_one_kind_is_refused_where_a_probe_would_learn_from_it(folder):
    write_sheet([{**row, "malignant": str(int(row["image_id"][1:]) >= 48)} for row in sheet()])
    subsets = {**SIZES, "balance": "tone", "train_per_tone": {"5": 1}}
    with pytest.raises(InvalidInput, match="3 training photos of subset 5 are all benign"):
        make({"study": True, "subsets": subsets})
    make({"subsets": subsets, "masks_from": {"subset": "5"}}, AUTOMATIC)


def test_automatic_masks_need_a_labelled_development_cohort(folder):
    with pytest.raises(InvalidInput, match=r"archive: 0 of 12.*sam3"):
        make(None, {"clinic": {"role": "evaluation"}, **AUTOMATIC}, splits={"main": {"method": "holdout"}})


def test_a_model_that_is_not_there_is_named_with_the_remedy(folder):
    with pytest.raises(InvalidInput, match=r"./nosuch is no folder.*cgddi fedd convert"):
        make(cohorts=AUTOMATIC, models={"fedd": {"source": "./nosuch"}})
    make(models={"fedd": {"source": "./nosuch"}})


def test_a_later_config_file_changes_keys_of_the_first(folder):
    (folder / "one.yaml").write_text("results: results/one\nlora: {rank: 4, steps: 9}\n")
    (folder / "two.yaml").write_text("results: results/two\nlora: {rank: 2}\n")
    config = load_config("one.yaml", "two.yaml")
    assert (config.results, config.lora.rank, config.lora.steps) == ("results/two", 2, 9)
