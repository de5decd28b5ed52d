"""The ladder: rungs by the images they really learnt from, figures of the same table as all others."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from cgddi.stages.fairness.command import main
from sklearn.metrics import accuracy_score

from tests.stages.fairness.predictions import write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Real photos, five and (short of a hundred) thirty images for each of 57; two seeds of the second."""
    root = tmp_path_factory.mktemp("ladder")
    counts = {
        "real": {"real/dark/benign": 30, "real/light/malignant": 27},
        "synthetic_x5": {"semantic/dark/benign": 185, "lesion_mapped/light/malignant": 100},
        "synthetic_x100": {"healthy/dark/benign": 710, "semantic/light/malignant": 1000},
    }
    runs = [("synthetic_x100", 0, 2.0), ("real", 0, 0.5), ("synthetic_x5", 0, 1.0), ("synthetic_x5", 1, 1.2)]
    paths = [
        write_run(root, name, seed, skill, images=60, counts={"train": counts[name]}) for name, seed, skill in runs
    ]
    (root / "spec.json").write_text(
        json.dumps({"stage": "fairness", "job": "ladder", "seed": 1, "settings": {"test_sets": 100}})
    )
    main(["--spec", str(root / "spec.json"), "--predictions", *paths, "--output-dir", str(root / "out")])
    return root, pd.read_csv(root / "out/ladder.csv")


def test_rungs_stand_in_the_order_of_what_they_learnt_from(made):
    root, table = made
    mean = table[(table["metric"] == "accuracy") & (table["group"] == "all")]
    assert mean["regime"].tolist() == ["real", "synthetic_x5", "synthetic_x100"]
    assert mean["synthetic_per_real"].tolist() == pytest.approx([0, 5, 30]) and mean["synthetic_images"].tolist() == [
        0,
        285,
        1710,
    ]
    by_hand = []
    for seed in (0, 1):
        rows = pd.read_csv(root / f"single/synthetic_x5/baseline/{seed}/predictions.csv")
        by_hand.append(accuracy_score(rows["malignant"], rows["predicted"]))
    assert float(mean["value"].iloc[1]) == pytest.approx(sum(by_hand) / 2, abs=1e-6)
    assert set(table["metric"]) == {"accuracy", "auc", "pqd", "eom"}


def test_the_curve_and_the_table_are_written(made):
    root, _ = made
    text = (root / "out/table.md").read_text().splitlines()
    assert [line.split(" | ")[:3] for line in text[4:7]] == [
        ["| single: baseline, real", "0", "0"],
        ["| single: baseline, synthetic_x5", "5", "285"],
        ["| single: baseline, synthetic_x100", "30", "1710"],
    ]
    assert (root / "out/ladder.png").stat().st_size > 10_000
    assert json.loads((root / "out/summary.json").read_text())["runs"] == 4
