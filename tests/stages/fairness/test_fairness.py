"""The fairness command end to end on written predictions: tables, intervals, chance, caveats."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from cgddi.core.intervals import blaker
from cgddi.core.metrics import run_metrics
from cgddi.stages.fairness.command import main
from cgddi.stages.fairness.predictions import read_run
from cgddi.stages.fairness.tables import eom_under_one_flip, rarity_of
from sklearn import metrics as sklearn

from tests.stages.fairness.predictions import CURVE, write_all, write_run

TABLES = ("metrics.csv", "by_tone.csv", "by_rarity.csv", "by_disease.csv", "paired.csv")
PLOTS = ("roc.png", "metrics.png", "calibration.png")
CAVEATS = ("epoch chosen on the test images", "leakage gate waived", "saw real images outside the subset")
SEED, TEST_SETS, CONFIDENCE = 3, 100, 0.9


def run(paths, out, **settings):
    settings = {"test_sets": TEST_SETS, "confidence": CONFIDENCE, **settings}
    spec = out.with_suffix(".spec.json")
    spec.write_text(json.dumps({"stage": "fairness", "seed": SEED, "versions": {}, "settings": settings}))
    return main(["--spec", str(spec), "--predictions", *paths, "--output-dir", str(out)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three regimes of one split, two splits of a family, one with every caveat, some trained elsewhere; and the tables of all."""
    root = tmp_path_factory.mktemp("fairness")
    paths = write_all(root)
    paths += [write_run(root, "real", seed, 1.0, "s52", images=120) for seed in (0, 1)]
    paths += [write_run(root, "real", seed, 1.0, "s64", images=90) for seed in (0, 1, 2)]
    paths += write_all(root, (0,), split="doubtful", **CURVE)
    paths += [write_run(root, "real", 0, 1.0, "clinic", cohorts={"train": ["clinic"], "test": ["ddi"]})]
    paths += [write_run(root, "synthetic", 0, 1.0, "cross", cohorts={"train": ["f17k"], "test": ["ddi"]})]
    paths += [write_run(root, "synthetic", 0, 1.0, "mix", cohorts={"train": ["ddi", "f17k"], "test": ["f17k"]})]
    paths += [write_run(root, "synthetic", 0, 1.0, "classes", task="disease", classes=["benign", "malignant"])]
    run(paths, root / "out", families={"five": ["s52", "s64"]})
    return root


@pytest.fixture(scope="module")
def tables(root):
    return {name.removesuffix(".csv"): pd.read_csv(root / "out" / name) for name in TABLES}


def one(table, **wanted):
    for key, value in wanted.items():
        table = table[table[key] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def members(root, split, regime):
    return [pd.read_csv(path) for path in sorted((root / split / regime).glob("baseline/*/predictions.csv"))]


FIGURES = {
    ("accuracy", "dark"): lambda f: (f["malignant"] == f["predicted"])[f["tone"] == "dark"].mean(),
    ("auc", "all"): lambda f: sklearn.roc_auc_score(f["malignant"], f["probability"]),
    ("sensitivity", "all"): lambda f: sklearn.recall_score(f["malignant"], f["predicted"]),
}


@pytest.mark.parametrize(("metric", "group"), FIGURES)
def test_values_are_means_over_runs_and_lie_in_their_intervals(root, tables, metric, group):
    row = one(tables["metrics"], split="single", regime="synthetic", metric=metric, group=group)
    frames = members(root, "single", "synthetic")
    values = [FIGURES[metric, group](frame) for frame in frames]
    assert float(row["value"]) == pytest.approx(np.mean(values), abs=1e-6)
    assert row["std_runs"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert float(row["low"]) < float(row["value"]) < float(row["high"]) and row["undefined_runs"] == 0
    images = frames[0][frames[0]["tone"] == "dark"]
    row = one(tables["metrics"], split="single", regime="synthetic", metric="sensitivity", group="dark")
    assert (row["images"], row["images_malignant"]) == (len(images), images["malignant"].sum()) and row["runs"] == 3


def test_one_run_has_exact_intervals_of_its_tones(root, tables):
    frame = members(root, "doubtful", "synthetic")[0]
    for tone, label, metric in (("dark", True, "sensitivity"), ("medium", False, "specificity")):
        here = frame[(frame["tone"] == tone) & (frame["malignant"] == label)]
        right = int((here["predicted"] == label).sum())
        row = one(tables["metrics"], split="doubtful", regime="synthetic", metric=metric, group=tone)
        assert (float(row["low"]), float(row["high"])) == pytest.approx(blaker(right, len(here), CONFIDENCE), abs=1e-6)
    row = one(tables["metrics"], split="doubtful", regime="synthetic", metric="ece", group="all")
    assert pd.isna(row["low"]) and float(row["value"]) > 0, "a calibration error has no interval"


def test_figures_that_compare_tones_stand_beside_what_chance_gives(root, tables):
    metrics = tables["metrics"]
    compared = {"worst_tone_accuracy", "pqd", "dpm", "eom", "equalized_odds_difference", "equal_opportunity_difference"}
    assert set(metrics[metrics["chance"].notna()]["metric"]) == compared
    rows = metrics[metrics["metric"].isin(compared) & (metrics["value"] != "undefined")]
    values = rows[["low", "value", "high"]].astype(float)
    assert (values["low"] <= values["value"]).all() and (values["value"] <= values["high"]).all()
    assert (rows["chance_low"] < rows["chance"]).all() and (rows["chance"] < rows["chance_high"]).all()
    eom = one(metrics, split="single", regime="synthetic_real", metric="eom", group="all")
    assert float(eom["high"]) == 1 and 0.5 < eom["chance_low"] < 1
    text = (root / "out/table.md").read_text()
    shown = f"{100 * eom['chance']:.1f} ({100 * eom['chance_low']:.1f}-{100 * eom['chance_high']:.1f})"
    ours = text.index("| single: baseline, synthetic_real |")
    assert shown in text[ours:].splitlines()[1] and "| by chance, were tones equal |" in text
    assert f"where equal tones give {shown}: no more than chance" in text
    assert shown in (root / "out/table.tex").read_text()


def test_every_output_is_there_and_the_same_again(root):
    assert {path.name for path in (root / "out").iterdir()} == {
        *TABLES,
        *PLOTS,
        "table.md",
        "table.tex",
        "summary.json",
    }
    paths = write_all(root, seeds=(0,))
    for name in ("a", "b"):
        run(paths, root / name)
    for path in (root / "a").iterdir():
        assert path.read_bytes() == (root / "b" / path.name).read_bytes(), path.name


def test_table_in_both_formats(root):
    text = (root / "out/table.md").read_text().splitlines()
    assert "90% interval over test photos" in text[0] and "photos and runs both drawn" in text[0]
    counts = members(root, "single", "real")[0].groupby("tone")["malignant"].agg(["size", "sum"])
    size, malignant = counts.loc["dark"]
    assert any(f"dark {size} ({size - malignant} benign, {malignant} malignant)" in line for line in text)
    assert any("becomes" in line for line in text)
    rarity = next(n for n, line in enumerate(text) if line.startswith("| Accuracy by rarity")) + 2
    ours = next(n for n in range(rarity, len(text)) if text[n].startswith("| single: baseline, synthetic |"))
    assert text[ours].count("(") == 3
    latex = (root / "out/table.tex").read_text()
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 2
    assert r"synthetic\_real" in latex and r"\bottomrule" in latex


@pytest.mark.parametrize(
    ("count", "rarity"), [(0, "very rare"), (2, "very rare"), (3, "rare"), (10, "rare"), (11, "common")]
)
def test_rarity_as_the_thesis_draws_its_borders(count, rarity):
    assert rarity_of(count) == rarity


def test_rarity_and_disease_tables(root, tables):
    rarity = tables["by_rarity"]
    frames = members(root, "single", "synthetic")
    wart = {"split": "single", "regime": "synthetic", "rarity": "rare"}
    row = one(rarity, metric="accuracy", group="medium", **wart)
    here = [f[(f["concept"] == "wart") & (f["tone"] == "medium")] for f in frames]
    assert float(row["value"]) == pytest.approx(
        np.mean([(f["malignant"] == f["predicted"]).mean() for f in here]), abs=1e-6
    )
    assert row["images"] == len(here[0])
    assert one(rarity, metric="auc", group="all", **wart)["value"] == "undefined", "rare diseases here are all benign"
    disease = tables["by_disease"]
    for concept in ("nevus", "wart", "melanoma", "lymphoma"):
        here = [f[f["concept"] == concept] for f in frames]
        right, images = np.mean([(f["malignant"] == f["predicted"]).sum() for f in here]), len(here[0])
        row = one(disease, split="single", regime="synthetic", concept=concept)
        assert (row["images"], row["accuracy"]) == (images, pytest.approx(right / images, abs=1e-6))
        assert row["low"] <= row["accuracy"] <= row["high"] and row["high"] - row["low"] > 0.02
    alone = one(disease, split="doubtful", regime="synthetic", concept="wart")
    right = members(root, "doubtful", "synthetic")[0]
    right = right[right["concept"] == "wart"]
    exact = blaker(int((~right["predicted"]).sum()), len(right), CONFIDENCE)
    assert (alone["low"], alone["high"]) == pytest.approx(exact, abs=1e-6)
    family = one(disease, split="five", concept="nevus")
    parts = [members(root, split, "real")[0] for split in ("s52", "s64")]
    assert family["images"] == sum((part["concept"] == "nevus").sum() for part in parts) and family["splits"] == 2


def test_rarity_counts_the_training_images_where_asked(tmp_path):
    sizes = {"all": dict.fromkeys(("nevus", "wart", "melanoma", "lymphoma"), 50), "train": {"nevus": 50, "wart": 2}}
    paths = write_all(tmp_path, (0,), concept_images=sizes)
    found, images = {}, {}
    for counted in ("all", "train"):
        run(paths, tmp_path / counted, rarity_counts=counted)
        table = pd.read_csv(tmp_path / counted / "by_disease.csv")
        found[counted] = dict(zip(table["concept"], table["rarity"], strict=True))
        rarity = pd.read_csv(tmp_path / counted / "by_rarity.csv")
        rarity = rarity[(rarity["metric"] == "accuracy") & (rarity["group"] == "all") & (rarity["regime"] == "real")]
        images[counted] = dict(zip(rarity["rarity"], rarity["images"], strict=True))
    nevi = int((pd.read_csv(paths[0])["concept"] == "nevus").sum())
    assert images == {
        "all": {"common": 120, "rare": 0, "very rare": 0},
        "train": {"common": nevi, "rare": 0, "very rare": 120 - nevi},
    }
    assert set(found["all"].values()) == {"common"}
    assert found["train"] == {"nevus": "common", "wart": "very rare", "melanoma": "very rare", "lymphoma": "very rare"}


def test_the_table_by_tone_holds_the_figures_of_each_tone(tables):
    for tone in ("light", "dark"):
        row = one(tables["by_tone"], split="single", regime="synthetic", tone=tone)
        for metric in ("accuracy", "auc", "sensitivity"):
            figure = one(tables["metrics"], split="single", regime="synthetic", metric=metric, group=tone)
            for name, column in (("value", metric), ("low", f"{metric}_low"), ("high", f"{metric}_high")):
                assert float(row[column]) == float(figure[name])
        assert row["images"] == figure["images"] and row["images_malignant"] == figure["images_malignant"]


def test_families_average_over_the_runs_of_their_splits(root, tables):
    row = one(tables["metrics"], split="five", metric="accuracy", group="all")
    frames = [*members(root, "s52", "real"), *members(root, "s64", "real")]
    assert row["runs"] == 5 and row["images"] == 120 + 90, "seeds are not counted as images"
    assert float(row["value"]) == pytest.approx(
        np.mean([(f["malignant"] == f["predicted"]).mean() for f in frames]), abs=1e-6
    )


def test_a_caveat_stands_in_every_table_and_plot(root, tables, tmp_path):
    """Selection on the test, a waived gate and a generator beyond its learning curve: in each csv, md, tex and summary."""
    for name, table in tables.items():
        doubtful = table[table["split"] == "doubtful"]
        for text in CAVEATS:
            assert doubtful["caveats"].str.contains(text).all(), (name, text)
        assert table[table["split"] == "single"]["caveats"].isna().all(), name
        if name != "paired":
            assert (doubtful["real_used"] == 12).all() and (doubtful["real_beyond"] == 45).all(), name
    for name in ("table.md", "summary.json"):
        assert all(text in (root / "out" / name).read_text() for text in CAVEATS), name
    assert "doubtful: baseline, real†‡§ |" in (root / "out/table.md").read_text()
    assert "single: baseline, real |" in (root / "out/table.md").read_text()
    assert r"real$\dagger$$\ddagger$\S{}" in (root / "out/table.tex").read_text()
    run([write_run(tmp_path / "a", "real", 0, 1.0)], tmp_path / "plain")
    run([write_run(tmp_path / "b", "real", 0, 1.0, **CURVE)], tmp_path / "doubtful")
    for name in PLOTS:
        assert (tmp_path / "plain" / name).read_bytes() != (tmp_path / "doubtful" / name).read_bytes(), name


def test_one_flip_moves_eom_as_enumeration_says(tmp_path):
    one = read_run(write_run(tmp_path, "real", 0, 0.8))
    value, low, high = eom_under_one_flip(one)

    def eom(predicted):
        weights = np.ones((1, len(predicted)))
        return run_metrics(one.labels, predicted, one.probability, one.tones, weights)["eom", "all"][0]

    moved = []
    for n in range(len(one.labels)):
        predicted = one.predicted.copy()
        predicted[n] = 1 - predicted[n]
        moved.append(eom(predicted))
    assert (value, low, high) == pytest.approx((eom(one.predicted), min(moved), max(moved)))
