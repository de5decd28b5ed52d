"""The fairness command end to end on written predictions: tables, marks, tests, bad input."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from cgddi.core.bootstrap import Bootstrap, stratified_weights
from cgddi.core.errors import InvalidInput, UserError
from cgddi.core.metrics import run_metrics
from cgddi.stages.fairness.command import main
from cgddi.stages.fairness.flip import eom_under_one_flip
from cgddi.stages.fairness.paired import compare, mcnemar
from cgddi.stages.fairness.runs import gather, read_run

from tests.stages.fairness.predictions import write_all, write_run

FILES = {"metrics.csv", "by_tone.csv", "by_rarity.csv", "by_disease.csv", "paired.csv", "table.md", "table.tex"}
FILES |= {"roc.png", "metrics.png", "calibration.png", "summary.json"}


def run(paths, out, **settings):
    spec = {"stage": "fairness", "seed": 3, "versions": {}, "settings": {"bootstrap": 200, **settings}}
    return main(["--spec", json.dumps(spec), "--predictions", *paths, "--output-dir", str(out)])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("fairness")
    run(write_all(root), root / "out")
    return root / "out"


def test_every_output_is_there_and_the_same_again(tables, tmp_path):
    assert {path.name for path in tables.iterdir()} == FILES
    run(write_all(tables.parent), tmp_path / "again")
    for name in FILES - {"summary.json"}:
        assert (tables / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (tables, tmp_path / "again"))
    assert first == second


def test_metrics_have_intervals_counts_and_published_figures(tables):
    table = pd.read_csv(tables / "metrics.csv").set_index(["regime", "metric", "group"]).sort_index()
    row = table.loc["synthetic", "accuracy", "dark"]
    assert float(row["low"]) < float(row["value"]) < float(row["high"])
    assert (row["images"], row["images_malignant"], row["runs"]) == (40, 20, 3)
    assert row["published"] == pytest.approx(0.860)
    assert table.loc["synthetic_real", "eom", "all"]["published"] == pytest.approx(0.866)
    assert pd.isna(table.loc["synthetic_real", "auc", "all"]["published"])
    assert row["wilson_low"] < float(row["value"]) < row["wilson_high"]


def test_table_sets_published_figures_beneath_ours_in_both_formats(tables):
    text = (tables / "table.md").read_text().splitlines()
    ours = next(n for n, line in enumerate(text) if line.startswith("| single: baseline, synthetic_real |"))
    assert text[ours + 1].startswith("| published: baseline, synthetic_real |") and "86.6" in text[ours + 1]
    assert any("test images all 120 (60 benign, 60 malignant)" in line for line in text)
    assert any("becomes" in line for line in text)
    rarity = next(n for n, line in enumerate(text) if line.startswith("| Accuracy by rarity")) + 2
    ours = next(n for n in range(rarity, len(text)) if text[n].startswith("| single: baseline, synthetic |"))
    assert text[ours + 1] == "| published: baseline, synthetic |  | 85.0 | 94.7 | 83.3 |" and text[ours].count("(") == 3
    latex = (tables / "table.tex").read_text()
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 2 and "94.7" in latex
    assert r"synthetic\_real" in latex and r"\bottomrule" in latex and "90.9" in latex


def test_rarity_and_disease_tables(tables):
    rarity = pd.read_csv(tables / "by_rarity.csv")
    part = rarity[(rarity["regime"] == "synthetic") & (rarity["metric"] == "accuracy") & (rarity["group"] == "all")]
    assert dict(zip(part["rarity"], part["images"], strict=True)) == {"common": 60, "rare": 30, "very rare": 30}
    assert part.set_index("rarity").loc["common", "published"] == pytest.approx(0.8505)
    auc = rarity[(rarity["metric"] == "auc") & (rarity["rarity"] == "rare")]
    assert set(auc["value"]) == {"undefined"}, "rare diseases here are all benign"
    disease = pd.read_csv(tables / "by_disease.csv")
    assert set(disease["concept"]) == {"nevus", "wart", "melanoma", "lymphoma"}
    assert (disease["low"] < disease["accuracy"]).all() and (disease["images"] == 30).all()


def test_marks_reach_every_table(tmp_path):
    paths = write_all(tmp_path / "a", seeds=(0,), selection="test")
    paths += [write_run(tmp_path / "b", "semantic", 0, 1.0, leakage={"gate": "report", "clean": False})]
    run(paths, tmp_path / "out")
    text = (tmp_path / "out/table.md").read_text()
    assert "† epoch chosen on the test images" in text and "baseline, real†" in text and "semantic‡" in text
    metrics = pd.read_csv(tmp_path / "out/metrics.csv")
    assert metrics["marks"].notna().all()
    assert r"$\dagger$" in (tmp_path / "out/table.tex").read_text()


def test_a_mark_stands_in_every_table_and_plot(tmp_path):
    """Selection on the test, a waived gate and a generator beyond its learning curve: in each csv, md, tex and summary."""
    curve = {"used": 12, "beyond": 45}
    facts = {"selection": "test", "leakage": {"gate": "report", "clean": False}, "real_images": curve}
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    run(write_all(tmp_path / "a", seeds=(0,)), plain)
    run(write_all(tmp_path / "b", seeds=(0,), **facts), marked)
    texts = ["epoch chosen on the test images", "leakage gate waived", "saw real images outside the subset"]
    for name in ("metrics.csv", "by_tone.csv", "by_rarity.csv", "by_disease.csv", "paired.csv"):
        table = pd.read_csv(marked / name)
        for text in texts:
            assert table["marks"].str.contains(text).all(), (name, text)
        if name != "paired.csv":
            assert (table["real_used"] == 12).all() and (table["real_beyond"] == 45).all(), name
        assert pd.read_csv(plain / name)["marks"].isna().all(), name
    for name in ("table.md", "summary.json"):
        assert all(text in (marked / name).read_text() for text in texts), name
        assert not any(text in (plain / name).read_text() for text in texts), name
    assert "baseline, real†‡§" in (marked / "table.md").read_text()
    assert r"real$\dagger$$\ddagger$\S{}" in (marked / "table.tex").read_text()
    for name in ("roc.png", "metrics.png", "calibration.png"):
        assert (marked / name).read_bytes() != (plain / name).read_bytes(), name


def test_published_figures_only_where_the_data_match(tmp_path):
    paths = write_all(tmp_path, seeds=(0,), cohorts={"train": ["clinic"], "test": ["ddi"]})
    run(paths, tmp_path / "out")
    assert pd.read_csv(tmp_path / "out/metrics.csv")["published"].isna().all()
    assert "no published figure for this setting" in (tmp_path / "out/table.md").read_text()


def test_cross_data_figures_are_found(tmp_path):
    paths = [write_run(tmp_path, "synthetic", 0, 1.0, cohorts={"train": ["f17k"], "test": ["ddi"]})]
    run(paths, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/metrics.csv").set_index(["metric", "group"])
    assert table.loc[("accuracy", "all"), "published"] == pytest.approx(0.743)


def test_families_average_over_splits(tmp_path):
    paths = [write_run(tmp_path, "real", seed, 1.0, split=split) for split in ("s52", "s64") for seed in (0, 1)]
    run(paths, tmp_path / "out", families={"five": ["s52", "s64"]})
    table = pd.read_csv(tmp_path / "out/metrics.csv")
    accuracy = table[(table["metric"] == "accuracy") & (table["group"] == "all")].set_index("split")
    assert accuracy.loc["five", "runs"] == 4 and accuracy.loc["five", "images"] == 240
    value = accuracy["value"].astype(float)
    assert value["five"] == pytest.approx((value["s52"] + value["s64"]) / 2, abs=1e-6)


def test_stratified_weights_keep_group_sizes_and_have_the_binomial_spread():
    rng = np.random.default_rng(0)
    tones, labels = rng.integers(0, 3, 300), rng.integers(0, 2, 300)
    weights = stratified_weights(tones, labels, 4000, 1)
    for tone in range(3):
        for label in range(2):
            here = (tones == tone) & (labels == label)
            assert (weights[:, here].sum(1) == here.sum()).all()
    right = rng.random(300) < 0.8
    spread = sum(
        here.sum() * right[here].mean() * (1 - right[here].mean())
        for tone in range(3)
        for label in range(2)
        for here in [(tones == tone) & (labels == label)]
    )
    assert (weights @ right / 300).std() == pytest.approx(np.sqrt(spread) / 300, rel=0.05)


def test_mcnemar_is_the_binomial_test_of_the_discordant():
    first = np.array([True] * 12 + [False] * 3 + [True] * 5)
    second = np.array([False] * 12 + [True] * 3 + [True] * 5)
    b, c, p = mcnemar(first, second)
    from math import comb

    assert (b, c) == (12, 3)
    assert p == pytest.approx(2 * sum(comb(15, k) for k in range(4)) / 2**15)
    assert mcnemar(first, first)[2] == 1.0


def test_paired_rows_find_a_real_difference_and_none_where_there_is_none(tmp_path):
    paths = [
        write_run(tmp_path, regime, seed, skill)
        for regime, skill in (("real", 0.2), ("synthetic", 2.5))
        for seed in (0, 1)
    ]
    settings = {setting.regime: setting for setting in gather([read_run(path) for path in paths])}
    bootstrap = Bootstrap(300, 0.95, 1)
    row = compare(settings["synthetic"], settings["real"], bootstrap, 15)[0]
    assert row["low"] > 0.2 and row["p_mcnemar"] < 1e-3 and row["runs"] == 2
    same = compare(settings["real"], settings["real"], bootstrap, 15)
    assert all(line["difference"] == 0 and line["p_bootstrap"] == 1 for line in same if line["metric"] != "dpm")


def test_one_flip_moves_eom_as_enumeration_says(tmp_path):
    one = read_run(write_run(tmp_path, "real", 0, 0.8))
    value, low, high = eom_under_one_flip(one)

    def eom(predicted):
        return run_metrics(one.labels, predicted, one.probability, one.tones, np.ones((1, 120)))["eom", "all"][0]

    moved = []
    for n in range(120):
        predicted = one.predicted.copy()
        predicted[n] = 1 - predicted[n]
        moved.append(eom(predicted))
    assert (value, low, high) == pytest.approx((eom(one.predicted), min(moved), max(moved)))


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (("probability", "nan"), "row 5, column probability"),
        (("probability", "1.2"), "not a probability"),
        (("predicted", "maybe"), "not one of false, true"),
        (("tone", "beige"), "not one of light, medium, dark"),
        (("image_id", "im000"), "image stands twice"),
        (("malignant", ""), "column malignant"),
    ],
)
def test_bad_predictions_are_named_by_row_and_column(tmp_path, cell, text):
    path = write_run(tmp_path, "real", 0, 1.0)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[3, cell[0]] = cell[1]
    table.to_csv(path, index=False)
    with pytest.raises(InvalidInput, match=text):
        read_run(path)


def test_missing_record_column_and_disagreeing_runs(tmp_path):
    path = write_run(tmp_path, "real", 0, 1.0)
    other = write_run(tmp_path, "real", 1, 1.0)
    table = pd.read_csv(other, dtype=str, keep_default_na=False)
    table.iloc[:-1].to_csv(other, index=False)
    with pytest.raises(UserError, match="differ in test images"):
        gather([read_run(path), read_run(other)])
    with pytest.raises(UserError, match="seed of this setting stands twice"):
        gather([read_run(path), read_run(path)])
    table.drop(columns="tone").to_csv(other, index=False)
    with pytest.raises(InvalidInput, match="no column tone"):
        read_run(other)
    (tmp_path / "single/real/baseline/0/record.json").unlink()
    with pytest.raises(UserError, match="Run classify again"):
        read_run(path)
