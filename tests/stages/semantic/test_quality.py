"""The benchmark that compares the default's steps on a base model of one's own."""

from __future__ import annotations

import pytest

from benchmarks import sampling_quality


@pytest.mark.slow
def test_the_check_runs_on_any_model_and_canvases(world, monkeypatch):
    monkeypatch.setenv("SAMPLING_MODEL", str(world.model))
    monkeypatch.setenv("SAMPLING_CANVASES", str(world.root / "canvases.tar"))
    row = sampling_quality.run()
    assert row["model"] == str(world.model) and row["image_size"] == 32 and row["images"] == 6
    assert row["ours"] == row["20_steps"] < row["reference"] and row["ours"] <= row["15_steps"]
