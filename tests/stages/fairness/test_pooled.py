"""Figures pooled over data sets: means, Student intervals, paired tests, undefined values, and the tables of `cgddi toy-claim`."""

from __future__ import annotations

import fcntl
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from cgddi.core.errors import UserError
from cgddi.core.metrics import run_metrics
from cgddi.stages.fairness.pooled import by_dataset, differences, interval, markdown, pooled, sign_flips
from cgddi.stages.fairness.predictions import read_run
from cgddi.stages.fairness.settings import FairnessSettings
from cgddi.toy import claim

from tests.stages.fairness.predictions import write_run

OPTIONS = FairnessSettings()
SKILLS = {"real": 0.5, "synthetic": 1.1, "synthetic_real": 1.6}


def write_results(root: Path, data_seed: int, **record) -> Path:
    """Results of one data seed as the workflow lays them out, three regimes x two classifier seeds."""
    for regime, skill in SKILLS.items():
        for seed in (0, 1):
            write_run(root / "classify", regime, 10 * data_seed + seed, skill + 0.1 * data_seed, **record)
    return root


def as_the_workflow_writes_them(root: Path) -> None:
    """The test photos' labels stand in the spec of the tables, and not in the predictions."""
    labels = {}
    for path in root.glob("**/predictions.csv"):
        table = pd.read_csv(path, dtype={"malignant": str})
        for row in table.to_dict("records"):
            known = {"concept": row["concept"], "tone": row["tone"], "malignant": row["malignant"].lower() == "true"}
            assert labels.setdefault(row["image_id"], known) == known
        table.drop(columns=["concept", "tone", "malignant"]).to_csv(path, index=False)
    (root / "fairness").mkdir()
    spec = {"labels": [{"image_id": image, **known} for image, known in labels.items()]}
    (root / "fairness/summary.json").write_text(json.dumps({"spec": spec}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("pooled")
    return {
        str(d): [read_run(p) for p in sorted(write_results(root / str(d), d).glob("**/predictions.csv"))]
        for d in range(5)
    }


def test_a_data_sets_figure_is_the_mean_over_its_classifiers(runs):
    table = by_dataset(runs, OPTIONS).set_index(["dataset", "regime", "metric", "group"])
    members = [run for run in runs["2"] if run.record["regime"] == "synthetic"]
    assert len(members) == 2
    found = [run_metrics(r.labels, r.predicted, r.probability, r.tones, np.ones((1, 120))) for r in members]
    for key in (("accuracy", "dark"), ("eom", "all"), ("auc", "all"), ("pqd", "all")):
        assert table.loc[("2", "synthetic", *key), "value"] == pytest.approx(np.mean([f[key][0] for f in found]))
    rare = [run.images["concept"].isin(["wart"]).to_numpy() for run in members]
    right = [(r.labels == r.predicted)[here].mean() for r, here in zip(members, rare, strict=True)]
    assert table.loc[("2", "synthetic", "accuracy", "rare"), "value"] == pytest.approx(np.mean(right))
    assert table.loc[("2", "synthetic", "accuracy", "rare"), "images"] == rare[0].sum()
    assert table.loc[("2", "synthetic", "accuracy", "rare"), "runs"] == 2


def test_a_figure_that_one_classifier_lacks_is_undefined_for_its_data_set(runs):
    first, second = runs["2"][:2]
    never = replace(second, predicted=np.zeros_like(second.predicted))
    table = by_dataset({"2": [first, never]}, OPTIONS).set_index(["metric", "group"])
    assert np.isnan(table.loc[("dpm", "all"), "value"]), "0/0 for the class that one of them never predicts"
    right = [(run.labels == run.predicted).mean() for run in (first, never)]
    assert table.loc[("accuracy", "all"), "value"] == pytest.approx(np.mean(right))


def test_means_and_intervals_are_scipys(runs):
    datasets = by_dataset(runs, OPTIONS)
    row = pooled(datasets, 0.95).set_index(["regime", "metric", "group"]).loc[("real", "accuracy", "light")]
    here = datasets[
        (datasets["regime"] == "real") & (datasets["metric"] == "accuracy") & (datasets["group"] == "light")
    ]
    values = here["value"].to_numpy()
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (row["value"], row["low"], row["high"]) == pytest.approx((values.mean(), low, high), abs=1e-6)
    assert (row["datasets"], row["runs"], row["images"]) == (5, 10, 5 * (runs["0"][0].tones == 0).sum())
    assert row["std_datasets"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    narrow = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.8)
    assert interval(values, 0.8) == pytest.approx(tuple(narrow))
    assert np.isnan(interval(np.array([0.5]), 0.95)).all()
    wide = datasets.assign(value=np.where(datasets["dataset"] == "0", 0.1, 0.99))
    table = pooled(wide, 0.95)
    assert (table["high"] == 1).all() and (table["value"].astype(float) < 1).all(), "no figure is above one"


def test_differences_are_paired_by_data_set(runs):
    datasets = by_dataset(runs, OPTIONS)
    tests = differences(datasets, OPTIONS.compare, 0.95).set_index(["first", "second", "metric", "group"])
    wide = datasets[(datasets["metric"] == "accuracy") & (datasets["group"] == "all")]
    wide = wide.pivot(index="dataset", columns="regime", values="value")
    row = tests.loc[("synthetic_real", "real", "accuracy", "all")]
    against = scipy.stats.ttest_rel(wide["synthetic_real"], wide["real"])
    assert float(row["p_t"]) == pytest.approx(against.pvalue, abs=1e-6)
    low, high = against.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-6)
    assert row["first_better"] == 5 and float(row["p_sign_flips"]) == pytest.approx(2 / 32)


@pytest.mark.parametrize("values", [[0.1, 0.2, -0.05, 0.3], [0.1] * 5, [0.0, 0.0, 0.0], [-0.1, 0.1, 0.2]])
def test_sign_flips_are_enumerated(values):
    values = np.asarray(values)
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(values))).reshape(len(values), -1)
    means = np.abs((signs * values[:, None]).mean(0))
    assert sign_flips(values) == pytest.approx((means >= abs(values.mean()) - 1e-12).mean())


def test_an_undefined_figure_of_one_data_set_is_never_imputed(runs):
    datasets = by_dataset(runs, OPTIONS)
    hit = (datasets["dataset"] == "3") & (datasets["metric"] == "eom") & (datasets["regime"] == "real")
    datasets.loc[hit, "value"] = float("nan")
    table = pooled(datasets, 0.95).set_index(["regime", "metric", "group"])
    assert table.loc[("real", "eom", "all"), "value"] == "undefined"
    assert table.loc[("real", "eom", "all"), "defined"] == 4
    assert table.loc[("real", "auc", "rare"), "value"] == "undefined", "rare diseases here are all benign"
    tests = differences(datasets, OPTIONS.compare, 0.95)
    eom = tests[(tests["metric"] == "eom") & (tests["second"] == "real")]
    assert set(eom["difference"]) == {"undefined"} and set(eom["p_t"]) == {"undefined"}
    text = markdown(pooled(datasets, 0.95), tests, 0.95)
    assert "undefined" in next(line for line in text.splitlines() if line.startswith("| baseline, real |"))


def test_one_command_pools_the_results_of_all_data_seeds(tmp_path, monkeypatch, capsys):
    (tmp_path / "Snakefile").write_text("")
    (tmp_path / "toy.yaml").write_text("fairness: {rarity_counts: train}\n")
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2, 3):
        root = write_results(Path("results/claim") / str(seed), seed, **({"selection": "test"} if seed == 2 else {}))
        as_the_workflow_writes_them(root)
    order = ["--configfile", "toy.yaml", "--tables-only", "--seeds"]
    assert claim.main([*order, "1", "2", "3"]) == 0
    text = capsys.readouterr().out
    assert "| baseline, synthetic_real† | 3 | 6 |" in text and "† epoch chosen on the test images" in text
    written = {path.name for path in Path("results/claim").glob("claim*")}
    assert written == {"claim.csv", "claim_by_seed.csv", "claim_paired.csv", "claim.md", "claim.png"}
    first = {name: Path("results/claim", name).read_bytes() for name in written}
    assert first["claim.png"][:4] == b"\x89PNG"
    claim.main([*order, "1", "2", "3"])
    assert first == {name: Path("results/claim", name).read_bytes() for name in written}
    table = pd.read_csv("results/claim/claim_by_seed.csv")
    assert set(table["dataset"]) == {1, 2, 3} and set(table["runs"]) == {2}
    with pytest.raises(UserError, match="data seed 4: no predictions"):
        claim.main([*order, "1", "4"])
    with pytest.raises(UserError, match="two or more different"):
        claim.main([*order, "1"])
    with open("results/claim/.lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another `cgddi toy-claim` is at work"):
            claim.main([*order, "1", "2"])


def test_each_data_seed_has_a_world_a_config_and_results_of_its_own(tmp_path, monkeypatch):
    """The command given to Snakemake plans all of one data seed's jobs (a dry-run of the real workflow)."""
    asked = []

    class Done:
        returncode = 0

    monkeypatch.setattr(claim.subprocess, "run", lambda command, **_: asked.append(command) or Done)
    monkeypatch.setattr(claim, "pool", lambda *_: (tmp_path / "out/claim.md").write_text(""))
    places = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--preset", "small"]
    assert claim.main(["--seeds", "3", "4", *places]) == 0
    sheets = [(tmp_path / "data" / seed / "images.csv").read_text() for seed in "34"]
    assert len(sheets[0].splitlines()) == len(sheets[1].splitlines()) > 28
    pictures = [(tmp_path / "data" / seed / "ddi/images/000001.png").read_bytes() for seed in "34"]
    assert pictures[0] != pictures[1]
    monkeypatch.undo()
    import subprocess

    planned = subprocess.run([*asked[0][:-2], "-n", *asked[0][-2:]], capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", planned.stdout, re.M))
    assert jobs["classify"] == str(8 * 3), "the controls too, three seeds each"
    assert str(tmp_path / "out/3/fairness/summary.json") == asked[0][-1]
    assert {path.name for path in (tmp_path / "out/3").iterdir()} == {".plan"}, "nothing was run"
