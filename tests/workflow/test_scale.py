"""Ten times the diseases and images,."""

import time

import pytest
from cgddi.plan.config import load_config
from cgddi.plan.jobs import Plan

from tests.plan.walk import jobs
from tests.workflow.dryrun import counts
from tests.workflow.paper_scale import multiply, paper_scale

PER_IMAGE = ("masks", "healthy", "lesion_mapped", "embedding", "lora")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    return folder, paper_scale(folder)


def planned(config):
    """Jobs of a config by stage, and the CPU seconds of reading its sheets and planning them (the better of two)."""
    seconds = []
    for _ in range(2):
        began = time.process_time()
        found = jobs(Plan(load_config(config)))
        seconds.append(time.process_time() - began)
    rules = [key[0] for key in found]
    return {rule: rules.count(rule) for rule in rules}, min(seconds)


def test_ten_times_the_diseases_and_images_are_planned_in_ten_times_the_time(world, monkeypatch):
    """Jobs by image and disease grow tenfold, pooled ones not at all, and so does the time (with room for noise)."""
    folder, config = world
    monkeypatch.chdir(folder)
    once, short = planned(multiply(folder, config, 1))
    many, long = planned(multiply(folder, config, 10))
    assert [many[stage] for stage in PER_IMAGE] == [10 * once[stage] for stage in PER_IMAGE]
    pooled = ("index", "audit", "classify", "fairness", "published", "report")
    assert [many[stage] for stage in pooled] == [once[stage] for stage in pooled]
    assert long < 16 * short, f"{short:.2f} s, then {long:.2f} s"


@pytest.mark.slow
def test_snakemake_plans_ten_times_the_jobs_in_ten_times_the_time(world):
    folder, config = world
    seconds, found = [], []
    for path in (config, multiply(folder, config, 10)):
        began = time.monotonic()
        found.append(counts(folder, "--configfile", path.name))
        seconds.append(time.monotonic() - began)
    assert [found[1][rule] for rule in PER_IMAGE] == [10 * found[0][rule] for rule in PER_IMAGE]
    assert seconds[1] < 15 * seconds[0], seconds
