"""Where trainings report to: TensorBoard always, Weights & Biases where a project is named, for generators and classifiers
alike."""

from __future__ import annotations

import importlib.util
import json
import sys
import time

import pytest
from cgddi.core.errors import UserError
from cgddi.diffusion.log import TrainingLog
from cgddi.job.trackers import WANDB, reporting, start_trackers, trackers, wandb_missing

from tests.job.board import scalars

STAND_IN = '''
"""What accelerate asks of wandb, written to a file."""
import json, os


class Run:
    def __init__(self, **how):
        self.path = how.pop("dir") + "/wandb.jsonl"
        self.note(init=how)

    def note(self, **line):
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\\n")

    def log(self, values, step=None):
        self.note(step=step, values=values)

    def finish(self):
        self.note(finished=True)


def init(**how):
    if os.environ.get("REFUSE"):
        raise UsageError("No API key configured. Use `wandb login` to log in.\\nmore")
    return Run(**how)


class UsageError(Exception):
    pass
'''


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv(WANDB, "lab")
    yield tmp_path
    sys.modules.pop("wandb", None)


def classifier(folder):
    accelerator = reporting(str(folder.with_suffix(".metrics.jsonl")))
    accelerator.log({"train_loss": 0.5}, step=1)
    accelerator.end_training()


def generator(folder):
    from accelerate import Accelerator

    base = folder.with_suffix("")
    log = TrainingLog(Accelerator(cpu=True, log_with=TrainingLog.trackers(base)), base)
    log({"step": 1, "train_loss": 0.5})
    log.close()
    assert json.loads(base.with_name(f"{base.name}.training.jsonl").read_text()) == {"step": 1, "train_loss": 0.5}


@pytest.mark.parametrize(("run", "stage"), [(generator, "lora"), (classifier, "classify")])
def test_tensorboard_always_and_wandb_by_its_project(run, stage, stand_in, monkeypatch):
    folder = stand_in / f"results/logs/{stage}/main/nevus.tensorboard"
    folder.parent.mkdir(parents=True)
    run(folder)
    assert scalars(folder) == {"train_loss": [(1, 0.5)]}
    init, line, end = map(json.loads, (folder.parent / "wandb.jsonl").read_text().splitlines())
    assert init == {"init": {"project": "lab", "name": f"{stage}/main/nevus", "group": stage}}
    assert line == {"step": 1, "values": {"train_loss": 0.5}} and end == {"finished": True}
    monkeypatch.delenv(WANDB)
    (folder.parent / "wandb.jsonl").unlink()
    run(folder)
    assert scalars(folder) == {"train_loss": [(1, 0.5)]} and not (folder.parent / "wandb.jsonl").exists()


def test_a_refusal_of_wandb_is_one_line_before_any_work(stand_in, monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setenv("REFUSE", "1")
    accelerator = Accelerator(cpu=True, log_with=trackers(stand_in / "logs/lora/x.tensorboard"))
    with pytest.raises(
        UserError, match=r"^wandb: No API key configured\. .*\. Run `wandb login`; .*WANDB_MODE=offline"
    ):
        start_trackers(accelerator)


def test_a_project_without_the_library_is_told_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv(WANDB, "lab")
    with pytest.raises(UserError, match=r"the library is not installed\. Install it .*wandb\]"):
        trackers(tmp_path / "x.tensorboard")
    assert wandb_missing(None) is None and "pip install" in wandb_missing("lab")
    assert trackers(None) == []


def test_the_real_library_takes_it_offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="an extra: pip install -e '.[wandb]'")
    monkeypatch.setenv(WANDB, "lab")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "logs/classify/main.tensorboard"
    folder.parent.mkdir(parents=True)
    classifier(folder)
    (kept,) = folder.parent.rglob("*.wandb")
    until = time.monotonic() + 30
    while b"train_loss" not in kept.read_bytes():
        assert time.monotonic() < until
        time.sleep(0.2)
