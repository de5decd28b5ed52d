"""The study's networks, killed at any turn and started again, give the bytes and the curves of undisturbed ones."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager

import pytest
from cgddi.cli import main
from cgddi.job import checkpoint

from tests.fedd.photos import write_study
from tests.fedd.specs import spec_file
from tests.fedd.study import make_study
from tests.job.board import scalars

SEGMENTER = {"steps": 90, "check_every": 30, "ensemble": 2, "batch_pixels": 64, "patience": 3}
BASELINE = {"weights": "random", "epochs": 3, "patience": 3, "batch_size": 6, "learning_rate": 3e-3}


STEPS = {"segmenter": [30, 60, 90], "probe": [*range(1, 13)], "baseline": [1, 2, 3]}
"""Where each reports."""


class Killed(BaseException):
    """Stands for kill -9: no handler runs, nothing is saved."""


def stop_at(monkeypatch, at, how):
    """Make a training die, or be asked to leave by SIGTERM, at its `at`-th turn from now."""
    real = checkpoint.Checkpoint.kept

    @contextmanager
    def kept(self, state, seconds=None):
        turns = iter(range(1, 10**6))
        with real(self, state, 0 if how == "kill" else 1e9) as look:

            def looked():
                if next(turns) == at:
                    if how == "kill":
                        raise Killed
                    os.kill(os.getpid(), signal.SIGTERM)
                look()

            yield looked

    monkeypatch.setattr(checkpoint.Checkpoint, "kept", kept)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Stage -> (spec, command line options)."""
    folder = tmp_path_factory.mktemp("study")
    spec = make_study(folder, 2.0, {"train": 4, "validation": 2, "test": 2})
    photos = write_study(tmp_path_factory.mktemp("photos"))
    features = ["--features", str(folder / "features.safetensors")]
    pictures = {"subset": "5", "run_seed": 0, "size": 32, "crop": "resize", "seed": 1, "id_map": None, **photos}
    unet = {"task": "segmentation", "network": "mobilenet_v2", **pictures, "settings": BASELINE}
    return {
        "segmenter": ({**spec, "variant": "reweight", "settings": SEGMENTER}, features),
        "probe": ({**spec, "settings": {"epochs": 12}, "seeds": [0, 1]}, features),
        "baseline": (unet, []),
    }


@pytest.mark.parametrize(
    ("stage", "how", "stops"),
    [
        ("segmenter", "kill", (3, 2)),
        ("segmenter", "term", (1, 3)),
        ("probe", "kill", (5, 4)),
        ("probe", "term", (5, 4)),
        ("baseline", "term", (1, 1)),
    ],
)
def test_a_training_resumes_to_the_same_bytes(jobs, tmp_path_factory, tmp_path, monkeypatch, stage, how, stops):
    spec, options = jobs[stage]
    state = tmp_path / "state"

    def run(out, *more):
        files = ["--spec", spec_file(spec, tmp_path / out), "--output-dir", str(tmp_path / out)]
        files += ["--metrics", str(tmp_path / f"{out}.metrics.jsonl")]
        return main(["fedd", stage, *files, *options, "--threads", "1", *more])

    assert run("whole") == 0
    for at in stops:
        with monkeypatch.context() as patch, pytest.raises((Killed, SystemExit)) as stopped:
            stop_at(patch, at, how)
            run("out", "--state", str(state))
        assert how == "kill" or stopped.value.code == 143
        assert list(state.glob(f"{stage}-*.safetensors")) and not (tmp_path / "out/record.json").exists()
    seen, real = [], checkpoint.Checkpoint.take_up
    monkeypatch.setattr(checkpoint.Checkpoint, "take_up", lambda self: seen.append(real(self)) or seen[0])
    assert run("out", "--state", str(state)) == 0
    assert seen[0] is not None, "it started over"
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name
    assert not list(state.iterdir())
    curves = scalars(tmp_path / "out.tensorboard")
    assert curves == scalars(tmp_path / "whole.tensorboard")
    if history := json.loads((tmp_path / "out/record.json").read_text()).get("history"):
        losses = [line["loss"] for line in history]
        assert [value for _, value in curves["held_out/loss"]] == pytest.approx(losses)
    assert [step for step, _ in curves["held_out/loss"]] == STEPS[stage]
