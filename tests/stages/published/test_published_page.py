"""The page "published against ours": which of our figures stands beside a published one, what differs, and counts of images."""

from __future__ import annotations

import html
import json

import pandas as pd
import pytest
from cgddi.cli import main
from cgddi.core.archive import ArchiveWriter
from cgddi.core.published import SEEDS, TABLES, figures

VIT = "vit_base_patch16_224.augreg_in21k"
FIVE = {f"s{seed}": {"method": "published", "seed": seed, "test": 0.2} for seed in SEEDS}
MAIN = {"main": {"method": "stratified", "seed": 1, "test": 0.2}}


def about(splits, regime="synthetic", **more):
    facts = {
        "train": "ddi",
        "test": "ddi",
        "method": "patchalign",
        "regime": regime,
        "backbone": VIT,
        "task": "malignancy",
    }
    return facts | {"selection": "test", "clean": False, "splits": splits, "seeds": [0], **more}


def fairness(folder, settings, rows, common=(("five/synthetic/patchalign", 0.9),)):
    """A summary and the tables beside it; rows: (setting, metric, group, value, low, high); common: accuracy of common diseases."""
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"about": settings}))
    columns = ["split", "regime", "method", "metric", "group", "value", "low", "high", "std_runs", "runs", "images"]
    lines = [[*setting.split("/"), *row, 0.021, 5, 132] for setting, *row in rows]
    pd.DataFrame(lines, columns=columns).to_csv(folder / "metrics.csv", index=False)
    common = [[*name.split("/"), "common", "accuracy", "all", value, 0.8, 0.95, 5, 107] for name, value in common]
    names = [
        "split",
        "regime",
        "method",
        "rarity",
        "metric",
        "group",
        "value",
        "low",
        "high",
        "runs",
        "images",
    ]
    pd.DataFrame(common, columns=names).to_csv(folder / "by_rarity.csv", index=False)
    return folder / "summary.json"


def make(folder, table, *options, **facts):
    spec = {"stage": "published", "settings": {"table": table}, "datasets": {"ddi": "ddi", "f17k": "f17k"}, **facts}
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [
        "published",
        "--spec",
        str(folder / "spec.json"),
        *map(str, options),
        "--output",
        str(folder / "index.html"),
    ]
    assert main(command) == 0
    return pd.read_csv(folder / "published.csv"), html.unescape((folder / "index.html").read_text())


def one(cells, **wanted):
    for key, value in wanted.items():
        cells = cells[cells[key] == value]
    (row,) = cells.to_dict("records")
    return row


SYNTHETIC = {"table": "ddi", "method": "patchalign", "regime": "synthetic"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Five published splits, beside a setting that differs more and one of another network; and what the command wrote."""
    folder = tmp_path_factory.mktemp("published")
    settings = {
        "a_first/synthetic/patchalign": about(MAIN, clean=True, selection="validation", seeds=[0, 1]),
        "five/synthetic/patchalign": about(FIVE),
        "five/real/patchalign": about(FIVE, "real", backbone="vit_tiny"),
        "five/real/baseline": about(FIVE, "real", train=None, method="baseline", backbone="resnet18"),
    }
    rows = [
        ("a_first/synthetic/patchalign", "accuracy", "all", 0.5, 0.4, 0.6),
        ("five/synthetic/patchalign", "accuracy", "all", 0.871, 0.82, 0.91),
        ("five/synthetic/patchalign", "accuracy", "dark", 0.7, 0.6, 0.8),
        ("five/synthetic/patchalign", "eom", "all", "undefined", "undefined", "undefined"),
        ("five/real/patchalign", "accuracy", "all", 0.8, 0.7, 0.9),
        ("five/real/baseline", "accuracy", "all", 0.8, 0.7, 0.9),
    ]
    return make(folder, "ddi", "--summary", fairness(folder / "fairness", settings, rows))


def test_every_published_cell_is_there_and_ours_of_the_same_setting_beside_it(made):
    cells, _ = made
    assert len(cells) == sum(f.table == "ddi" for f in figures()) == 35
    mean = one(cells, **SYNTHETIC, metric="accuracy", group="all")
    assert (mean["published"], mean["published_std"], mean["value"], mean["low"]) == (0.864, 0.010, 0.871, 0.82)
    assert mean["difference"] == pytest.approx(0.007) and mean["setting"] == "five/synthetic/patchalign"
    assert pd.isna(mean["differs"]), "the same setting: nothing is marked"
    eom = one(cells, **SYNTHETIC, metric="eom")
    assert pd.isna(eom["value"]) and pd.isna(eom["difference"]), "undefined is not imputed"
    network = one(cells, table="ddi", method="patchalign", regime="real", metric="accuracy", group="all")
    assert network["differs"] == "another network (vit_tiny)"
    assert pd.isna(one(cells, table="ddi", method="baseline", metric="accuracy", group="all")["value"]), "other data"


def test_the_page_marks_what_differs_and_where_the_published_figure_lies_outside(made):
    _, page = made
    row = page[page.index("PatchAlign, synthetic<") :].split("</tr>")[0]
    assert "86.4 ± 1.0" in row and "87.1 ± 2.1 (82.0 to 91.0)" in row and "+0.7" in row and "undefined" in row
    assert row.count('class="away"') == 1 and "-16.0" in row, "86.0 published on dark skin, 60 to 80 ours"
    assert "<sup>" not in row and "not run" in page and "five/synthetic/patchalign; 5 runs, 132 images" in row
    assert "another network (vit_tiny)" in page and all(note.split("`")[0] in page for note in TABLES["ddi"].notes)
    assert "DDI: which synthetic images help" not in page, "another table's target"


@pytest.mark.parametrize("dark", [False, True])
def test_every_word_stands_out(made, tmp_path, browser, dark):
    (tmp_path / "page.html").write_text(made[1])
    browser.resize(1200, 800, dark)
    browser.open(tmp_path / "page.html")
    assert browser.faint() == []


def test_the_least_different_setting_stands_there_and_its_differences_are_told(tmp_path):
    settings = {
        "main/synthetic/patchalign": about(MAIN, clean=True, selection="validation", seeds=[0, 1], equal_steps=True)
    }
    rows = [("main/synthetic/patchalign", "accuracy", "all", 0.5, 0.4, 0.6)]
    cells, page = make(tmp_path, None, "--summary", fairness(tmp_path / "fairness", settings, rows))
    differs = one(cells, **SYNTHETIC, metric="accuracy", group="all")["differs"].split("; ")
    assert differs == [
        "other splits (1 stratified, where published: the five published ones)",
        "epoch not chosen on the test photos",
        "generators have not seen the test photos",
        "every regime takes the same number of train steps",
        "2 trainings per split",
    ]
    assert page.count("<h2>") == 2, "tables of which this run has figures: ddi, sources"


def test_where_one_unknown_split_of_five_was_published_the_mean_of_five_goes_before_each(tmp_path):
    one_split = {"s0": FIVE["s0"]}
    settings = {"s0/synthetic/patchalign": about(one_split), "five/synthetic/patchalign": about(FIVE)}
    rows = [(name, "accuracy", "all", 0.5, 0.4, 0.6) for name in settings]
    common = list(zip(settings, (0.9, 0.8), strict=True))
    cells, _ = make(tmp_path, "rarity", "--summary", fairness(tmp_path / "fairness", settings, rows, common))
    row = one(cells, table="rarity", regime="synthetic", group="common")
    assert (row["value"], row["setting"]) == (0.8, "five/synthetic/patchalign")
    assert row["differs"] == "the mean of the five splits, one of which was published"


def test_images_are_counted_by_the_data_sets_of_donor_and_canvas(tmp_path):
    """Uneven: lesions of one set on the other's skin, pairs without room, samples of a concept that only one set has."""

    def archive(name, stage, rows, skipped=(), **spec):
        with ArchiveWriter(tmp_path / name, {"stage": stage, **spec}) as out:
            for n, row in enumerate(rows):
                out.add(f"x{n}", {"png": b"x"}, {"id": f"{name}{n}", **row})
            for image in skipped:
                out.skip(image, "no room")
        return (tmp_path / name).with_suffix(".jsonl")

    mapped = {"kind": "lesion_mapped", "concept": "wart"}
    cross = [mapped | {"cohort": "f17k", "donor_cohort": "ddi", "tone": tone} for tone in ("light", "light", "dark")]
    own = [mapped | {"cohort": "ddi", "donor_cohort": "ddi", "tone": "dark"}]
    manifests = [
        archive("cross.tar", "lesion_mapped", cross, ["d/s"], cohort="ddi", canvas_cohort="f17k"),
        archive("own.tar", "lesion_mapped", own, ["d/s", "without-lesion", "d/t"], cohort="ddi", canvas_cohort="ddi"),
        archive("full.tar", "lesion_mapped", [], ["e/s"], cohort="ddi", canvas_cohort="ddi"),
        archive(
            "healthy.tar", "canvases", [{"kind": "healthy", "concept": "healthy", "cohort": "ddi", "tone": "dark"}] * 1
        ),
        archive("s.tar", "semantic", [{"kind": "semantic", "concept": "wart", "cohort": "f17k", "tone": "dark"}] * 1),
    ]
    cells, page = make(tmp_path, "cross", "--images", *manifests, concept_cohorts={"wart": ["ddi"]})
    found = {(row.train, row.regime, row.group): row.value for row in cells[cells["metric"] == "images"].itertuples()}
    assert (found["ddi", "lesion_mapped", "all"], found["ddi", "lesion_mapped", "light"]) == (3, 2)
    assert found["ddi", "semantic", "all"] == 1 and pd.isna(found["f17k", "lesion_mapped", "all"])
    assert "13,822" in page
    cells, _ = make(tmp_path, "quality", "--images", *manifests)
    assert one(cells, metric="without room")["value"] == 0.75
    assert one(cells, metric="images", regime="healthy", group="all")["value"] == 1


def test_quality_says_what_it_was_measured_with(tmp_path):
    fid = {"light": 50, "medium": 40, "dark": 60}
    tones = {tone: {"images": 9, "fid": value, "kid": 0.01, "kid_std": 0.1} for tone, value in fid.items()}
    by_kind = {"semantic": tones, "all": tones, "real": {"dark": {"images": 3}}}
    audit = {"by_kind": by_kind, "features": "resnet18 pooled features"}
    audit["held_out"] = {"images": 12, "seen_by_generators": 0}
    (tmp_path / "quality.json").write_text(json.dumps(audit))
    cells, page = make(tmp_path, "quality", "--quality", tmp_path / "quality.json")
    row = one(cells, metric="fid", regime="semantic", group="dark")
    assert (row["published"], row["value"], row["difference"]) == (132, 60, -72)
    assert "other features" in row["differs"] and "generators have not seen" in row["differs"]
    audit |= {"features": "Inception-v3 of 2015, 299 px", "held_out": {"images": 12, "seen_by_generators": 12}}
    (tmp_path / "quality.json").write_text(json.dumps(audit))
    cells, _ = make(tmp_path, "quality", "--quality", tmp_path / "quality.json")
    assert pd.isna(one(cells, metric="fid", regime="semantic", group="dark")["differs"])
    assert one(cells, metric="fid", regime="all", group="max/min")["value"] == 1.5
    assert "132.00" in page and "60.00" in page
    tones["dark"] |= {"fid": None, "kid": -0.0001}
    (tmp_path / "quality.json").write_text(json.dumps(audit))
    cells, page = make(tmp_path, "quality", "--quality", tmp_path / "quality.json")
    semantic = page[page.index("<h3>FID</h3>") :].split("semantic")[1].split("</tr>")[0]
    assert "undefined" in semantic and "not run" not in semantic, "too few images of the tone"
    spread = [one(cells, metric=name, regime="all", group="max/min")["value"] for name in ("fid", "kid")]
    assert pd.isna(spread).all(), "of a tone without a figure, or with one below zero"
    assert ">0.000<" in page and "-0.000" not in page
    assert "not run" in page[page.index("<h3>LPIPS</h3>") :], "no network was named"


def test_a_run_on_other_data_says_that_nothing_belongs_here(tmp_path):
    settings = {"main/real/baseline": about(MAIN, "real", train=None, test=None, method="baseline")}
    rows = [("main/real/baseline", "accuracy", "all", 0.5, 0.4, 0.6)]
    cells, page = make(tmp_path, None, "--summary", fairness(tmp_path / "fairness", settings, rows))
    assert cells["value"].isna().all() and "none of its cohorts is a published data set" in page


def test_the_study_s_page_has_a_part_for_masks_malignancy_and_further_photos_and_its_figures(tmp_path):
    folder = tmp_path / "fedd"
    folder.mkdir()
    same = {"subset": "5", "tone": "all", "runs": 1, "images": 16, "published_same": True}
    iou = [{**same, "model": "fedd", "class": "mean", "iou": 0.66, "low": 0.6, "high": 0.69, "published": 0.70}]
    f1 = [
        {**same, "model": name, "metric": "f1", "tone": "dark", "value": 0.5, "low": 0.2, "high": 0.9, "published": 0.8}
        for name in ("fedd", "deepderm", "vgg16")
    ]
    lead = [{**same, "model": "fedd", "metric": "accuracy", "over_next_best": 0.11, "published": 0.14, "images": 505}]
    for name, rows in (("iou", iou), ("classification", f1), ("further", lead)):
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    (folder / "summary.json").write_text("{}")
    (folder / "roc.png").write_bytes(b"a picture")
    cells, page = make(tmp_path, "fedd", "--fedd", folder / "summary.json")
    assert len(cells) == 5 and cells["differs"].isna().all()
    masks, malignancy, ahead = page.split("<h3>")[1:]
    assert "0.66 (0.60 to 0.69)" in masks and 'class="away">-0.04<' in masks and "1 run, 16 images" in masks
    assert all(f">{name}, 5 %" in malignancy for name in ("FEDD", "DeepDerm", "vgg16")) and "F1, dark" in malignancy
    assert "505 images" in ahead and "-0.03" in ahead
    assert page.count("<figure>") == 1 and "ROC on the test photos" in page and "YSBwaWN0dXJl" in page
