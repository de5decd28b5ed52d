"""Pinned versions: one list, from which the others must not drift."""

import re

import pytest
from cgddi.plan.code import ROOT

PINS = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M))


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.name)
def test_environments_have_the_locks_pins(path):
    pins = dict(re.findall(r"- ([A-Za-z0-9._-]+)==(\S+)$", path.read_text(), re.M))
    assert pins and pins.items() <= PINS.items()


def test_what_planning_needs_has_the_locks_pins():
    lines = (ROOT / "requirements-plan.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins.items() <= PINS.items() and not {"torch", "diffusers", "transformers"} & pins.keys()


def test_no_floating_requirement():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(PINS) == len(lines)
