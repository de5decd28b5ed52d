"""docs/config.md agrees with the config: every section and every key at the top stands there, every example is taken, and every
default it names is the default."""

from __future__ import annotations

import re

import pytest
import yaml
from cgddi.core.source import ROOT
from cgddi.plan.config import Config, parse_config
from cgddi.plan.configfile import section_of

PAGE = (ROOT / "docs/config.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


def test_every_key_at_the_top_stands_in_an_example_and_every_section_has_a_heading():
    shown = {key for block in BLOCKS for key in yaml.safe_load(block)}
    assert set(Config.model_fields) - shown == set()
    headings = {name for line in re.findall(r"^## (.*)$", PAGE, re.M) for name in line.split(", ")}
    sections = {name for name, info in Config.model_fields.items() if section_of(info.annotation)}
    assert sections - headings == set()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split(":")[0])
def test_every_example_is_taken_and_the_defaults_it_names_are_the_defaults(block):
    parse_config(yaml.safe_load(block), "docs/config.md")
    section, checked = None, 0
    for line in block.splitlines():
        indent, key = re.match(r"^( *)([\w-]+):", line).groups()
        section = section if indent else key
        if not (named := re.search(r"# default (.*?)(?:: |$)", line)):
            continue
        place = [section, key] if indent else [key]
        value = Config().model_dump(mode="json")
        for name in place:
            value = value[name]
        wanted = yaml.safe_load(named[1])
        assert value == wanted, f"{'.'.join(place)}: the page says {wanted!r}"
        checked += 1
    assert checked or "default" not in block
