"""The fairness command end to end on written predictions: tables, caveats, tests, bad input."""

from __future__ import annotations

import json
from itertools import product
from math import comb

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from cgddi.core.bootstrap import Bootstrap
from cgddi.core.errors import InvalidInput, UserError
from cgddi.core.metrics import run_metrics
from cgddi.core.seeds import seed_for
from cgddi.stages.fairness.command import main
from cgddi.stages.fairness.predictions import gather, read_run
from cgddi.stages.fairness.tables import compare, eom_under_one_flip, holm, mcnemar, rarity_of
from sklearn import metrics as sklearn

from tests.stages.fairness.predictions import CURVE, write_all, write_run

TABLES = ("metrics.csv", "by_tone.csv", "by_rarity.csv", "by_disease.csv", "paired.csv")
PLOTS = ("roc.png", "metrics.png", "calibration.png")
CAVEATS = ("epoch chosen on the test images", "leakage gate waived", "saw real images outside the subset")
SEED, REPLICATES, CONFIDENCE = 3, 200, 0.9


def run(paths, out, **settings):
    settings = {"bootstrap": REPLICATES, "confidence": CONFIDENCE, **settings}
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


def resampled(frames, split, figure):
    """Value and interval of a figure in loops: images are drawn with replacement within tone and class, and runs too."""
    first = frames[0].sort_values("image_id", ignore_index=True)
    rng = np.random.default_rng(seed_for(SEED, "bootstrap", split))
    drawn = np.zeros((REPLICATES, len(first)), int)
    for tone, label in product(("light", "medium", "dark"), (False, True)):
        here = np.flatnonzero((first["tone"] == tone) & (first["malignant"] == label))
        if len(here):
            drawn[:, here] = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), size=REPLICATES)
    choice = np.random.default_rng(seed_for(SEED, "bootstrap runs", split, len(frames)))
    choice = choice.integers(0, len(frames), (REPLICATES, len(frames)))
    frames = [frame.sort_values("image_id", ignore_index=True) for frame in frames]
    values = [
        np.mean([figure(frames[r].loc[np.repeat(np.arange(len(first)), counts)]) for r in runs])
        for counts, runs in zip(drawn, choice, strict=True)
    ]
    tail = 100 * (1 - CONFIDENCE) / 2
    return np.mean([figure(frame) for frame in frames]), *np.percentile(values, [tail, 100 - tail])


FIGURES = {
    ("accuracy", "dark"): lambda f: (f["malignant"] == f["predicted"])[f["tone"] == "dark"].mean(),
    ("auc", "all"): lambda f: sklearn.roc_auc_score(f["malignant"], f["probability"]),
    ("sensitivity", "all"): lambda f: sklearn.recall_score(f["malignant"], f["predicted"]),
}


@pytest.mark.parametrize(("metric", "group"), FIGURES)
def test_values_and_intervals_are_those_of_a_plain_resampling(root, tables, metric, group):
    row = one(tables["metrics"], split="single", regime="synthetic", metric=metric, group=group)
    expected = resampled(members(root, "single", "synthetic"), "single", FIGURES[metric, group])
    assert tuple(float(row[name]) for name in ("value", "low", "high")) == pytest.approx(expected, abs=1e-6)
    assert row["undefined_replicates"] == 0 and row["undefined_runs"] == 0


def test_spread_over_runs_counts_and_wilson_intervals(root, tables):
    frames = members(root, "single", "synthetic")
    images = frames[0][frames[0]["tone"] == "dark"]
    for metric, denominator in (("accuracy", len(images)), ("sensitivity", int(images["malignant"].sum()))):
        row = one(tables["metrics"], split="single", regime="synthetic", metric=metric, group="dark")
        assert row["images"] == len(images) and row["runs"] == 3
        assert (row["images_malignant"], row["images_benign"]) == (
            images["malignant"].sum(),
            (~images["malignant"]).sum(),
        )
        share = float(row["value"])
        interval = scipy.stats.binomtest(round(share * denominator), denominator).proportion_ci(CONFIDENCE, "wilson")
        assert (row["wilson_low"], row["wilson_high"]) == pytest.approx(tuple(interval), abs=1e-6)
    by_run = [FIGURES["accuracy", "dark"](frame) for frame in frames]
    row = one(tables["metrics"], split="single", regime="synthetic", metric="accuracy", group="dark")
    assert row["std_runs"] == pytest.approx(np.std(by_run, ddof=1), abs=1e-6)
    benign = one(tables["metrics"], split="single", regime="synthetic", metric="specificity", group="all")
    count = int((~frames[0]["malignant"]).sum())
    interval = scipy.stats.binomtest(round(float(benign["value"]) * count), count).proportion_ci(CONFIDENCE, "wilson")
    assert (benign["wilson_low"], benign["wilson_high"]) == pytest.approx(tuple(interval), abs=1e-6)
    assert pd.isna(one(tables["metrics"], split="single", regime="synthetic", metric="auc", group="all")["wilson_low"])


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
    assert "90% interval over test images and runs" in text[0]
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
        interval = scipy.stats.binomtest(round(right), images).proportion_ci(CONFIDENCE, "wilson")
        assert (row["low"], row["high"]) == pytest.approx(tuple(interval), abs=1e-6)
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


def test_mcnemar_is_the_binomial_test_of_the_discordant():
    first = np.array([True] * 12 + [False] * 3 + [True] * 5)
    second = np.array([False] * 12 + [True] * 3 + [True] * 5)
    b, c, p = mcnemar(first, second)
    assert (b, c) == (12, 3)
    assert p == pytest.approx(2 * sum(comb(15, k) for k in range(4)) / 2**15)
    assert mcnemar(first, first)[2] == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_holm_is_the_least_level_at_which_the_steps_reject(seed):
    """Uneven p-values with ties and gaps: at level a, Holm rejects from the least p on while p <= a / (hypotheses left)."""
    rng = np.random.default_rng(seed)
    p = pd.Series(rng.choice([0.001, 0.004, 0.004, 0.011, 0.02, 0.02, 0.2, 0.7, np.nan], 9), index=rng.permutation(9))
    ordered = sorted(p.dropna().items(), key=lambda item: item[1])

    def rejected(level):
        found = set()
        for left, (name, value) in zip(range(len(ordered), 0, -1), ordered, strict=True):
            if value > level / left * (1 + 1e-9):
                break
            found.add(name)
        return found

    levels = sorted({value * k for _, value in ordered for k in range(1, 10)})
    expected = {name: min([a for a in levels if name in rejected(a)] + [1.0]) for name, _ in ordered}
    assert holm(p).to_dict() == pytest.approx(expected)


def test_paired_tests_of_the_command_are_adjusted_over_all_comparisons(root, tables):
    paired = tables["paired"]
    tested = paired[paired["p_mcnemar"].notna()]
    assert set(zip(tested["metric"], tested["group"], strict=True)) == {("accuracy", "all")}
    assert len(tested) == 6, "three comparisons in each of two splits"
    expected = holm(tested["p_mcnemar"])
    assert tested["p_mcnemar_holm"].to_dict() == pytest.approx(expected.to_dict())
    row = one(tested, split="single", first="synthetic_real", second="real")
    left, right = (
        sum(frame["probability"] for frame in members(root, "single", regime)) / 3 > 0.5
        for regime in ("synthetic_real", "real")
    )
    truth = members(root, "single", "real")[0]["malignant"]
    b, c = ((left == truth) & (right != truth)).sum(), ((left != truth) & (right == truth)).sum()
    assert (row["mcnemar_only_first"], row["mcnemar_only_second"]) == (b, c), "one vote per image: the mean over seeds"
    assert row["p_mcnemar"] == pytest.approx(scipy.stats.binomtest(b, b + c).pvalue)


def test_differences_are_of_the_same_images_and_the_same_runs(tmp_path):
    paths = [write_run(tmp_path, "real", seed, 0.6) for seed in (0, 1, 7)]
    paths += [write_run(tmp_path, "synthetic", seed, 1.1) for seed in (1, 0, 5)]
    settings = {setting.regime: setting for setting in gather([read_run(path) for path in paths])}
    bootstrap = Bootstrap(REPLICATES, CONFIDENCE, SEED)
    rows = {(row["metric"], row["group"]): row for row in compare(settings["synthetic"], settings["real"], bootstrap)}
    frames = {name: [f.sort_values("image_id") for f in members(tmp_path, "single", name)[:2]] for name in settings}
    for key in (("auc", "all"), ("sensitivity", "all"), ("accuracy", "dark")):
        synthetic, real = (np.mean([FIGURES[key](frame) for frame in frames[name]]) for name in ("synthetic", "real"))
        assert rows[key]["difference"] == pytest.approx(synthetic - real) and rows[key]["runs"] == 2
    weights = bootstrap.weights(settings["real"].runs[0])
    choice = np.random.default_rng(seed_for(SEED, "bootstrap runs", "single", 2)).integers(0, 2, (REPLICATES, 2))
    drawn = {}
    for name, pair in frames.items():
        accuracy = np.stack([weights @ (f["malignant"] == f["predicted"]) / len(f) for f in pair])
        drawn[name] = accuracy[choice, np.arange(REPLICATES)[:, None]].mean(1)
    differences = drawn["synthetic"] - drawn["real"]
    row = rows["accuracy", "all"]
    tail = (1 - CONFIDENCE) / 2
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(differences, [tail, 1 - tail])))
    sides = ((differences <= 0).sum(), (differences >= 0).sum())
    assert row["p_bootstrap"] == pytest.approx(min(1, 2 * (min(sides) + 1) / (REPLICATES + 1)))
    assert compare(settings["real"], gather([read_run(write_run(tmp_path, "other", 9, 1.0))])[0], bootstrap) == []


def test_paired_rows_find_a_real_difference_and_none_where_there_is_none(tmp_path):
    skills = {"real": 0.2, "synthetic": 2.5}
    paths = [write_run(tmp_path, regime, seed, skill) for regime, skill in skills.items() for seed in (0, 1)]
    settings = {setting.regime: setting for setting in gather([read_run(path) for path in paths])}
    bootstrap = Bootstrap(300, 0.95, 1)
    row = compare(settings["synthetic"], settings["real"], bootstrap)[0]
    assert row["low"] > 0.2 and row["p_mcnemar"] < 1e-3 and row["p_bootstrap"] == pytest.approx(2 / 301)
    same = compare(settings["real"], settings["real"], bootstrap)
    assert all(line["difference"] == 0 and line["p_bootstrap"] == 1 for line in same if line["metric"] != "dpm")


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
    chosen = write_run(tmp_path, "real", 2, 1.0, selection="test")
    with pytest.raises(UserError, match="chose their epochs differently"):
        gather([read_run(path), read_run(chosen)])
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
