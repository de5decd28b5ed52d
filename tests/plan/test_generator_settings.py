"""Settings of tokens, adapters and samples: what was published, prompts and parts are checked at planning."""

import pytest
from cgddi.core.errors import InvalidInput
from cgddi.core.source import ROOT
from cgddi.plan.config import Config, load_config, parse_config

from tests.watch.world import run_snakemake, set_config

PUBLISHED = {
    "embedding": {"images": "all", "tone_exponent": 0, "batch": 4, "accumulation": 4, "precision": "fp16"},
    "lora": {"learning_rate": 5e-6, "priors": "published", "hflip": 0, "precision": "fp16"},
    "semantic": {"sampler": "pndm", "steps": 100, "precision": "fp16", "check": False},
}
"""Where the published scripts differ from the defaults."""


@pytest.mark.parametrize("stage", PUBLISHED)
def test_the_paper_config_gives_what_was_published(stage):
    paper, default = (config.model_dump()[stage] for config in (load_config(ROOT / "config/paper/base.yaml"), Config()))
    assert {key: value for key, value in paper.items() if value != default[key]} == PUBLISHED[stage]


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
        {"lora": {"accumulation": 2, "num_processes": 3}},
        "lora",
        "accumulation 2 x num_processes 3 must divide instances",
    ),
    ({"embedding": {"num_processes": 3}}, "embedding", "num_processes 3 must divide batch (16)"),
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
    assert f", {key}: " in str(caught.value) and message in str(caught.value)


def test_prompts_and_parts_that_work():
    config = parse_config(
        {
            "lora": {"prompt": "{token} {{x}}", "class_prompt": "skin", "priors_per_step": 0, "accumulation": 16},
            "semantic": {"prompt": "{token}"},
        }
    )
    assert config.lora.prompt.format(token="<t>", tone="dark") == "<t> {x}"


def test_several_processes_ask_for_as_many_gpus(world):
    set_config(lora={"num_processes": 4}, embedding={"num_processes": 2}, classify={"num_processes": 3})
    said = run_snakemake("-n", "--printshellcmds")
    assert said.count("--gpus 4 lora ") == 3 and said.count("--gpus 2 embedding ") == 3
    assert said.count("--gpus 3 classify ") == 1
