"""Files that are written from one source: they must not drift from it."""

import re

import pytest
from cgddi.plan.code import ROOT
from cgddi.plan.configdoc import documents

PINS = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M))


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_config_documents_are_those_of_the_models(path):
    assert path.read_text() == documents()[path], "run `make config`"


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.name)
def test_environments_have_the_locks_pins(path):
    pins = dict(re.findall(r"- ([A-Za-z0-9._-]+)==(\S+)$", path.read_text(), re.M))
    assert pins and pins.items() <= PINS.items()


def test_every_stage_names_pinned_versions():
    from cgddi.plan.specs import STAGES, stage_versions

    for stage in STAGES:
        assert "unpinned" not in stage_versions(stage).values(), stage


def test_no_floating_requirement():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(PINS) == len(lines)
