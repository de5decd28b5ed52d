"""What the paper's tables need beside the study: published folders, larger tests, absent classes as zero, dermatologists."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from cgddi.core.bootstrap import Bootstrap
from cgddi.core.errors import InvalidInput, UserError
from cgddi.fedd.features.extract import noise_for
from cgddi.fedd.iou import iou_values, read_counts
from cgddi.fedd.probe import run_probe
from cgddi.fedd.settings import ProbeSettings, SubsetsSettings
from cgddi.fedd.study import iou_csv
from cgddi.fedd.subsets import published_study
from cgddi.fedd.tables import frames
from cgddi.fedd.tables.frames import Context, StudyRun, further_frame, read_runs
from cgddi.fedd.tables.plots import dermatologists_curve
from sklearn.metrics import roc_auc_score

from tests.fedd import runs as made
from tests.fedd.study import make_study
from tests.plan.test_splits import photo


def test_published_folders_that_do_not_fit_are_named(tmp_path):
    photos = [photo(n) for n in range(4)]
    with pytest.raises(InvalidInput) as caught:
        published_study(photos, SubsetsSettings(folder=str(tmp_path), train_per_tone={"5": 1}, further=True))
    assert {problem.source for problem in caught.value.problems} == {
        str(tmp_path / part) for part in ("training/5%/train", "training/5%/val", "training/5%/test", "testing")
    }
    for part in ("training/5%/train", "training/5%/val", "training/5%/test"):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "000001.npy").touch()
    with pytest.raises(InvalidInput, match="1 of 1 masks are of no photo with a mask"):
        published_study(photos, SubsetsSettings(folder=str(tmp_path), train_per_tone={"5": 1}))


def test_shared_noise_is_one_for_all_photos():
    shape = (3, 4, 4)
    assert (noise_for(1, "", 50, shape) == noise_for(1, "", 50, shape)).all()
    assert (noise_for(1, "a", 50, shape) != noise_for(1, "b", 50, shape)).any()


def test_a_class_in_neither_mask_is_undefined_or_zero(tmp_path):
    """ddpm-segmentation divides by the union + 1e-8: 0 / 1e-8."""
    rows = made.test_rows(2)
    truth, predicted = made.lesion_masks(rows, {"light": 1, "medium": 2, "dark": 4})
    (tmp_path / "test.csv").write_text(iou_csv(rows, predicted, truth))
    one = np.ones((1, len(rows)))
    left, zero = (iou_values(read_counts(tmp_path / "test.csv", {}, absent), one) for absent in ("undefined", "zero"))
    present = [left[name, "all"][0] for name in ("lesion", "skin")]
    assert left["mean", "all"][0] == pytest.approx(np.mean(present)) and np.isnan(left["marker", "all"][0])
    assert zero["mean", "all"][0] == pytest.approx(sum(present) / 5) and zero["marker", "all"][0] == 0
    nobody = iou_values(read_counts(tmp_path / "test.csv", {}, "zero"), np.zeros((1, len(rows))))
    assert np.isnan(nobody["mean", "all"][0]), "no image, no figure"


def test_a_probe_is_tested_on_further_photos_too(tmp_path):
    sizes = {"train": 4, "validation": 2, "test": 2, "further": 6}
    spec = make_study(tmp_path, 2.0, sizes) | {"timestep": 100, "seeds": [0]}
    run_probe(spec, ProbeSettings(epochs=5), [tmp_path / "features.safetensors"], tmp_path / "out", 1)
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    assert table[table["block"] == 2].groupby("role").size().to_dict() == {"further": 18, "test": 6, "validation": 6}
    (run,) = [run for run in read_runs([tmp_path / "out"]) if run.block == 2]
    assert len(run.results["further"].labels) == 18 and len(run.results["test"].labels) == 6


def test_further_photos_tell_how_far_fedd_is_ahead(tmp_path):
    """Masks: the small test's photos and the further ones together; malignancy: the further ones. By hand, in counts."""
    small, more = made.test_rows(2), [row | {"image_id": f"f{row['image_id']}"} for row in made.test_rows(4)]
    value = {}
    for model, off in (("fedd", 1), ("resnet50", 3), ("vgg16", 5)):
        folder = tmp_path / model
        network = None if model == "fedd" else model
        made.write_segmenter(folder, "5", dict.fromkeys(("light", "medium", "dark"), off), small, network=network)
        record = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps(record | {"counts": {"further": {}}}))
        truth, predicted = made.lesion_masks(more, dict.fromkeys(("light", "medium", "dark"), off + 1))
        (folder / "further.csv").write_text(iou_csv(more, predicted, truth))
        both = either = 0
        for rows, shift in ((small, off), (more, off + 1)):
            t, p = (mask == 1 for mask in made.lesion_masks(rows, dict.fromkeys(("light", "medium", "dark"), shift)))
            both, either = both + (t & p).sum(), either + (t | p).sum()
        value[model] = both / either
    context = Context("ddi", {"5": 10}, Bootstrap(50, 0.95, 0), {"ddi": "ddi"})
    groups = frames.segmenters_in_order(read_runs([tmp_path / name for name in value]), context)
    frame = further_frame(groups, {}, context)
    lesion = frame[(frame["metric"] == "IoU, lesion") & (frame["tone"] == "all")].set_index("model")
    assert lesion["value"].to_dict() == pytest.approx(value) and set(lesion["images"]) == {18}
    assert lesion.loc["fedd", "over_next_best"] == pytest.approx(value["fedd"] - value["resnet50"])
    mean = frame[(frame["metric"] == "IoU, mean") & (frame["tone"] == "all")].set_index("model")
    assert mean.loc["fedd", "published"] == 0.18 and np.isnan(mean.loc["vgg16", "over_next_best"])
    assert isinstance(groups["fedd", "plain", "5"][0], StudyRun)


def test_dermatologists_are_a_csv_of_shares(tmp_path):
    folder = made.write_probe(tmp_path / "p", "5", 100, {4: (0, 1)})
    (run,) = (run.results["test"] for run in read_runs([folder]))
    share = np.random.default_rng(0).random(len(run.labels)).round(2)
    table = pd.DataFrame({"image_id": run.images["image_id"], "probability": share}).sample(frac=1, random_state=1)
    table.to_csv(tmp_path / "d.csv", index=False)
    fpr, tpr, area = dermatologists_curve(str(tmp_path / "d.csv"), run)
    assert area == pytest.approx(roc_auc_score(run.labels, share)) and fpr[-1] == tpr[-1] == 1
    table.iloc[1:].to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(UserError, match=r"no probability in 0..1 for 1 test photo"):
        dermatologists_curve(str(tmp_path / "short.csv"), run)
    (tmp_path / "other.csv").write_text("id,p\n1,2\n")
    with pytest.raises(UserError, match="Give columns image_id and probability"):
        dermatologists_curve(str(tmp_path / "other.csv"), run)
