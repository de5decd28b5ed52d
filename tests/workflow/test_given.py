"""A lab trains classifiers on images that others released, end to end: files of the true kinds over a small toy world."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
import webdataset
import yaml
from cgddi.core.archive import Archive
from cgddi.core.images import encode_png, read_photo

from tests.workflow.conftest import RUN, merge, small_world
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
