"""The paper's overlays: each published table is one target whose jobs are known by hand, and overlays share what they agree on."""

from __future__ import annotations

import csv

import pytest
import yaml
from cgddi.core.errors import InvalidInput
from cgddi.core.published import SEEDS, TABLES
from cgddi.core.source import ROOT
from cgddi.plan.config import load_config
from cgddi.plan.jobs import Plan

from tests.plan.walk import counts, job_of, jobs, weights, write_model

TONES = ("light", "medium", "dark")
DDI = {"nevus": 24, "melanoma": 15, "wart": 12, "scar": 3, "keloid": 1}
"""Concept -> photos of the stand-in: DDI's shape, small; only melanoma is malignant."""
F17K = {"psoriasis": 20, "melanoma": 20}
FIVE = tuple(f"s{seed}" for seed in SEEDS)


def rows_of(cohort, sizes):
    made, n = [], 0
    for disease, size in sizes.items():
        for _ in range(size):
            n += 1
            facts = {"image_id": f"{cohort}{n:04d}", "file": f"{cohort}{n:04d}.png", "cohort": cohort}
            facts["disease"] = disease
            malignant = str(disease == "melanoma")
            made.append(
                {
                    **facts,
                    "skin_tone": TONES[n % 3],
                    "malignant": malignant,
                    "mask": f"{cohort}{n:04d}.npy" if n % 2 else "",
                }
            )
    return made


def write(path, rows):
    with open(path, "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def drawn(images):
    """Another order, so that each set holds several diseases."""
    return [images[5 * k % len(images)] for k in range(len(images))]


def write_labels(folder, images):
    """FEDD's published layout: nested training sets, one validation and one test set, a larger test that holds the small one."""
    images = drawn(images)
    train = {"5": images[:6], "10": images[:9], "15": images[:12], "20": images[:15]}
    parts = {f"training/{name}%/train": chosen for name, chosen in train.items()}
    for name in train:
        parts |= {f"training/{name}%/val": images[15:18], f"training/{name}%/test": images[18:21]}
    parts |= {"testing/test_light": images[18:22], "testing/test_dark": images[22:27]}
    for place, names in parts.items():
        (folder / place).mkdir(parents=True)
        for name in names:
            (folder / place / f"{name}.npy").touch()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with sheets of both data sets' shape at the names that the overlays give."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "config").mkdir()
    ddi, f17k = rows_of("ddi", DDI), rows_of("f17k", F17K)
    f17k = [row | {"mask": ""} for row in f17k]
    for row in ddi + f17k:
        for name in filter(None, (row["file"], row["mask"])):
            (folder / name).write_bytes(name.encode())
    write(folder / "config/images.csv", ddi)
    write(folder / "config/images-f17k.csv", f17k)
    write(folder / "config/images-both.csv", ddi + f17k)
    names = [{"raw": name, "concept": name} for name in sorted({*DDI, *F17K})]
    for name in ("diseases", "diseases-both"):
        write(folder / f"config/{name}.csv", names)
    write_model(folder / "models/adm-256-uncond")
    for name in ("inception-fid", "lpips-alex"):
        (folder / f"models/{name}.safetensors").write_bytes(weights(1))
    write_labels(folder / "data/ddi_labels", [row["image_id"] for row in ddi if row["mask"]])
    (folder / "names.yaml").write_text("diseases: config/diseases.csv\nsample_min_images: 2\n")
    return folder


@pytest.fixture(scope="module")
def planned(folder):
    """Plans by overlay, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        paper = ROOT / "config/paper"
        plans = {
            path.stem: Plan(load_config(paper / "base.yaml", path, "names.yaml"))
            for path in sorted(paper.glob("*.yaml"))
            if path.stem != "base"
        }
        yield {name: (plan, jobs(plan, "published")) for name, plan in plans.items()}


def classified(made):
    return {key[1:] for key in made if key[0] == "classify"}


def test_there_is_an_overlay_of_a_few_lines_for_each_published_table():
    overlays = {path.stem: path.read_text() for path in (ROOT / "config/paper").glob("*.yaml") if path.stem != "base"}
    assert set(overlays) == {*TABLES, "fedd"}
    for name, text in overlays.items():
        assert yaml.safe_load(text)["published"]["table"] == name
        assert len([line for line in text.splitlines() if line.strip() and not line.startswith("#")]) <= 30, name


def test_the_tables_of_ddi_train_the_published_classifiers(planned):
    vit = "patchalign"
    assert classified(planned["ddi"][1]) == {
        (split, regime, method, "0")
        for split in FIVE
        for regime, method in [("real", "baseline"), ("real", "fairdisco")]
        + [(regime, vit) for regime in ("real", "synthetic", "synthetic_real")]
    }
    assert classified(planned["sources"][1]) == {
        (split, regime, method, "0")
        for split in FIVE
        for regime, method in [("real", "baseline")]
        + [(regime, vit) for regime in ("healthy_mapped", "semantic", "synthetic")]
    }
    assert classified(planned["rarity"][1]) == {
        (split, regime, vit, "0") for split in FIVE for regime in ("synthetic", "synthetic_real")
    }
    assert classified(planned["quality"][1]) == set()
    plan = planned["ddi"][0]
    test = {image for image, role in plan.roles["s4242"].items() if role == "test"}
    assert len(test) == 11, "a fifth of 55 photos"
    options = plan.config.classify
    assert (options.selection, options.selection_metric, options.losses) == ("test", "accuracy", "code")
    assert plan.config.index.drop_touching == ("donor", "own_canvas")


def test_each_target_plans_the_jobs_counted_by_hand(planned):
    """Photos of 5 concepts, those with and without a mask apart; every batch of donors meets one pool of canvases;
    the concept of one photo gives no samples, and so needs no adapter."""
    generated = {
        "masks": 9,
        "healthy": 5,
        "canvases": 1,
        "lesion_mapped": 5,
        "embedding": 4,
        "lora": 4,
        "semantic": 4,
    }
    per_split = {"split": 1, "index": 1, "leakage": 1}
    for name, splits, classifiers in (("ddi", 5, 25), ("sources", 5, 20), ("rarity", 5, 10), ("quality", 1, 0)):
        plan, made = planned[name]
        expected = generated | {rule: n * splits for rule, n in per_split.items()} | {"published": 1}
        if classifiers:
            expected |= {"classify": classifiers, "fairness": 1}
        else:
            expected |= {"audit": 1}
            del expected["leakage"]
        found = {rule: sum(key[0] == rule for key in made) for rule in {key[0] for key in made}}
        assert found == expected, name
    plan, made = planned["f17k"]
    found = {rule: sum(key[0] == rule for key in made) for rule in {key[0] for key in made}}
    assert found == {
        **{"masks": 2, "healthy": 2, "canvases": 1, "lesion_mapped": 2, "embedding": 2, "lora": 2, "semantic": 2},
        **{"split": 1, "index": 1, "leakage": 1, "classify": 3, "fairness": 1, "published": 1, "skin": 1},
    }
    skin = plan.paths.file("skin", cohort="f17k")
    mapped = [job for key, job in made.items() if key[0] == "lesion_mapped"]
    assert {job.inputs["skin"] for job in mapped} == {skin}, "SAM 3 looks at the healthy images again"
    assert "on_healthy" in made["skin", "f17k"].spec["settings"] and plan.config.masks_of("f17k").on_healthy
    assert counts(plan, "published") == found
    plan, made = planned["cross"]
    found = {rule: sum(key[0] == rule for key in made) for rule in {key[0] for key in made}}
    assert found["classify"] == 15 and found["index"] == 5 and found["canvases"] == 2 and found["skin"] == 1
    assert {bool(job.inputs.get("skin")) for key, job in made.items() if key[:2] == ("lesion_mapped", "ddi")} == {False}
    assert found["lesion_mapped"] == 2 * (5 + 2) and found["semantic"] == 2 * 5


def test_cross_settings_learn_from_one_set_and_are_tested_on_the_same_photos_of_the_other(planned):
    plan, _ = planned["cross"]
    tested = {}
    for split, (train, test) in {
        "f17k": (["f17k"], "f17k"),
        "f17k-to-ddi": (["f17k"], "ddi"),
        "ddi-to-f17k": (["ddi"], "f17k"),
        "both-to-f17k": (["ddi", "f17k"], "f17k"),
        "both-to-ddi": (["ddi", "f17k"], "ddi"),
    }.items():
        assert sorted(plan.learnt_cohorts(split)) == train
        images = {image for image, role in plan.roles[split].items() if role == "test"}
        assert {image[:-4] for image in images} == {test}
        assert tested.setdefault(test, images) == images, "the same photos, whatever it learnt from"
    assert [len(tested[name]) for name in ("f17k", "ddi")] == [6, 11]  # 15 % of 40, 20 % of 55, rounded up
    made = plan.made_for("f17k")
    assert not any("/ddi" in path for kind in made.values() for path in kind), "nothing of the other set reaches it"
    crossed = plan.made_for("ddi-to-f17k")["lesion_mapped"]
    assert any("/f17k/ddi/" in path for path in crossed) and not any("/f17k/f17k/" in path for path in crossed)


def test_the_fedd_study_is_that_of_the_published_folders(planned):
    plan, made = planned["fedd"]
    study = plan.fedd.study
    masked = drawn([row["image_id"] for row in rows_of("ddi", DDI) if row["mask"]])
    everything = [row["image_id"] for row in rows_of("ddi", DDI)]
    sizes = {"5": 6, "10": 9, "15": 12, "20": 15}
    for name, size in sizes.items():
        assert [p.image_id for p in study.train[name]] == sorted(masked[:size])
    assert [p.image_id for p in study.validation] == sorted(masked[15:18])
    assert [p.image_id for p in study.test] == sorted(masked[18:21])
    assert [p.image_id for p in study.further] == [name for name in everything if name not in masked[:21]]
    assert [p.image_id for p in study.further_masks] == sorted(masked[21:27]), "of testing/, less the small test's"
    found = {rule: sum(key[0] == rule for key in made) for rule in {key[0] for key in made}}
    assert found == {
        **{
            "fedd_features": 21,
            "fedd_segmenter": 4,
            "fedd_probe": 4 * 21,
            "fedd_baseline": 4 * 5,
            "fedd_classifier": 4 * 5,
        },
        **{"fedd_tables": 1, "published": 1},
    }
    specs = {rule: next(job.spec for key, job in made.items() if key[0] == rule) for rule in found}
    assert specs["fedd_features"]["settings"]["noise"] == "shared"
    assert len(specs["fedd_segmenter"]["further"]) == 6 and len(specs["fedd_probe"]["further"]) == 55 - 21


def files(plan, made):
    """Files of jobs, and what each is made from."""
    return {
        plan.paths.file(key[0], **dict(zip(job_wildcards(key[0]), key[1:], strict=True))): job.spec
        for key, job in made.items()
    }


def job_wildcards(rule):
    from cgddi.plan.paths import RESULTS

    return RESULTS[rule].wildcards


@pytest.mark.parametrize(
    ("one", "other"), [("ddi", "sources"), ("ddi", "rarity"), ("sources", "quality"), ("f17k", "cross")]
)
def test_overlays_share_what_they_agree_on_and_keep_their_tables_apart(planned, one, other):
    """A file that two overlays make is made from the same in both, so neither makes the other's again."""
    left, right = (files(*planned[name]) for name in (one, other))
    common = set(left) & set(right)
    rules = {job_of(path.removeprefix(f"{planned[one][0].config.results}/"))[0] for path in common}
    assert {"masks", "healthy", "canvases", "lesion_mapped", "index"} <= rules and "fairness" not in rules
    changed = {path for path in common if left[path] != right[path]}
    if (one, other) == ("f17k", "cross"):  # a disease of both sets is one concept, learnt from both
        concepts = {path.split("/")[-2] for path in changed if "/lora/" in path}
        assert concepts <= {"melanoma"}
        changed = {path for path in changed if "melanoma" not in path}
    assert {path: (left[path], right[path]) for path in changed} == {}
    assert all("/tables/" in path for path in (set(left) ^ set(right)) if "fairness" in path or "published" in path)


def test_weights_for_quality_are_missed_before_anything_runs_and_concern_that_audit_alone(folder, planned):
    plan = planned["quality"][0]
    spec = plan.job("audit", split="s4242", kind="quality").spec
    assert spec["settings"]["inception"].startswith("sha256:"), "what the file holds"
    test = {image for image, role in plan.roles["s4242"].items() if role == "test"}
    assert {row["image_id"] for row in spec["labels"]} == test and all(row["tone"] for row in spec["labels"])
    for kind in ("leakage", "tone", "memorisation"):
        other = plan.job("audit", split="s4242", kind=kind).spec
        assert other == planned["ddi"][0].job("audit", split="s4242", kind=kind).spec and "labels" not in other
    (folder / "gone.yaml").write_text("audit: { lpips: models/gone.safetensors }\n")
    paper = ROOT / "config/paper"
    gone = Plan(load_config(paper / "base.yaml", paper / "quality.yaml", "names.yaml", "gone.yaml"))
    with pytest.raises(InvalidInput, match=r"audit.lpips.*gone.safetensors is not there.*`cgddi audit convert`"):
        gone.job("published")
        gone.job("audit", split="s4242", kind="quality")
