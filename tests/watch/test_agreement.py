"""One thing changes after a finished run: `snakemake -n`, `status`, `cost` and `why` say the same, written here by hand."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cgddi.plan.config import load_config
from cgddi.plan.specs import revision
from cgddi.stages.report import settings as report_settings
from cgddi.watch import cost, status, why

from tests.watch.world import CONFIG, POOLED, jobs, later, planned_by_snakemake, row, set_config, sheet, write_sheet

CANVASES = {
    "review": 1,
    "calibration": 1,
    "canvases": 1,
    "audit_pictures": 1,
    "lesion_mapped": 3,
    "lora": 3,
    "semantic": 3,
} | POOLED
"""Jobs that stand on healthy skin: three adapters by their prior images, three batches of donors."""
GPU = ("healthy", "embedding", "lora", "semantic", "classify")


def default(section, key):
    return getattr(getattr(load_config("config.yaml"), section), key)


def nothing(_):
    return {}, {}


def touched(_):
    made = ("results/masks/here/nevus.000.jsonl", "results/splits/main/here.csv")
    for path in ("photos/nevus0.png", "masks/nevus0.npy", "images.csv", "config.yaml", *made):
        later(path)
    return {}, {}


def setting_of_adapters(_):
    old = default("lora", "learning_rate")
    set_config(lora={"learning_rate": 0.5})
    return {"lora": 3, "semantic": 3} | POOLED, {"lora": f"learning_rate: {old} -> 0.5", "semantic": "waits for 1 lora"}


def setting_of_tokens(_):
    old = default("embedding", "steps")
    set_config(embedding={"steps": 9})
    tokens = {"embedding": 3, "lora": 3, "semantic": 3} | POOLED
    return tokens, {"embedding": f"steps: {old} -> 9", "lora": "waits for 1 embedding"}


def setting_of_samples(_):
    old = default("semantic", "strength")
    set_config(semantic={"strength": 0.5})
    return {"semantic": 3} | POOLED, {"semantic": f"strength: {old} -> 0.5", "index": "waits for 3 semantic"}


def setting_of_inpainting(_):
    old = default("healthy", "steps")
    set_config(healthy={"steps": 9})
    return {"healthy": 3} | CANVASES, {"healthy": f"steps: {old} -> 9", "canvases": "waits for 3 healthy"}


def setting_of_classifiers(_):
    old = default("classify", "images_per_epoch")
    set_config(classify={"images_per_epoch": 7})
    return {"classify": 1, "fairness": 1, "published": 1, "report": 1}, {
        "classify": f"images_per_epoch: {json.dumps(old)} -> 7"
    }


def another_split_with_generators_of_all_photos(_):
    """P11."""
    set_config(splits={"main": {"method": "stratified", "seed": 2, "test": 0.4}})
    return {"split": 1} | POOLED, {"index": "waits for 1 split"}


def another_run_seed(_):
    set_config(runs={"seeds": [0, 1]})
    return {"classify": 1, "fairness": 1, "published": 1, "report": 1}, {
        "classify": "not made yet",
        "fairness": "inputs.predictions: 1 added (classify/main/synthetic/baseline/1/predictions.csv)",
    }


def a_disease_is_left_out(_):
    set_config(drop_concepts=["nevus"])
    return POOLED, {"index": 'drop_concepts: new, ["nevus"]'}


def a_diseases_rows_are_removed(_):
    """P12: its canvases go, so all that stands on canvases is made again; its own jobs are no longer planned."""
    write_sheet([row for row in sheet() if row["disease"] != "nevus"])
    left = {"lesion_mapped": 2, "lora": 2, "semantic": 2, "split": 1}
    return CANVASES | left, {
        "canvases": "inputs.healthy: 1 removed (healthy/here/nevus.000.jsonl)",
        "lesion_mapped": "waits for 1 canvases",
    }


def a_new_disease_as_a_cohort(_):
    """Its six lesions onto both cohorts' canvases, its samples on both."""
    write_sheet([*sheet(), *(row("wart", k, "later") for k in range(6))])
    new = {
        "masks": 1,
        "healthy": 1,
        "review": 1,
        "canvases": 1,
        "audit_pictures": 1,
        "lesion_mapped": 2,
        "embedding": 1,
        "lora": 1,
    }
    return new | {"semantic": 2, "split": 1} | POOLED, {
        "masks": "not made yet",
        "lora": "waits for 1 embedding, 1 masks",
    }


def a_mask_is_corrected(_):
    mask = np.load("masks/nevus0.npy")
    np.save("masks/nevus0.npy", 1 - mask)
    later("masks/nevus0.npy")
    own = {"masks": 1, "healthy": 1, "embedding": 1}
    return own | CANVASES, {"masks": "rows.nevus0.mask: other content", "healthy": "waits for 1 masks"}


def a_photo_comes(_):
    write_sheet([*sheet(), row("nevus", 7, mask=False)])
    own = {"masks": 1, "embedding": 1, "lora": 1, "semantic": 1, "split": 1}
    return own | POOLED, {"masks": "not made yet", "embedding": "images: 1 added (nevus7)"}


def a_person_discards_a_canvas(_):
    Path("review.csv").write_text("image_id,cohort,verdict,note\nnevus0,here,discard,\n")
    set_config(review="review.csv")
    return CANVASES, {"canvases": 'verdicts.nevus0: new, "discard"'}


def samples_are_deleted(_):
    os.unlink("results/semantic/all/here/nevus.tar")
    return {"semantic": 1} | POOLED, {"semantic": "nevus.tar was deleted"}


def a_training_that_failed(_):
    """P12: Snakemake removes what a failed job has begun, and what follows was not made."""
    for path in ("lora/all/nevus/pytorch_lora_weights.safetensors", "semantic/all/here/nevus.tar"):
        os.unlink(f"results/{path}")
    Path("results/logs/lora/all/nevus.log").write_text("40%|####\r60%|######\ncgddi lora: the loss is NaN at step 7.\n")
    later("results/logs/lora/all/nevus.log")
    return {"lora": 1, "semantic": 1} | POOLED, {
        "lora": "the loss is NaN at step 7.",
        "semantic": "nevus.tar was deleted",
    }


def a_revision(monkeypatch):
    """P12: the report's template was edited, and with it its revision raised."""
    before = report_settings.REVISION
    monkeypatch.setattr(report_settings, "REVISION", 99)
    revision.cache_clear()
    return {"report": 1}, {"report": f"revision: {before} -> 99"}


@pytest.mark.parametrize(
    "change",
    [
        nothing,
        touched,
        setting_of_adapters,
        setting_of_tokens,
        setting_of_samples,
        setting_of_inpainting,
        setting_of_classifiers,
        another_split_with_generators_of_all_photos,
        another_run_seed,
        a_disease_is_left_out,
        a_diseases_rows_are_removed,
        a_new_disease_as_a_cohort,
        a_mask_is_corrected,
        a_photo_comes,
        a_person_discards_a_canvas,
        samples_are_deleted,
        a_training_that_failed,
        a_revision,
    ],
    ids=lambda change: change.__name__,
)
def test_snakemake_status_and_cost_agree_with_the_set_computed_by_hand(world, monkeypatch, capsys, change):
    expected, reasons = change(monkeypatch)
    assert planned_by_snakemake() == expected
    found = status.survey(jobs(), world)
    assert Counter(job.rule for job, state, _ in found if state != "done") == expected
    first = {}
    for job, state, reason in found:
        if state != "done":
            first.setdefault(job.rule, reason)
    assert {rule: first[rule] for rule in reasons} == reasons
    assert cost.main([*CONFIG, "--json"]) == 0
    left = {row["stage"]: row["left"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {stage: left[stage] for stage in GPU} == {stage: expected.get(stage, 0) for stage in GPU}


def said(target, capsys):
    assert why.main([target, *CONFIG]) == 0
    return capsys.readouterr().out.splitlines()


def test_why_prints_the_difference_and_no_more(world, capsys):
    assert said("results/lora/all/nevus", capsys) == ["adapter of nevus (all)", "  nothing to do"]
    old = {key: default("lora", key) for key in ("learning_rate", "rank", "steps")}
    set_config(lora={"learning_rate": 0.5, "rank": 3, "steps": 9})
    assert said("results/lora/all/nevus/record.json", capsys) == [
        "adapter of nevus (all)",
        f"  learning_rate: {old['learning_rate']} -> 0.5",
        f"  rank: {old['rank']} -> 3",
        f"  steps: {old['steps']} -> 9",
    ]
    assert said("results/semantic/all/here/nevus.tar", capsys)[1] == "  made again before it: adapter of nevus (all)"
    assert said("lora", capsys)[0] == "adapter of acne (all); adapter of melanoma (all); adapter of nevus (all)"


def test_why_names_the_input_that_changed_and_the_file_that_is_gone(world, capsys):
    a_mask_is_corrected(None)
    assert said("results/masks/here/nevus.000.tar", capsys) == [
        "masks of here, batch nevus.000",
        "  rows.nevus0.mask: other content",
    ]
    os.unlink("results/semantic/all/here/acne.tar")
    assert said("results/semantic/all/here/acne.json", capsys)[1] == "  results/semantic/all/here/acne.tar is not there"
