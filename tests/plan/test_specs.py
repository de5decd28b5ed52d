"""Specs on the disk: what they hold, when they are written and pruned, and that a job on another node works by the same plan."""

import os
from pathlib import Path

import pytest
from cgddi.core.errors import UserError
from cgddi.core.settings import neutral
from cgddi.job.spec import read_spec
from cgddi.plan.config import load_config
from cgddi.plan.jobs import Plan
from cgddi.stages.lora.settings import LoraSettings

from tests.watch.world import jobs, later, make, run_snakemake, set_config, sheet, write_sheet


def test_specs_hold_no_versions_and_no_paths(world):
    """P19."""
    text = "".join(path.read_text() for path in Path("results/.plan").rglob("*.*.json"))
    assert "revision" in text
    assert not [word for word in ("version", 'source":"', "photos/", "masks/nevus", str(world)) if word in text]


def test_a_key_that_changes_no_result_reaches_the_job_beside_its_spec(world):
    """P9."""

    class Settings(LoraSettings):
        checkpoint_every: int = neutral(7, "steps")

    plan = Plan(load_config("config.yaml"), main=True)
    one, other = (plan.spec("lora", Settings(checkpoint_every=n)) for n in (7, 8))
    assert one == other and "checkpoint_every" not in one["settings"]
    path = plan.specs.path("lora", "x", one, "results/nosuch.json")
    plan.specs.begin("digest", real=True)
    spec = read_spec(path)
    assert spec["settings"]["checkpoint_every"] == 8 and "checkpoint_every" not in spec.planned["settings"]


def test_a_dry_run_changes_nothing_of_the_run_under_way(world):
    """Neither its plan's digest nor where its photos lie."""
    run_snakemake("--touch", "--forceall")
    before = {name: Path("results/.plan", name).read_text() for name in ("plan.json", "places.json")}
    set_config(lora={"rank": 3})
    os.rename("photos", "pictures")
    write_sheet([row | {"file": row["file"].replace("photos", "pictures")} for row in sheet()])
    run_snakemake("-n")
    assert before == {name: Path("results/.plan", name).read_text() for name in before}


def test_a_job_on_a_node_that_plans_otherwise_stops(world):
    plan = Plan(load_config("config.yaml"))
    plan.specs.begin(plan.digest, real=True)
    Plan(load_config("config.yaml")).specs.check(plan.digest)
    set_config(cache="elsewhere")
    same = Plan(load_config("config.yaml"))
    same.specs.check(same.digest)
    set_config(lora={"rank": 3})
    other = Plan(load_config("config.yaml"))
    with pytest.raises(UserError, match="changed since this run was started"):
        other.specs.check(other.digest)


def test_the_next_run_prunes_the_specs_of_before(world):
    """But for those that results are made from, until they are made again."""
    set_config(lora={"rank": 3})
    run_snakemake("-n")
    assert len(list(Path("results/.plan/lora").iterdir())) == 6
    plan = Plan(load_config("config.yaml"), main=True)
    for _, concept in plan.adapters:
        plan.inputs("lora", scope="all", concept=concept)
    plan.begin(real=False)
    assert len(list(Path("results/.plan/lora").iterdir())) == 6
    plan.begin(real=True)
    assert len(list(Path("results/.plan/lora").iterdir())) == 6
    for job in jobs():
        if (job.rule, job.concept) == ("lora", "nevus"):
            make(job)
    plan.begin(real=True)
    left = sorted(path.name.split(".")[0] for path in Path("results/.plan/lora").iterdir())
    assert left == ["all", "all", "all", "all", "all"] and len(list(Path("results/.plan/embedding").iterdir())) == 3


def test_a_photo_that_changes_after_the_start_is_not_read(world):
    plan = Plan(load_config("config.yaml"), main=True)
    path = plan.inputs("masks", cohort="here", batch="nevus.000")["spec"]
    plan.begin(real=True)
    spec = read_spec(path)
    assert [row["file"] for row in spec["rows"]] == [f"photos/nevus{k}.png" for k in range(6)]
    assert spec["rows"][0]["mask"] == "masks/nevus0.npy"
    later("photos/nevus0.png")
    read_spec(path)
    Path("photos/nevus0.png").write_bytes(b"other")
    with pytest.raises(UserError, match="photos/nevus0.png: changed since the workflow was started"):
        read_spec(path)
