"""The paper's overlays from photos to the page "published against ours", on small stand-ins of both data sets."""

import csv
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from cgddi.core.archive import Archive
from cgddi.core.images import BACKGROUND, LESION, SKIN
from cgddi.core.published import SEEDS
from cgddi.stages.masks.sam3 import Sam3Predictor
from cgddi.stages.masks.stage import PredictedMask
from cgddi.toy.world import Preset, training_items, write_set
from torchvision.models import Inception3

from tests.stages.masks.sam3 import write_sam3
from tests.workflow.in_process import run
from tests.workflow.paper_scale import ROOT

pytestmark = pytest.mark.slow

PAPER = ROOT / "config/paper"
TINY = {
    "models": {name: {"source": str(ROOT / "config/toy/model")} for name in ("base", "inpainting")},
    "sample_min_images": 4,
    "masks": {"size": 64, "sam3": {"precision": "fp32"}},
    "healthy": {"steps": 2, "guidance": 2.5, "precision": "fp32", "dilation": 5, "blur_sigma": 1.0},
    "canvases": {"triage": dict.fromkeys(("lesion_contrast", "stain", "ita_change", "border_step", "seam"), 1000)},
    "lesion_mapped": {"image_size": 64, "padding": 2, "dilate": 1, "blur": 0.7},
    "embedding": {"precision": "fp32", "init_token": "lesion", "steps": 2, "batch": 2, "accumulation": 1},
    "lora": {"precision": "fp32", "steps": 2, "instances": 2, "priors_per_step": 1, "image_size": 64, "grid_steps": 2},
    "semantic": {"precision": "fp32", "sampler": "ddim", "steps": 2, "image_size": 64, "repeats": 1, "batch": 24},
    "audit": {"features": {"weights": "pixels"}, "inception": None, "lpips": None},
    "classify": {
        "image_size": 32,
        "resize": 32,
        "min_concept_images": 4,
        "finetune_epochs": 1,
        "finetune_learning_rate": 1e-3,
        "training": {"backbone": "test_resnet", "weights": "random", "epochs": 2, "batch_size": 64},
        "methods": {"patchalign": {"backbone": "test_vit", "frozen_tensors": 4}},
        "label_texts": {"text_encoder": str(ROOT / "config/toy/model")},
    },
    "fairness": {"test_sets": 200},
}
TINY["embedding"] |= {"image_size": 64, "grid_every": 0, "validate_every": 100, "scale_lr": False}
TINY["lora"] |= {"grid_every": 0, "validate_every": 100, "grid_columns": 1, "rank": 2, "alpha": 2}
TINY["canvases"]["triage"] |= {"texture": [0, 1000], "grain": 1000, "lesion_left": 1, "artefacts": 1, "bitten": 1}
"""Small pictures, few steps, networks of a few layers, and a triage that keeps all; nothing of what the overlays are about."""
DDI = {
    "button-naevule": (10, 9, 9),
    "emberplaque-carcova": (7, 7, 6),
    "rosequilt-dermia": (2, 2, 2),
    "bluecoin-naevule": (0, 1, 0),
}
F17K = {"button-naevule": (8, 8, 7), "greyveil-melovoma": (7, 7, 6)}


FEDD = {
    "images": "config/images-fedd.csv",
    "models": {"fedd": {"source": str(ROOT / "config/toy/model")}},
    "fedd": {
        "features": {"size": 64, "blocks": [2, 4], "ablation_timesteps": [0, 1000], "showcase": 1},
        "subsets": {"train_per_tone": {"20": 40}},
        "segmenter": {"ensemble": 2, "steps": 200, "check_every": 50},
        "probe": {"epochs": 20},
        "baselines": {
            "segmentation": ["efficientnet-b0"],
            "classification": ["densenet121", "vgg16", "resnet50", "efficientnet_b0", "mobilenetv2_100", "deepderm"],
            "weights": "random",
            "weight_files": {"classification/deepderm": "models/deepderm.pth"},
            "epochs": 1,
        },
        "tables": {"bootstrap": 20, "dermatologists": "data/dermatologists.csv"},
    },
}
"""The FEDD study in little: one of the four subsets, three timesteps, all seven networks, one U-Net of five."""


def by_colour(predictor, photos):
    """In SAM 3's place, whose random weights find nothing: what is far from the usual colour is a lesion, if that is asked for."""
    looked_for = {name for name, *_ in predictor._prompts}
    found = []
    for photo in photos:
        pixels = np.asarray(photo.resize((predictor.settings.size,) * 2)).astype(int)
        far = np.abs(pixels - np.median(pixels, axis=(0, 1))).sum(2) > 70
        mask = np.where(far, LESION if "lesion" in looked_for else BACKGROUND, SKIN).astype(np.uint8)
        found.append(PredictedMask(mask))
    return found


def sheet(cohort, counts, masked):
    """Photos of one data set, `masked` of each disease with a mask."""
    write_set(Path("data"), cohort, training_items(Preset(counts, 1)), 7)
    with open(f"data/{cohort}/ddi_metadata.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    made, left = [], dict.fromkeys(counts, masked)
    for row in rows:
        stem, disease = row["DDI_file"].removesuffix(".png"), row["disease"]
        mask = f"data/{cohort}/masks/{stem}.npy"
        left[disease] -= (has := left[disease] > 0 and Path(mask).is_file())
        cells = {"image_id": f"{cohort}{stem}", "file": f"data/{cohort}/images/{stem}.png", "cohort": cohort}
        cells |= {"disease": disease, "skin_tone": row["skin_tone"], "malignant": row["malignant"]}
        made.append(cells | {"mask": mask if has else ""})
    return made


def published_folders(rows):
    """FEDD's `ddi_labels` of the masked photos, as balanced as theirs: two of each tone and malignancy to train on, one to validate
    and one to test; testing/ holds the test photos and half of what is left."""
    cells = defaultdict(list)
    for row in rows:
        if row["mask"]:
            cells[row["skin_tone"], row["malignant"]].append(row["image_id"])
    test, held, one, other = ([images.pop() for images in cells.values()] for _ in range(4))
    parts = {"testing/test_all": test + [image for images in cells.values() for image in images[::2]]}
    parts |= {f"training/20%/{part}": ids for part, ids in (("train", one + other), ("val", held), ("test", test))}
    for place, images in parts.items():
        folder = Path("data/ddi_labels", place)
        folder.mkdir(parents=True)
        for image in images:
            (folder / f"{image}.npy").touch()
    return parts


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A working directory with both sheets, a tiny SAM 3, and the settings of the shrunken runs."""
    folder = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Sam3Predictor, "_batch", by_colour)
        (folder / "config").mkdir()
        ddi, f17k = sheet("ddi", DDI, 3), sheet("f17k", F17K, 0)
        masked = sheet("ddi", DDI, 99)
        for name, rows in (("", ddi), ("-f17k", f17k), ("-both", ddi + f17k), ("-fedd", masked)):
            with open(f"config/images{name}.csv", "w", newline="") as handle:
                writer = csv.DictWriter(handle, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        diseases = (ROOT / "config/toy/diseases.csv").read_text()
        for name in ("diseases", "diseases-both"):
            (folder / f"config/{name}.csv").write_text(diseases)
        sam3 = {"models": {"sam3": {"source": str(write_sam3(folder / "sam3"))}}}
        values = TINY | {"diseases": "config/diseases.csv", "models": TINY["models"] | sam3["models"]}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
        (folder / "fedd.yaml").write_text(yaml.safe_dump(FEDD))
        yield SimpleNamespace(folder=folder, ddi=ddi, f17k=f17k, masked=masked, labels=published_folders(masked))


def table(name, *more):
    ran = run(str(PAPER / "base.yaml"), str(PAPER / f"{name}.yaml"), "tiny.yaml", *more)
    results = {"f17k": "f17k", "cross": "f17k"}.get(name, "ddi")
    folder = f"results/{results}-paper/tables/{name}/published"
    return ran, pd.read_csv(f"{folder}/published.csv"), open(f"{folder}/index.html").read()


def test_ddi_on_five_splits(world):
    ran, cells, page = table("ddi")
    assert ran["classify"] == 25 and ran["split"] == 5 and ran["lora"] == 3
    ours = cells[cells["value"].notna()]
    assert set(ours["setting"]) == {f"five/{r}/patchalign" for r in ("real", "synthetic", "synthetic_real")} | {
        "five/real/baseline",
        "five/real/fairdisco",
    }
    row = cells[(cells["method"] == "patchalign") & (cells["regime"] == "synthetic") & (cells["metric"] == "accuracy")]
    row = row[row["group"] == "all"].iloc[0]
    assert row["runs"] == 5 and row["differs"] == "another network (test_vit)", "all else is as published"
    values = []
    for seed in SEEDS:
        frame = pd.read_csv(f"results/ddi-paper/classify/s{seed}/synthetic/patchalign/0/predictions.csv")
        values.append(frame)
    assert all(len(frame) == 11 for frame in values), "a fifth of 55 photos"
    assert "86.4" in page and "PatchAlign" in page


def test_sources_and_rarity_share_what_ddi_made(world):
    ran, cells, _ = table("sources")
    assert ran["lesion_mapped"] == ran["lora"] == ran["semantic"] == 0, "made for ddi"
    assert ran["classify"] == 10, "healthy_mapped and semantic; the other rows are there"
    assert {"healthy_mapped", "semantic", "synthetic"} <= set(cells[cells["value"].notna()]["regime"])
    ran, cells, page = table("rarity")
    assert ran == {"fairness": 1, "published": 1}
    rarity = cells[cells["value"].notna()]
    assert set(rarity["group"]) <= {"common", "rare", "very rare"} and len(rarity) >= 2
    assert "one split, whose seed was not told" in page


def test_quality_measures_the_same_images_and_counts_them(world):
    ran, cells, _ = table("quality")
    assert ran["semantic"] == ran["lesion_mapped"] == ran["classify"] == 0 and ran["audit"] == 1
    ours = cells[cells["value"].notna()]
    assert {"fid", "kid", "images"} <= set(ours["metric"]) and "lpips" not in set(ours["metric"]), (
        "no network was named"
    )
    assert all("other features" in row.differs for row in ours.itertuples() if row.metric in ("fid", "kid"))
    drawn = [row for path in Path("results/ddi-paper/semantic").rglob("*.tar") for row in Archive(path).rows]
    of_all = ours[(ours["metric"] == "images") & (ours["group"] == "all")].set_index("regime")["value"]
    assert of_all["semantic"] == len(drawn)


def test_fedd_on_the_published_folders(world):
    test = world.labels["training/20%/test"]
    with open("data/dermatologists.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([("image_id", "probability"), *((name, k / 6) for k, name in enumerate(test))])
    torch.manual_seed(0)
    Path("models").mkdir(exist_ok=True)
    torch.save(Inception3(num_classes=2, aux_logits=True, init_weights=False).state_dict(), "models/deepderm.pth")
    ran, cells, page = table("fedd", "fedd.yaml")
    assert ran["classify"] == ran["lora"] == 0 and ran["fedd_features"] == ran["fedd_probe"] == 3
    assert ran["fedd_segmenter"] == ran["fedd_baseline"] == 1 and ran["fedd_classifier"] == 6
    tables = Path("results/ddi-paper/fedd/tables")
    malignancy, iou, further = (pd.read_csv(tables / f"{name}.csv") for name in ("classification", "iou", "further"))
    seven = {"fedd", "deepderm", "densenet121", "vgg16", "resnet50", "efficientnet_b0", "mobilenetv2_100"}
    f1 = malignancy[(malignancy["metric"] == "f1") & malignancy["tone"].isin(("light", "dark"))]
    assert set(f1["model"]) == seven and len(f1) == 7 * 2 and f1["published"].notna().all()
    assert set(iou["model"]) == {"fedd", "efficientnet-b0"} and (iou["images"] <= len(test)).all()
    left = len(world.masked) - 24
    assert set(further.loc[further["metric"].eq("accuracy") & further["tone"].eq("all"), "images"]) == {left}
    masks = further.loc[further["metric"].eq("IoU, mean") & further["tone"].eq("all"), "images"]
    assert set(masks) == {len(world.labels["testing/test_all"])}, "the small test's are among them"
    assert (tables / "roc.png").stat().st_size > 10_000
    assert page.count("<figure>") == 4 and page.count("<h3>") == 3 and "DeepDerm, 20 %" in page
    ours = cells[cells["value"].notna()]
    assert set(ours["method"]) == seven | {"efficientnet-b0"} and set(ours["regime"]) == {"20 %"}
    assert set(ours["differs"]) == {"other data or subsets"}, "4 photos a tone, where 40 were published"


def test_cross_maps_the_lesions_of_one_set_onto_the_other_and_counts_them(world):
    ran = table("f17k")[0]
    assert ran["skin"] == 1 and ran["classify"] == 3 and ran["split"] == 1
    skin = Archive("results/f17k-paper/skin/f17k.tar")
    pool = Archive("results/f17k-paper/canvases/f17k.tar")
    assert {row["key"] for row in skin.rows} | {s["id"] for s in skin.record["skipped"]} == {
        r["key"] for r in pool.rows
    }
    ran, cells, page = table("cross")
    assert ran["skin"] == 0, "made for f17k; the masks of ddi are a person's"
    # Four settings more, and f17k's own again: the disease that both sets have learns from both.
    assert ran["classify"] == 15 and ran["index"] == 5 and ran["embedding"] == 3
    counts = cells[(cells["metric"] == "images") & cells["value"].notna()]
    assert {("ddi", "f17k"), ("f17k", "ddi")} <= set(zip(counts["train"], counts["test"], strict=True))
    for row in counts[(counts["regime"] == "lesion_mapped") & (counts["group"] == "all")].itertuples():
        made = [
            image
            for path in Path(f"results/f17k-paper/lesion_mapped/{row.test}/{row.train}").glob("*.tar")
            for image in Archive(path).rows
        ]
        assert row.value == len(made)
    tested = set(cells[cells["value"].notna() & (cells["metric"] == "accuracy")]["test"])
    assert tested == {"ddi", "f17k"} and "13,822" in page
