"""Settings of tokens, adapters and samples: the preset fills in what was published, prompts and parts are checked at planning."""

import importlib

import pytest
import yaml
from cgddi.core.errors import InvalidInput
from cgddi.plan.code import ROOT
from cgddi.plan.config import Config, load_config, parse_config
from cgddi.plan.presets import deviations

STAGES = ("embedding", "lora", "semantic")


@pytest.mark.parametrize("stage", STAGES)
def test_the_preset_alone_gives_what_was_published(stage):
    paper = getattr(parse_config({stage: {"preset": "paper"}}), stage)
    published = importlib.import_module(f"cgddi.stages.{stage}.settings").PAPER
    assert paper.model_dump().items() >= published.items()
    assert paper == getattr(load_config(ROOT / "config/paper/config.yaml"), stage)
    default = getattr(Config(), stage)
    changed = {key for key, value in paper.model_dump().items() if value != getattr(default, key)}
    assert changed == {key for key, value in published.items() if value != getattr(default, key)} > {"preset"}
    assert getattr(parse_config({stage: {"preset": "corrected"}}), stage) == default


def test_a_key_of_the_config_wins_over_the_preset():
    assert parse_config({"lora": {"preset": "paper", "learning_rate": 2e-5}}).lora.learning_rate == 2e-5
    assert parse_config({"semantic": {"preset": "paper", "steps": 50}}).semantic.steps == 50


def test_a_preset_over_a_config_with_every_key_is_said_to_do_nothing():
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    values["lora"]["preset"] = "paper"
    (line,) = deviations(parse_config(values))
    assert line.startswith(
        "lora.preset is paper, but the config names learning_rate 0.0001 (published: 5e-06), priors balanced"
    )
    assert deviations(load_config(ROOT / "config/paper/config.yaml")) == deviations(Config()) == []


BAD = [
    ({"lora": {"prompt": "skin of a {tone}-skinned individual"}}, "lora.prompt", "{token} must stand in it"),
    ({"lora": {"prompt": "{token} {colour}"}}, "lora.prompt", "only {token} and {tone} can be filled in, not {colour}"),
    ({"lora": {"prompt": "{token.x}"}}, "lora.prompt", "not {token.x}"),
    ({"lora": {"prompt": "{token:>9}"}}, "lora.prompt", "not {token:>9}"),
    ({"lora": {"prompt": "{token} {"}}, "lora.prompt", "double a brace"),
    ({"lora": {"class_prompt": "healthy {token}"}}, "lora.class_prompt", "only {tone} can be filled in"),
    ({"embedding": {"prompts": ["{token}", "skin"]}}, "embedding.prompts", "{token} must stand in it"),
    ({"semantic": {"prompt": "{} {token}"}}, "semantic.prompt", "not {}"),
    ({"semantic": {"prompt": "{{token}}"}}, "semantic.prompt", "{token} must stand in it"),
    (
        {"lora": {"instances": 8, "priors_per_step": 2, "accumulation": 4}},
        "lora",
        "must divide instances (8) and priors",
    ),
    (
        {"lora": {"instances": 6, "priors_per_step": 8, "accumulation": 4}},
        "lora",
        "must divide instances (6) and priors",
    ),
]


@pytest.mark.parametrize(("values", "key", "message"), BAD)
def test_prompts_and_parts_that_cannot_work_are_refused_at_planning(values, key, message):
    with pytest.raises(InvalidInput) as caught:
        parse_config(values)
    assert f"column {key}" in str(caught.value) and message in str(caught.value)


def test_prompts_and_parts_that_work():
    config = parse_config(
        {
            "lora": {"prompt": "{token} {{x}}", "class_prompt": "skin", "priors_per_step": 0, "accumulation": 16},
            "semantic": {"prompt": "{token}"},
        }
    )
    assert config.lora.prompt.format(token="<t>", tone="dark") == "<t> {x}"
