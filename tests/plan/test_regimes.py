"""Every regime and split of config/README.md is real: the names are the built-in ones, and its examples plan."""

from __future__ import annotations

import re

import pytest
import yaml
from cgddi.core.errors import InvalidInput
from cgddi.core.source import ROOT
from cgddi.plan.config import parse_config
from cgddi.plan.jobs import Plan
from cgddi.plan.sections import BASE_MODEL
from cgddi.stages.classify.settings import LADDER, REGIMES

README = (ROOT / "config/README.md").read_text()


def example(number: int) -> dict:
    """A yaml block of config/README.md."""
    return yaml.safe_load(re.findall(r"```yaml\n(.*?)```", README, re.S)[number])


def sheet(tmp_path) -> str:
    """An image sheet: three cohorts of three diseases (one malignant) x three tones x eight photos."""
    rows = ["image_id,file,cohort,disease,skin_tone,malignant,mask,group"]
    for cohort in ("ddi", "f17k", "clinic"):
        for d, disease in enumerate(["melanoma", "melanocytic-nevi", "verruca-vulgaris"]):
            for tone in ("12", "34", "56"):
                names = [f"{cohort}{d}{tone}{n}" for n in range(8)]
                rows += [f"{name},{name}.png,{cohort},{disease},{tone},{d == 0},{name}.npy," for name in names]
                for name in names:
                    for end in ("png", "npy"):
                        (tmp_path / f"{name}.{end}").write_text(name)
    path = tmp_path / "images.csv"
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def test_the_table_of_regimes_names_every_built_in_one_and_no_other():
    table = README.split("## Regimes")[1].split("Regimes of your own")[0]
    named = set()
    for cell in re.findall(r"^\| (`.*?) \|", table, re.M):
        first, *others = re.findall(r"`([a-z0-9_]+)`", cell)
        stem = first.rstrip("0123456789")
        named.add(first)
        named.update(
            other if not other.startswith("_") else stem.removesuffix("_x").rstrip("_") + other for other in others
        )
    assert named == set(REGIMES)


def test_every_built_in_regime_and_the_examples_plan_from_one_line_each(tmp_path):
    own = example(0)
    names = [*REGIMES, *own["regimes"]]
    plan = Plan(
        parse_config({"images": sheet(tmp_path), **own, **example(1), "runs": {"regimes": names, "seeds": [0]}})
    )
    assert set(plan.config.trained_regimes) == set(names)
    assert plan.config.classify.label_texts.text_encoder == BASE_MODEL, "kept where the section says nothing of it"
    assert list(plan.config.splits) == list(example(1)["splits"])
    for name in names:
        job = plan.job("classify", split="main", regime=name, method="baseline", run_seed=0)
        assert job.spec["regime"]["name"] == name
    assert {role for _, role in plan.split_rows("held-out", "clinic")} == {"test"}
    f17k = {role for _, role in plan.split_rows("to-f17k", "f17k")}
    assert f17k == {"test"} and "test" not in {role for _, role in plan.split_rows("to-f17k", "ddi")}
    assert {role for _, role in plan.split_rows("to-ddi", "ddi")} == {"test"}
    tone = {photo.image_id: photo.skin_tone for photo in plan.by_cohort["ddi"]}
    rows = plan.split_rows("light-medium-out", "ddi")
    assert {tone[i] for i, role in rows if role == "test"} == {"light", "medium"}
    assert {tone[i] for i, role in rows if role != "test"} == {"dark"}


def test_the_paper_preset_plans_its_methods_on_the_published_split(tmp_path):
    paper = yaml.safe_load((ROOT / "config/paper/base.yaml").read_text())
    plan = Plan(parse_config({**paper, "images": sheet(tmp_path)}))
    assert plan.config.runs.methods == ("baseline", "fairdisco", "patchalign")
    assert plan.config.classify.selection == "test" and plan.config.splits["s4242"].method == "published"


def test_a_regime_that_cannot_take_equal_steps_is_refused_where_the_config_is_read(tmp_path):
    """Fine-tuning is taken out of the epochs: it must leave some, and there is one turn only."""
    values = {"images": sheet(tmp_path), "runs": {"methods": ["baseline"], "seeds": [0]}}
    with pytest.raises(InvalidInput, match="15 of the 15 epochs of baseline leave none"):
        parse_config({**values, "classify": {"finetune_epochs": 15}})
    parse_config({**values, "classify": {"finetune_epochs": 15, "images_per_epoch": None}})
    parse_config({**values, "classify": {"finetune_epochs": 15}, "runs": {"regimes": ["real"]}})
    twice = {"again": {"sources": ["real"], "init": "synthetic_real"}}
    with pytest.raises(InvalidInput, match="'synthetic_real' starts from another regime itself"):
        parse_config({**values, "regimes": twice, "runs": {"methods": ["baseline"], "regimes": ["again"]}})


def test_starting_weights_are_those_before_the_turn_and_the_paper_s_the_last(tmp_path):
    names = {"split": "main", "method": "baseline", "run_seed": "0"}
    for images, file in ((4096, "start"), (None, "weights")):
        plan = Plan(parse_config({"images": sheet(tmp_path), "classify": {"images_per_epoch": images}}))
        init = plan.job("classify", regime="synthetic_real", **names).inputs["init"]
        assert init == plan.paths.file("classify", file, regime="synthetic", **names)


def test_the_ladder_is_one_target_of_every_method_and_seed(tmp_path):
    plan = Plan(
        parse_config({"images": sheet(tmp_path), "runs": {"methods": ["baseline", "patchalign"], "seeds": [0, 1]}})
    )
    made = plan.job("ladder").inputs["predictions"]
    assert (
        sorted(path.split("/")[-4] for path in made) == sorted(LADDER * 4) and "ladder" not in plan.job("report").inputs
    )
    asked = Plan(parse_config({"images": sheet(tmp_path), "runs": {"ladder": True}}))
    assert asked.job("report").inputs["ladder"] == asked.paths.file("ladder")
    real = Plan(parse_config({"images": sheet(tmp_path), "runs": {"regimes": ["real"]}}))
    with pytest.raises(InvalidInput, match="learns from healthy, lesion_mapped, semantic images"):
        real.job("ladder")
