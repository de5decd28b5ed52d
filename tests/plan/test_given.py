"""Given images and adapters in the plan: which jobs there are, what their specs hold, and mistakes told with the config's line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from cgddi.core.archive import ArchiveWriter
from cgddi.core.errors import InvalidInput
from cgddi.job.spec import read_spec
from cgddi.plan.config import load_config
from cgddi.plan.jobs import Plan
from cgddi.plan.models import locked, named_models
from safetensors.torch import save_file

from tests.plan import walk
from tests.watch.world import planned_by_snakemake, set_config, sheet, write_sheet


def give_images(name="released", **row) -> str:
    """An archive of given images, of one image."""
    path = f"data/{name}.tar"
    with ArchiveWriter(path, {"stage": "ingest"}) as archive:
        facts = {"kind": "semantic", "concept": "nevus", "tone": "dark", "malignant": None, "unknown": []}
        archive.add("x", {"png": b"x"}, {"id": f"given/{name}/x", **facts, **row})
    return path


def give_adapter(folder="ready", value=1.0) -> str:
    Path(folder).mkdir(exist_ok=True)
    for name in ("pytorch_lora_weights", "learned_embeds"):
        save_file({"x": torch.full((1,), value)}, f"{folder}/{name}.safetensors")
    return folder


def plan(**config) -> Plan:
    set_config(**config)
    return Plan(load_config("config.yaml"))


def of(rule, found):
    return {key[1:]: job for key, job in found.items() if key[0] == rule}


def test_images_alone_need_no_generator_and_no_healthy_skin(world):
    images = {"released": {"archive": give_images()}}
    made = plan(synthetic=images, runs={"regimes": ["real", "released_real"]})
    counts = walk.counts(made)
    assert set(counts) == {"masks", "split", "index", "leakage", "audit", "classify", "fairness", "published", "report"}
    assert counts["classify"] == 3, "real, released, and released then real"
    spec = made.job("index", split="main").spec
    assert (
        list(spec["given"]) == ["released"] and spec["given"]["released"].startswith("sha256:") and "waived" not in spec
    )
    assert [part for part in named_models(made.config) if part.kind == "pipeline"] == []


def test_another_archive_makes_the_index_again_and_nothing_else_changes_it(world):
    images = {"released": {"archive": give_images()}}
    before = plan(synthetic=images, runs={"regimes": ["released"]}).job("index", split="main").spec
    shutil.move("data", "elsewhere")
    for path in Path("elsewhere").iterdir():
        os.utime(path, (1e9, 1e9))
    moved = plan(synthetic={"released": {"archive": "elsewhere/released.tar"}}, runs={"regimes": ["released"]})
    assert moved.job("index", split="main").spec == before
    give_images(tone="light")
    assert plan(synthetic=images, runs={"regimes": ["released"]}).job("index", split="main").spec != before
    set_config(synthetic=images)
    assert planned_by_snakemake() == {"report": 1}, (
        "a set that no regime learns from concerns only the page of what was run"
    )


def test_a_job_finds_the_archive_where_it_lies(world):
    set_config(synthetic={"released": {"archive": give_images()}}, runs={"regimes": ["released"]})
    made = Plan(load_config("config.yaml"), main=True)
    path = made.inputs("index", split="main")["spec"]
    made.begin(real=True)
    assert read_spec(path)["given"] == {"released": "data/released.jsonl"}


def test_a_waiver_stands_in_the_specs_of_index_and_gate(world):
    images = {"released": {"archive": give_images(), "unknown_lineage": "waive"}}
    ready = {"nevus": {"source": give_adapter(), "unknown_lineage": "waive"}, "acne": {"source": "ready"}}
    made = plan(synthetic=images, adapters=ready, runs={"regimes": ["synthetic", "released"]})
    for rule in ("index", "leakage"):
        assert made.job(rule, split="main").spec["waived"] == ["adapters.nevus", "released"]
    assert "waived" not in made.job("audit", split="main", kind="tone").spec
    made = plan(synthetic=images, adapters=ready, runs={"regimes": ["released"]})
    assert made.job("index", split="main").spec["waived"] == ["released"], "no sample is learnt from"


def test_a_given_adapter_replaces_its_token_and_training(world):
    before = walk.jobs(plan())
    made = plan(adapters={"nevus": {"source": give_adapter(), "learnt_from": ["cohort:here"]}})
    found = walk.jobs(made)
    for rule in ("embedding", "lora"):
        assert {key[1] for key in of(rule, before)} - {key[1] for key in of(rule, found)} == {"nevus"}
    (key,) = (key for key in of("semantic", found) if "nevus" in key)
    job, spec = of("semantic", found)[key], of("semantic", found)[key].spec
    assert set(job.inputs) == {"canvases", "calibration"} and spec["adapter"]["model"]["source"].startswith("folder:")
    assert spec["adapter"]["learnt_from"] == sorted(row["image_id"] for row in sheet()) and len(sheet()) == 18
    others = {key: job for key, job in of("semantic", before).items() if "nevus" not in key}
    assert others == {key: job for key, job in of("semantic", found).items() if "nevus" not in key}
    assert not any("nevus" in name for name in made.job("export").inputs["lora"])
    give_adapter(value=2.0)
    assert (
        plan(adapters={"nevus": {"source": "ready"}}).job("semantic", **semantic()).spec["adapter"] != spec["adapter"]
    )


def semantic():
    return {"scope": "all", "canvas_cohort": "here", "concept": "nevus"}


def test_what_an_adapter_learnt_from_is_declared(world):
    Path("ids.txt").write_text("nevus0\nnevus1\n")
    give_adapter()
    (Path("ready/one.safetensors")).write_bytes(Path("ready/learned_embeds.safetensors").read_bytes())

    def learnt(*entries):
        chosen = {"source": "ready/one.safetensors", "embedding": None, "words": "mole"}
        made = plan(
            adapters={"nevus": chosen | ({"learnt_from": list(entries)} if entries else {})}, generator_scope="split"
        )
        return made.job("semantic", scope="main", canvas_cohort="here", concept="nevus").spec["adapter"], made

    spec, _ = learnt()
    assert spec["learnt_from"] is None and spec["words"] == "mole" and spec["weights"].startswith("sha256:")
    assert learnt("ids.txt")[0]["learnt_from"] == ["nevus0", "nevus1"]
    spec, made = learnt("split:main", "ids.txt")
    training = {image for image, role in made.roles["main"].items() if role == "train"}
    assert set(spec["learnt_from"]) == training | {"nevus0", "nevus1"} and len(training) < 18


def test_hub_adapters_are_fetched_and_pinned(world):
    commit = "0123456789" * 4
    made = plan(adapters={"nevus": {"source": "someone/nevus"}, "acne": {"source": give_adapter()}})
    (model,) = (m for m in named_models(made.config) if m.key == "adapters.nevus")
    assert model.name == "someone/nevus"
    assert model.files == ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")
    pinned = locked(made.config, {"someone/nevus": commit})
    assert pinned.adapters["nevus"].revision == commit and pinned.adapters["acne"].revision is None
    Path("models.lock.yaml").write_text(yaml.safe_dump({"someone/nevus": commit}))
    spec = Plan(load_config("config.yaml")).job("semantic", **semantic()).spec["adapter"]
    assert spec["model"] == {"source": f"commit:{commit}", "variant": None}


BAD = {
    "no such archive": (
        {"synthetic": {"x": {"archive": "data/x.tar"}}},
        r"synthetic.x.archive: no such file.*data/x.tar",
    ),
    "a name of ours": ({"synthetic": {"semantic": {"archive": "x.tar"}}}, "synthetic.semantic: this name is taken"),
    "an unknown source": (
        {"regimes": {"mine": {"sources": ["nosuch"]}}},
        "regimes.mine.sources.0: 'nosuch' is none of real",
    ),
    "an unknown regime": ({"runs": {"regimes": ["released_real"]}}, "'released_real' is none of"),
    "no such concept": ({"adapters": {"naevus": {"source": "o/n"}}}, "adapters.naevus: no such concept"),
    "no such folder": (
        {"adapters": {"nevus": {"source": "./no"}}},
        r"adapters.nevus.source: no such file.*no/pytorch_lora",
    ),
    "no token": ({"adapters": {"nevus": {"source": "o/n", "embedding": None}}}, "the words that stand for the disease"),
    "a stray cohort": (
        {"adapters": {"nevus": {"source": "o/n", "learnt_from": ["cohort:x"]}}},
        "'cohort:x' is no cohort",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_mistakes_are_told_with_the_line_of_the_config(world, what):
    change, message = BAD[what]
    with pytest.raises(InvalidInput, match=rf"config.yaml.*{message}"):
        plan(**change)


def test_the_shipped_list_names_all_65_released_adapters():
    """Each concept of DDI once; the config that ships is checked as a user's would be."""
    from cgddi.core.source import ROOT
    from cgddi.ingest.diseases import read_diseases

    config = load_config(ROOT / "config/released.yaml")
    concepts = {concept.slug for concept in read_diseases("builtin:ddi")[0].values()}
    assert set(config.adapters) == concepts and len({a.source for a in config.adapters.values()}) == 65
    assert all(a.learnt_from == ("cohort:ddi",) for a in config.adapters.values())


def of_adapters(made):
    return [note for note in made.notes() if "adapters" in note]


def test_a_row_less_concept_needs_no_adapter(world):
    """The shipped list may name diseases that the sheet has no photo of."""
    write_sheet([row for row in sheet() if row["disease"] != "acne"])
    made = plan(adapters={"acne": {"source": give_adapter()}})
    assert walk.jobs(made) and not any("acne" in key for key in walk.jobs(made))
    assert of_adapters(made) == ["adapters: not used for want of photos: acne."]
    write_sheet([row | {"malignant": str(k % 2 == 0)} for k, row in enumerate(sheet())])
    made = plan(adapters={"nevus": {"source": "ready"}}, mixed_malignancy="split")
    assert of_adapters(made) == [
        "adapters: not used for want of photos: nevus; mixed_malignancy split nevus: name its parts."
    ]
    made = plan(adapters={"nevus-benign": {"source": "ready"}}, mixed_malignancy="split")
    assert of_adapters(made) == [] and not any(key[0] == "lora" and "nevus-benign" in key for key in walk.jobs(made))
