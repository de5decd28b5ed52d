"""The published figures: what was transcribed agrees with itself, and stands beside runs of the same setting alone."""

from __future__ import annotations

import json
from fractions import Fraction

import pandas as pd
import pytest
from cgddi.core.published import BACKBONES, SEEDS, TABLES, figures
from cgddi.stages.fairness.command import main
from cgddi.stages.fairness.predictions import gather, read_run
from cgddi.stages.fairness.published import published_for, with_splits

from tests.stages.fairness.predictions import write_run

VIT, RESNET = "vit_base_patch16_224.augreg_in21k", "resnet18"
FIVE = [f"s{seed}" for seed in SEEDS]


def published_split(seed, test=0.2, method="published"):
    return {"method": method, "seed": seed, "test": test, "validation": 0.0}


SPLITS = {name: published_split(seed) for name, seed in zip(FIVE, SEEDS, strict=True)} | {
    "stratified": published_split(4242, method="stratified"),
    "fifth": published_split(5, test=0.15),
    "small": published_split(4242, test=0.1),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """PatchAlign on all five splits and on others, baselines and FairDisCo of either network, other data: setting by name."""
    root = tmp_path_factory.mktemp("published")
    made = []

    def add(regime, split, method="patchalign", backbone=VIT, **cohorts):
        record = {"cohorts": {side: [name] for side, name in cohorts.items()}} if cohorts else {}
        made.append(
            write_run(root, regime, 0, 1.0, split, method, training={"backbone": backbone}, images=60, **record)
        )

    for split in FIVE:
        add("synthetic", split)
        add("real", split, "baseline", RESNET)
        add("real", split, "fairdisco", VIT)
    add("synthetic_real", "s52")
    add("synthetic", "s52", "baseline", RESNET)
    add("synthetic", "stratified")
    add("synthetic", "small")
    add("real", "fifth")
    add("synthetic", "fifth", train="ddi", test="f17k")
    add("synthetic", "fifth", "baseline", RESNET, train="ddi", test="f17k")
    add("synthetic_real", "fifth", train="clinic", test="f17k")
    runs = [read_run(path) for path in made]
    with_splits(runs, SPLITS)
    return {setting.name: setting for setting in gather(runs, {"five": FIVE})}


def test_figures_stand_beside_the_same_method_network_regime_splits_and_data(settings):
    def found(name, metric="accuracy", group="all"):
        figure = published_for(settings[name], metric, group, {"ddi": "ddi", "f17k": "f17k"})
        return figure and (figure.value, figure.std)

    assert found("five/synthetic/patchalign") == (0.864, 0.010)
    assert found("five/synthetic/patchalign", "eom") == (0.819, 0.028)
    assert found("five/real/baseline", group="medium") == (0.746, 0.057)
    assert found("fifth/synthetic/patchalign") == (0.744, None), "DDI to Fitzpatrick17k"
    for name, why in {
        "s52/synthetic/patchalign": "one of five splits",
        "stratified/synthetic/patchalign": "another split",
        "small/synthetic/patchalign": "another share",
        "fifth/real/patchalign": "15 % of DDI, where 20 % are published",
        "s52/synthetic/baseline": "the published row is PatchAlign's",
        "fifth/synthetic/baseline": "the published row is PatchAlign's",
        "five/real/fairdisco": "of another network",
        "fifth/synthetic_real/patchalign": "learnt from other photos",
    }.items():
        assert found(name) is None, why
    assert found("five/synthetic/patchalign", "auc") is None, "none is published"
    assert published_for(settings["five/synthetic/patchalign"], "accuracy", "all", {}) is None
    assert found("s52/synthetic_real/patchalign", group="common") == (0.915900, None), "rarity is of one split"
    assert found("five/synthetic/patchalign", group="common") is None


def test_the_tables_show_them_with_their_deviation(settings, tmp_path):
    runs = [run.path for run in settings["five/synthetic/patchalign"].runs]
    spec = {
        "stage": "fairness",
        "seed": 1,
        "splits": SPLITS,
        "settings": {"test_sets": 100, "families": {"five": FIVE}},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    main(["--spec", str(tmp_path / "spec.json"), "--predictions", *runs, "--output-dir", str(tmp_path)])
    lines = (tmp_path / "table.md").read_text().splitlines()
    ours = next(n for n, line in enumerate(lines) if line.startswith("| five: patchalign, synthetic |"))
    assert lines[ours + 1].startswith("| published: patchalign, synthetic |  | 86.4 ± 1.0 | 88.9 ± 1.5 |")
    assert any("s52: patchalign, synthetic: no published figure for this setting" in line for line in lines)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    chosen = metrics[(metrics["split"] == "five") & (metrics["metric"] == "dpm")]
    assert chosen[["published", "published_std"]].to_numpy().tolist() == [[0.82, 0.097]]
    about = json.loads((tmp_path / "summary.json").read_text())["about"]["five/synthetic/patchalign"]
    assert about["splits"]["s64"]["seed"] == 64 and (about["train"], about["test"]) == ("ddi", "ddi")


def of(**wanted):
    return [f for f in figures() if all(getattr(f, key) == value for key, value in wanted.items())]


def test_transcribed_figures_agree_with_each_other():
    """Each table's own arithmetic: PQD of one split is the ratio of its tones' accuracies; accuracies are whole photos."""
    assert len({(f.table, *f.key) for f in figures()}) == len(figures()) == 245
    counts = {"f17k": {"light": 15, "medium": 17, "dark": 11}, "ddi": {"light": 28, "medium": 45, "dark": 40}}
    for figure in of(metric="pqd"):
        row = {"table": figure.table, "train": figure.train, "test": figure.test, "regime": figure.regime}
        tones = {f.group: f.value for f in of(metric="accuracy", method=figure.method, **row)}
        mean = tones.pop("all")
        if figure.table == "ddi":  # means over splits: no ratio of means
            assert figure.std and 0.5 < figure.value < 1
            continue
        assert figure.value == pytest.approx(min(tones.values()) / max(tones.values()), abs=0.0021)
        right = {tone: round(tones[tone] * n) for tone, n in counts[figure.test].items()}
        for tone, n in counts[figure.test].items():
            assert tones[tone] == pytest.approx(right[tone] / n, abs=0.0006), (row, tone)
        whole = sum(counts[figure.test].values())
        assert mean == pytest.approx(sum(right.values()) / whole, abs=0.0011), row
    sizes = {"common": 107, "rare": 19, "very rare": 6}
    for figure in of(table="rarity"):
        exact = Fraction(round(figure.value * sizes[figure.group]), sizes[figure.group])
        assert figure.value == pytest.approx(float(exact), abs=0.00006)
    assert sum(sizes.values()) == 132
    for kind in ("healthy", "lesion_mapped"):
        for total in of(metric="images", group="all", regime=kind):
            parts = [f.value for f in of(metric="images", regime=kind, train=total.train, test=total.test)]
            assert len(parts) == 1 or sum(parts) == 2 * total.value
    for measure in ("fid", "kid", "lpips"):
        tones = [f.value for f in of(metric=measure, regime="all") if f.group != "max/min"]
        (ratio,) = of(metric=measure, group="max/min")
        assert max(tones) / min(tones) == pytest.approx(ratio.value, rel=0.02)


def test_whose_classifier_a_row_is():
    assert {f.regime for f in figures() if f.method in ("baseline", "fairdisco")} == {"real"}
    assert {f.method for f in figures() if f.metric in ("accuracy", "pqd", "dpm", "eom")} == set(BACKBONES)
    assert {f.table for f in figures()} == set(TABLES) and all(table.notes for table in TABLES.values())
