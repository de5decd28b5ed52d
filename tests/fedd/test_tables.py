"""The study's tables: figures recounted by hand, blocks chosen without the test, empty groups undefined, bytes repeated."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from cgddi.cli import main
from cgddi.core.archive import file_sha256
from cgddi.core.bootstrap import Bootstrap
from cgddi.core.errors import UserError
from cgddi.fedd.tables.frames import Context, ablation_frame, read_runs
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import f1_score, roc_auc_score

from tests.fedd import runs as made
from tests.fedd.specs import spec_file


def tabulate(out, folders, features=(), **keys):
    arguments = ["--spec", spec_file(made.spec(**keys), out), "--runs", *map(str, folders)]
    if features:
        arguments += ["--features", *map(str, features)]
    return main(["fedd", "tables", *arguments, "--output-dir", str(out), "--threads", "1"])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    folders, features = made.write_study_runs(root)
    assert tabulate(root / "tables", folders, [features]) == 0
    return root, folders, features


def read(study, name):
    return pd.read_csv(study[0] / f"tables/{name}.csv", dtype={"subset": str, "variant": str}).fillna({"variant": ""})


def untold(folder, root, beside):
    """A copy of a run's folder as of a network that was not told what its test photos show."""
    copy = beside / folder.relative_to(root)
    shutil.copytree(folder, copy)
    for path in copy.glob("*.csv"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        tested = table["role"] != "validation" if "role" in table else slice(None)
        table.loc[tested, "malignant"] = ""
        table.to_csv(path, index=False, lineterminator="\n")
    return copy


def test_every_table_and_picture_is_written_and_repeats_byte_for_byte(study, tmp_path):
    """Also where the networks were not told the labels of the photos they are tested on: the tables are."""
    root, folders, features = study
    facts = json.loads((root / "tables/summary.json").read_text())
    names = "ablation classification gap iou learning masks kmeans paired roc table"
    assert {name.split(".")[0] for name in facts["files"]} == set(names.split())
    assert {path.name for path in (root / "tables").iterdir()} == {*facts["files"], "summary.json"}
    (root / "again").mkdir()
    (root / "again/old.csv").write_text("from a run with other settings")
    blind = [untold(folder, root, tmp_path) / "record.json" for folder in reversed(folders)]
    labels = [{name: row[name] for name in ("image_id", "malignant")} for row in made.test_rows()]
    assert tabulate(root / "again", blind, [features], labels=labels) == 0
    for name in facts["files"]:
        assert (root / "again" / name).read_bytes() == (root / "tables" / name).read_bytes(), name
    assert not (root / "again/old.csv").exists()
    for name in ("learning", "gap", "masks", "kmeans", "ablation", "roc", "classification"):
        with Image.open(root / f"tables/{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5, name


def test_iou_is_what_a_recount_of_the_masks_gives(study):
    table = read(study, "iou")
    shift = {"light": 1, "medium": 2, "dark": 4}
    truth, predicted = made.lesion_masks(made.test_rows(), shift)
    mine = table[(table["model"] == "fedd") & (table["variant"] == "plain") & (table["subset"] == "20")]
    rows = mine[mine["class"] == "lesion"].set_index("tone")
    for k, tone in enumerate(("light", "medium", "dark")):
        part = slice(4 * k, 4 * k + 4)
        both, either = (truth[part] == 1) & (predicted[part] == 1), (truth[part] == 1) | (predicted[part] == 1)
        assert float(rows.loc[tone, "iou"]) == pytest.approx(both.sum() / either.sum(), abs=1e-6)
        assert rows.loc[tone, "images"] == 4 and rows.loc[tone, "truth"] == 400
        assert float(rows.loc[tone, "low"]) < float(rows.loc[tone, "iou"]) < float(rows.loc[tone, "high"])
    absent = mine[mine["class"] == "marker"]
    assert (absent["iou"] == "undefined").all() and (absent["low"] == "undefined").all()
    assert (mine[(mine["class"] == "mean")]["classes"] == 2).all()


def test_the_tone_gap_and_what_reweighting_takes_off_it(study):
    gap = read(study, "gap").set_index(["model", "variant", "subset"])
    plain, even = gap.loc["fedd", "plain", "20"], gap.loc["fedd", "reweight", "20"]
    assert plain["gap"] == pytest.approx(plain["light"] - plain["dark"], abs=1e-6)
    assert 0.2 < plain["low"] < plain["gap"] < plain["high"] and even["low"] <= 0 <= even["high"]
    assert plain["published"] == pytest.approx(0.18) and np.isnan(even["published"])
    paired = read(study, "paired").set_index(["subset", "second", "metric", "tone"])
    row = paired.loc["20", "fedd reweight", "gap", "light-dark"]
    assert row["difference"] == pytest.approx(even["gap"] - plain["gap"], abs=1e-6) and float(row["high"]) < 0
    assert ("20", "resnet50", "lesion", "all") in paired.index


def test_the_block_is_chosen_on_validation_at_the_segmenters_timestep(study):
    table = read(study, "ablation")
    chosen = table[table["chosen"]]
    assert list(chosen["subset"]) == ["5", "20"]
    assert set(chosen["block"]) == {4} and set(chosen["timestep"]) == {100}
    at_main = table[(table["timestep"] == 100) & (table["subset"] == "5")].set_index("block")
    assert at_main.loc[6, "test"] > at_main.loc[4, "test"]  # choosing on the test would have given 6
    assert at_main.loc[4, "validation"] == pytest.approx(11 / 12, abs=1e-6)
    facts = json.loads((study[0] / "tables/summary.json").read_text())
    assert facts["chosen_blocks"]["5"] == {"block": 4, "timestep": 100, "validation_accuracy": 0.916667}


def test_of_blocks_as_good_as_each_other_the_deeper_is_chosen(tmp_path):
    """By accuracy on validation, then by AUC; on the test the shallow one is the better."""
    folder = made.write_probe(tmp_path, "5", 100, {8: (1, 0), 4: (1, 3), 6: (1, 0), 2: (2, 0)})
    frame = ablation_frame(read_runs([folder]), Context("ddi", {"5": 10}, Bootstrap(20, 0.95, 0), {}), 100)
    assert list(frame["block"][frame["chosen"]]) == [4] and frame["validation_auc"].iloc[1:].nunique() == 1


def test_auc_and_f1_agree_with_scikit_learn(study):
    table = read(study, "classification").set_index(["model", "subset", "metric", "tone"])
    runs = {run.model: run for run in read_runs(study[1]) if not run.segments and run.subset == "20"}
    for name, threshold in (("resnet50", 0.5), ("deepderm", 0.687)):
        test = runs[name].results["test"]
        auc = roc_auc_score(test.labels, test.probability[:, 1])
        assert float(table.loc[(name, "20", "auc", "all"), "value"]) == pytest.approx(auc, abs=1e-6)
        assert table.loc[(name, "20", "auc", "all"), "threshold"] == threshold
        for tone in ("light", "dark"):
            part = (test.images["tone"] == tone).to_numpy()
            expected = f1_score(test.labels[part], test.probability[part, 1] > threshold)
            assert float(table.loc[(name, "20", "f1", tone), "value"]) == pytest.approx(expected, abs=1e-6)
    row = table.loc["fedd", "20", "auc", "all"]
    assert row["block"] == 4 and row["images"] == 12 and row["malignant"] == 6 and row["published"] == 0.91


def test_a_share_of_few_photos_has_an_exact_interval(study):
    """One run: within Clopper and Pearson's and wider than nothing, also where all photos are right."""
    table = read(study, "classification").set_index(["model", "subset", "metric", "tone"])
    test = next(
        run for run in read_runs(study[1]) if run.model == "resnet50" and run.subset == "20" and not run.segments
    ).results["test"]
    for tone in ("all", "light", "medium", "dark"):
        part = np.ones(len(test.labels), bool) if tone == "all" else (test.images["tone"] == tone).to_numpy()
        right = int((test.predicted == test.labels)[part].sum())
        exact = binomtest(right, int(part.sum())).proportion_ci(method="exact")
        row = table.loc["resnet50", "20", "accuracy", tone]
        assert exact.low - 1e-6 <= float(row["low"]) <= float(row["value"]) <= float(row["high"]) <= exact.high + 1e-6
        assert float(row["high"]) - float(row["low"]) > 0.8 * (exact.high - exact.low)


def test_published_figures_of_other_data_are_marked(study, tmp_path):
    ours = {"model": "fedd", "variant": "plain", "subset": "20", "per_tone": 40, "tone": "all"}
    ddi, clinic = (Context(cohort, {}, Bootstrap(10, 0.95, 0), {"ddi": "ddi"}) for cohort in ("ddi", "clinic"))
    same = ddi.published("iou", ours, "lesion")
    assert same == {"published": 0.63, "published_data": "ddi", "published_same": True}
    assert ddi.published("iou", ours | {"per_tone": 13}, "lesion")["published_same"] is False
    assert clinic.published("iou", ours, "lesion")["published_same"] is False
    assert ddi.published("iou", ours | {"variant": "reweight"}, "lesion")["published"] is None
    assert "‡" not in (study[0] / "tables/table.md").read_text()
    assert tabulate(tmp_path, study[1][:1] + study[1][7:8], cohort="clinic") == 0
    text = (tmp_path / "table.md").read_text()
    assert "(published 0.51‡)" in text and "not comparable" in text
    assert r"$\ddagger$" in (tmp_path / "table.tex").read_text()
    assert not pd.read_csv(tmp_path / "gap.csv")["published_same"].dropna().any()


def test_tables_read_as_tables(study):
    text = (study[0] / "tables/table.md").read_text()
    assert re.search(r"\| FEDD plain \| 20 \| 1 \| 0\.\d\d \[0\.\d\d, 0\.\d\d\] \(published 0\.78\)", text)
    assert "Test images: light 4 (400 lesion px)" in text and "DeepDerm: malignant from a probability of 0.687." in text
    tex = (study[0] / "tables/table.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 3
    for line in tex.splitlines():
        if line.endswith(r" \\"):
            assert len(re.split(r"(?<!\\)&", line)) in (5, 9)


def test_a_tone_without_malignant_images_is_undefined_with_its_counts(tmp_path):
    rows = made.test_rows(malignant={"dark": 0})
    folders = [made.write_probe(tmp_path / "p", "5", 100, {4: (0, 0)}, rows)]
    folders += [made.write_classifier(tmp_path / "c", "5", "resnet50", 2, rows=rows)]
    assert tabulate(tmp_path / "out", folders) == 0
    table = pd.read_csv(tmp_path / "out/classification.csv").set_index(["model", "metric", "tone"])
    dark = table.loc["fedd", "auc", "dark"]
    assert dark["value"] == "undefined" and dark["images"] == 4 and dark["malignant"] == 0
    assert table.loc[("fedd", "auc", "all"), "value"] == "1.0"
    assert "undefined" in (tmp_path / "out/table.md").read_text()
    assert not (tmp_path / "out/iou.csv").exists() and (tmp_path / "out/roc.png").exists()


def test_seeds_are_averaged(tmp_path):
    shifts = ({"light": 0, "medium": 0, "dark": 0}, {"light": 4, "medium": 4, "dark": 4})
    folders = [made.write_segmenter(tmp_path / str(k), "5", shift, seed=k) for k, shift in enumerate(shifts)]
    alone = []
    for k in (0, 1, None):
        assert tabulate(tmp_path / f"out{k}", folders if k is None else folders[k : k + 1]) == 0
        table = pd.read_csv(tmp_path / f"out{k}/iou.csv").set_index(["class", "tone"]).loc[("lesion", "all")]
        alone.append(float(table["iou"]))
    assert table["runs"] == 2 and alone[2] == pytest.approx((alone[0] + alone[1]) / 2, abs=1e-6)


def test_what_is_no_run_is_refused(tmp_path, study):
    with pytest.raises(UserError, match="record.json: cannot be read"):
        read_runs([tmp_path])
    (tmp_path / "record.json").write_text('{"split": "main"}')
    with pytest.raises(UserError, match="is the record of no segmenter, probe or baseline"):
        read_runs([tmp_path])
    folder = made.write_probe(tmp_path / "p", "5", 100, {4: (0, 0)})
    record = json.loads((folder / "record.json").read_text())
    record["outputs"] = {"predictions.csv": {"sha256": file_sha256(folder / "predictions.csv")}}
    (folder / "record.json").write_text(json.dumps(record))
    assert len(read_runs([folder])) == 1
    (folder / "predictions.csv").write_text((folder / "predictions.csv").read_text().replace("0.", "1.", 1))
    with pytest.raises(UserError, match="its record names another"):
        read_runs([folder])
    other = made.write_segmenter(tmp_path / "s", "5", dict.fromkeys(("light", "medium", "dark"), 1), made.test_rows(2))
    assert tabulate(tmp_path / "out", [study[1][0], other]) == 2
