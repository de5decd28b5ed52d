"""What was run, and what the audits say: pass, warn or fail."""

from __future__ import annotations

import json
import subprocess

import pandas as pd
import pytest
from cgddi.core import source
from cgddi.stages.report import curves, overview, tables
from cgddi.stages.report.records import Records


def judged(tmp_path, kind, found):
    path = tmp_path / "main" / f"{kind}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found))
    (line,) = overview.verdicts([path], {}, {})
    return line["verdict"], line["text"]


CHECKED = {"checked": {"held_out_images": 4, "training_images": 9}}


@pytest.mark.parametrize(
    "kind, found, verdict",
    [
        ("leakage", CHECKED | {"clean": True, "waived": {}}, "pass"),
        ("leakage", CHECKED | {"clean": True, "waived": {"unknown lineage": 3}}, "warn"),
        ("leakage", CHECKED | {"clean": False, "leaks": [1, 2], "near_duplicates": []}, "fail"),
        ("tone", {"by_kind": {"real": {"dark": {"relative": 0.1}}, "semantic": {"dark": {"relative": 0.95}}}}, "pass"),
        ("tone", {"by_kind": {"semantic": {"dark": {"relative": 0.8}, "light": {"relative": 1.0}}}}, "warn"),
        ("tone", {"by_kind": {"semantic": {"dark": {"relative": 0.5}}}}, "fail"),
        ("tone", {"by_kind": {"real": {}}}, "warn"),
        ("quality", {"by_kind": {"semantic": {"dark": {"images": 200, "black": 0, "flat": 0}}}}, "pass"),
        ("quality", {"by_kind": {"semantic": {"dark": {"images": 200, "black": 1, "flat": 1}}}}, "warn"),
        ("quality", {"by_kind": {"semantic": {"dark": {"images": 200, "black": 3, "flat": 0}}}}, "fail"),
        ("quality", {"by_kind": {"real": {"dark": {"images": 9, "black": 9}}, "semantic": {}, "all": {}}}, "pass"),
        ("memorisation", {"similarity": {}, "images": 200, "copies": 2}, "pass"),
        ("memorisation", {"similarity": {}, "images": 200, "copies": 10}, "warn"),
        ("memorisation", {"similarity": {}, "images": 200, "copies": 11}, "fail"),
        ("memorisation", {"images": 0}, "warn"),
    ],
)
def test_an_audit_passes_warns_or_fails(tmp_path, kind, found, verdict):
    assert judged(tmp_path, kind, found)[0] == verdict


def test_short_samples_and_caveats_are_told():
    samples = [{"wanted": 20, "short": 1}, {"wanted": 20, "short": 0}]
    lines = overview.verdicts([], {"main": {"samples": samples}}, {"main/real/baseline": ["leaks¶"]})
    assert [line["verdict"] for line in lines] == ["warn", "warn"]
    assert lines[0]["text"] == "39 of 40 wanted samples passed their check" and "leaks¶" in lines[1]["text"]
    (short,) = overview.verdicts([], {"main": {"samples": [{"wanted": 20, "short": 3}]}}, {})
    assert short["verdict"] == "fail"


def test_starts_commits_and_hours_come_from_the_logs(tmp_path):
    starts = [
        {"when": "2026-01-02T10:00:00+00:00", "commit": "abc", "stages": [{"left": None}]},
        {"when": "2026-01-03T10:00:00+00:00", "commit": "zzz", "stages": [{"left": 4}]},  # `cgddi cost`, no start
        {"when": "2026-01-04T10:00:00+00:00", "commit": "def", "stages": [{"left": None}]},
    ]
    (tmp_path / "plan.jsonl").write_text("".join(json.dumps(line) + "\n" for line in starts))
    line = {"stage": "lora", "device": "A100", "seconds": 5400}
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/a.metrics.jsonl").write_text(
        json.dumps(line) + "\n" + json.dumps(line | {"device": "cpu"}) + "\n"
    )
    rows = ["real train dark", "real test dark", "real test light", "semantic train dark"]
    index = pd.DataFrame([row.split() for row in rows], columns=["kind", "role", "tone"])
    index["malignant"] = [True, True, False, True]
    facts = overview.what_was_run(Records({"seed": 7}), {"main": index}, tmp_path, tables.attempts(tmp_path))
    assert facts["code"] == "abc, def" and facts["started"] == "2026-01-02, last 2026-01-04" and facts["seed"] == "7"
    assert facts["work"] == "1.5 GPU hours (A100), 1.5 hours of jobs on CPU"
    assert facts["photos, split main"] == "1 training, 2 test (test: light 1, medium 0, dark 1; 1 malignant)"
    assert facts["images to learn from"] == "1 samples" and facts["base model"] == "none used"
    nothing = overview.what_was_run(Records({}), {"main": index}, tmp_path / "no", tables.attempts(tmp_path / "no"))
    assert nothing["started"] == nothing["work"] == nothing["classifiers"] == "not recorded"


def test_the_commit_is_the_clones_and_no_other_repositorys(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words],
            check=True,
            capture_output=True,
        )

    package = tmp_path / "workflow/cgddi"
    package.mkdir(parents=True)
    (package / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("1")
    monkeypatch.setattr(source, "PACKAGE", package)
    assert source.source_commit() is None
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    whole = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert source.source_commit() == whole[:12]
    (tmp_path / "b.py").write_text("2")
    assert source.source_commit() == whole[:12], "other files are no code of ours"
    (package / "a.py").write_text("2")
    assert source.source_commit() == f"{whole[:12]} (changed)"
    elsewhere = tmp_path / "site-packages/cgddi"
    elsewhere.mkdir(parents=True)
    monkeypatch.setattr(source, "PACKAGE", elsewhere)
    assert source.source_commit() is None


def test_curves_fill_their_drawing_and_mark_the_chosen_epoch(tmp_path):
    log = tmp_path / "lora/main/wart.training.jsonl"
    log.parent.mkdir(parents=True)
    steps = [
        {"step": 10, "loss": 9.0},
        {"step": 10, "loss": 4.0},
        {"step": 20, "loss": 2.0},
        {"step": 25, "loss_dark": 1},
        {"step": 30, "loss": 3.0},
    ]
    log.write_text("".join(json.dumps(step) + "\n" for step in steps) + '{"step": 4')
    (curve,) = curves.trainings(tmp_path, "lora")
    assert curve.name == "wart" and curve.words == "loss 4 at step 10, 3 at step 30"
    assert curve.lines == ["0,2 50,38 100,20"], "of a step done twice the last; the highest loss stands highest"
    history = [{"epoch": n, "train_loss": 1 / n, "held_out": {"balanced_accuracy": n / 10}} for n in (1, 2, 3)]
    run = {"split": "main", "method": "baseline", "regime": "real", "chosen_epoch": 3, "history": history}
    loss, score = curves.classifiers([run, run | {"chosen_epoch": 1}])
    assert len(loss.lines) == len(score.lines) == 2 and not loss.marks and score.marks == ["M100 2h0", "M0 38h0"]
    assert curves.classifiers([{"split": "main"}]) == []


def test_what_gave_no_canvas_is_counted_by_reason():
    skipped = [{"id": str(n), "reason": f"discarded by triage: stain {n}.5 off (limit 3)"} for n in range(3)]
    canvases = {"spec": {"cohort": "a"}, "skipped": [*skipped, {"id": "x", "reason": "discarded by review"}]}
    painted = {"spec": {"cohort": "a"}, "skipped": [{"id": "y", "reason": "it has no mask (mask_failed)"}]}
    found = tables.not_pooled(Records({}, canvases=[canvases], painted=[painted]))
    assert found.to_dict("split")["data"] == [
        ["photo without a healthy picture", "a", "it has no mask", 1],
        ["picture that is no canvas", "a", "discarded by triage: stain # off", 3],
        ["picture that is no canvas", "a", "discarded by review", 1],
    ]
