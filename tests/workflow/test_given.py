"""A lab trains classifiers on images that others released, end to end: files of the true kinds over a small toy world."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import webdataset
import yaml
from cgddi.core.archive import Archive
from cgddi.core.images import encode_png, read_photo
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from tests.workflow.conftest import RUN, SMALL, merge, small_world
from tests.workflow.in_process import run
from tests.workflow.paper_scale import cgddi, snakemake

pytestmark = pytest.mark.slow

TRAINING = {"images_per_epoch": 96, "finetune_epochs": 1, "training": {"epochs": 2, "batch_size": 16}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The toy world, ingested; a release by names of files; and shards that do not say what their generator saw."""
    folder = small_world(tmp_path_factory.mktemp("lab") / "work")
    with open(folder / "data/toy/images.csv", newline="") as handle:
        photos = [row for row in csv.DictReader(handle) if row["cohort"] == "toy"]
    rng, release = np.random.default_rng(0), folder / "release"
    (folder / "shards").mkdir()
    release.mkdir()

    def shown(row):
        pixels = np.asarray(read_photo(folder / row["file"])[0]).astype(int)
        return encode_png((pixels + rng.integers(-60, 60, pixels.shape)).clip(0, 255).astype(np.uint8))

    with webdataset.TarWriter(str(folder / "shards/shard-inpaint-00000.tar")) as tar:
        for number, donor in enumerate(photos):
            for canvas in rng.choice(photos, 3, replace=False):  # of every tone
                (release / f"{canvas['image_id']}__{donor['image_id']}.png").write_bytes(shown(donor))
            cells = {"label": donor["disease"], "method": "finetune-inpaint", "submethod": "inpaint"}
            cells |= {"md5hash": donor["image_id"], "name": f"{number}.png"}
            tar.write({"__key__": f"{number:05d}", "png": shown(donor), "json": json.dumps(cells).encode()})
        diseases = {row["image_id"]: row["disease"] for row in photos}
    with open(folder / "table.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["file", "dx", "onto", "of"])
        for path in sorted(release.iterdir()):
            canvas, donor = path.stem.split("__")
            writer.writerow([f"release/{path.name}", diseases[donor], canvas, donor])
    names = {"disease": "dx", "canvas": "onto", "donor": "of"}
    rules = [{"set": {"kind": "lesion_mapped"}}]
    (folder / "map.yaml").write_text(yaml.safe_dump({"columns": names, "rules": rules, "tone_of": "canvas"}))
    return folder


def test_from_files_to_a_fairness_table(lab):
    sheets = ("--sheet", "data/toy/images.csv", "--diseases", "config/toy/diseases.csv")
    cgddi(
        lab, "ingest", "synthetic", "--from", "table.csv", "--map", "map.yaml", *sheets, "--output", "data/mapped.tar"
    )
    cgddi(lab, "ingest", "synthetic", "--from", "shards", "--map", "synderm", *sheets, "--output", "data/synderm.tar")
    config = yaml.safe_load((lab / "config.yaml").read_text())
    given = {
        "mapped": {"archive": "data/mapped.tar"},
        "synderm": {"archive": "data/synderm.tar", "unknown_lineage": "waive"},
    }
    runs = {"methods": ["fairdisco"], "regimes": ["mapped_real", "synderm"]}
    config = merge(config | {"synthetic": given}, {"runs": runs, "classify": TRAINING})
    (lab / "config.yaml").write_text(yaml.safe_dump(config))
    cgddi(lab, "check", "--configfile", "config.yaml")
    snakemake(lab, *RUN)
    results = lab / "results/toy"
    assert not (results / "healthy").exists() and not (results / "lora").exists()
    index = pd.read_parquet(results / "index/main.parquet")
    roles = dict(zip(index["image_id"], index["role"], strict=True))
    told = {row["id"]: row for name in given for row in Archive(lab / f"data/{name}.tar").rows}
    clean = {
        i
        for i, row in told.items()
        if all(roles.get(row[w], "train") == "train" for w in ("donor", "canvas") if row[w])
    }
    assert set(index["id"][~index["source"].isin(["real"])]) == clean and 0 < len(clean) < len(told)
    metrics = pd.read_csv(results / "fairness/metrics.csv", keep_default_na=False)
    marked = metrics["caveats"].str.contains("lineage waived")
    assert set(metrics["regime"][marked]) == {"synderm"} and set(metrics["regime"]) == {"synderm", "mapped_real"}
    assert "¶ lineage waived" in (results / "fairness/table.md").read_text()
    assert json.loads((results / "audit/main/leakage.json").read_text())["waived"]["synderm"] > 0
    assert (results / "report/index.html").stat().st_size > 10_000
    assert "Nothing to be done" in snakemake(lab, *RUN, "-n").stdout


def adapters(lab):
    """One chance adapter of the toy's denoiser in three programs' files: a folder with a doubled prefix and a token, kohya's one
    file, and peft's folder."""
    unet = UNet2DConditionModel.from_pretrained(lab / "config/toy/model", subfolder="unet")
    wrapped = get_peft_model(unet, LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"]))
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) / 8
    wrapped.save_pretrained(lab / "adapters/peft")
    doubled, kohya = {}, {}
    for name, value in get_peft_model_state_dict(wrapped).items():
        layer, way = name.removeprefix("base_model.model.").split(".lora_")
        side = {"A": "down", "B": "up"}[way[0]]
        doubled[f"unet.unet.{layer}.lora.{side}.weight"] = value * (2 if side == "up" else 1)  # alpha = r there
        kohya[f"lora_unet_{layer.replace('.', '_')}.lora_{side}.weight"] = value.clone()
        kohya[f"lora_unet_{layer.replace('.', '_')}.alpha"] = torch.tensor(4.0)
    (lab / "adapters/doubled").mkdir()
    save_file(doubled, lab / "adapters/doubled/pytorch_lora_weights.safetensors")
    width = json.loads((lab / "config/toy/model/text_encoder/config.json").read_text())["hidden_size"]
    save_file({"<anything>": torch.randn(1, width)}, lab / "adapters/doubled/learned_embeds.safetensors")
    save_file(kohya, lab / "adapters/kohya.safetensors")
    plain = {"embedding": None, "words": "dark lesion"}
    return {
        "button-naevule": {"source": "adapters/doubled", "learnt_from": ["split:main"]},
        "inkblot-naevoma": {**plain, "source": "adapters/kohya.safetensors", "learnt_from": []},
        "rosequilt-dermia": {**plain, "source": "adapters/peft", "weights": "adapter_model.safetensors"},
    }


def test_adapters_of_three_programs_a_folder_and_parquet_reach_the_table(lab, monkeypatch):
    """Nothing is trained but the classifier; what is not known of the third adapter leaves its samples out."""
    monkeypatch.chdir(lab)
    with open("data/toy/images.csv", newline="") as handle:
        photos = [row for row in csv.DictReader(handle) if row["cohort"] == "toy"]
    with open("config/toy/diseases.csv", newline="") as handle:
        slugs = {row["raw"]: row["slug"] for row in csv.DictReader(handle)}
    table = pd.read_csv("table.csv", dtype=str)
    table["image"] = [{"bytes": (lab / name).read_bytes(), "path": name} for name in table.pop("file")]
    table.to_parquet("table.parquet")
    canvases = {row["skin_tone"]: row for row in photos}  # one of each tone
    for donor in photos[:12]:  # as the authors' notebook names them
        for canvas in canvases.values():
            name = f"{canvas['image_id']}_with_{slugs[donor['disease']]}_from_12_{donor['image_id']}.png"
            Path("authors", "mapped", name).parent.mkdir(parents=True, exist_ok=True)
            Path("authors", "mapped", name).write_bytes(Path(donor["file"]).read_bytes())
    sheets = ("--sheet", "data/toy/images.csv", "--diseases", "config/toy/diseases.csv")
    for source, name, more in (("table.parquet", "map.yaml", ()), ("authors", "cgddi", ("--learnt-from", "*=none"))):
        cgddi(
            lab,
            "ingest",
            "synthetic",
            "--from",
            source,
            "--map",
            name,
            *more,
            *sheets,
            "--output",
            f"data/{source[:5]}.tar",
        )
    config = merge(yaml.safe_load(Path("config/toy/config.yaml").read_text()), SMALL)
    given = {name: {"archive": f"data/{name}.tar"} for name in ("table", "autho")}
    runs = {"methods": ["baseline"], "regimes": ["semantic", "table", "autho"], "seeds": [0]}
    config |= {"results": "results/adapters", "synthetic": given, "adapters": adapters(lab)}
    config = merge(config, {"runs": runs, "classify": TRAINING, "healthy": {"method": "heal"}})
    Path("adapters.yaml").write_text(yaml.safe_dump(config))
    cgddi(lab, "check", "--configfile", "adapters.yaml")
    ran = run("adapters.yaml", target="fairness")
    assert ran["semantic"] == 3 and ran["classify"] == 3 and ran["embedding"] == ran["lora"] == 0
    drawn = {path.stem: Archive(path).rows for path in Path("results/adapters/semantic").rglob("*.tar")}
    assert {row["unknown"][0] for row in drawn["rosequilt-dermia"]} == {"generator"}
    index = pd.read_parquet("results/adapters/index/main.parquet")
    assert set(index.loc[index["source"] == "semantic", "concept"]) == {"button-naevule", "inkblot-naevoma"}
    assert {"table", "autho"} <= set(index["source"])
    metrics = pd.read_csv("results/adapters/fairness/metrics.csv")
    assert set(metrics["regime"]) == {"semantic", "table", "autho"}
