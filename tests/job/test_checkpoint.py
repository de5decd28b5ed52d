"""What a killed run finds again: the last whole state of its own, and nothing of any other run."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from cgddi.job.checkpoint import Checkpoint, Terminated


def saved(folder, *steps, facts="run"):
    """A checkpoint of a run after steps."""
    checkpoint = Checkpoint(folder, "lora", facts)
    for step in steps:
        checkpoint.save({"x": torch.tensor([float(step)])}, {"step": step})
    return checkpoint


def test_the_last_state_is_taken_up_and_the_one_before_where_it_is_damaged(tmp_path, capsys):
    checkpoint = saved(tmp_path, 1, 2, 3)
    tensors, facts = checkpoint.load(needed=("step",))
    assert facts == {"step": 3} and tensors["x"].tolist() == [3.0]
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-1])
    assert checkpoint.load()[1] == {"step": 2}
    assert f"checkpoint {checkpoint.path} is damaged and not used" in capsys.readouterr().err
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    assert checkpoint.load() is None


def test_a_state_that_lacks_a_fact_is_none(tmp_path):
    assert saved(tmp_path, 1, 2).load(needed=("step", "history")) is None


def test_a_run_of_other_facts_sees_nothing(tmp_path):
    saved(tmp_path, 1, 2)
    assert Checkpoint(tmp_path, "lora", "another").load() is None
    assert Checkpoint(tmp_path, "embedding", "run").load() is None


def test_success_removes_all_that_the_stage_left_and_nothing_else(tmp_path):
    saved(tmp_path, 1, 2, facts="settings of before")
    checkpoint, other = saved(tmp_path, 1, 2), Checkpoint(tmp_path, "embedding", "run")
    other.save({}, {"step": 1})
    (tmp_path / f".{checkpoint.path.name}.0123456789ab.tmp").write_bytes(b"half")
    checkpoint.remove()
    assert [path.name for path in tmp_path.iterdir()] == [other.path.name]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_loop_that_is_told_to_end_keeps_its_state_first_unless_others_cannot_know(tmp_path, at_once):
    checkpoint, turns = Checkpoint(tmp_path, "classify", 1), []
    with pytest.raises(Terminated), checkpoint.kept(lambda: {"turn": len(turns)}, 3600, at_once) as look:
        for turn in range(9):
            turns.append(turn)
            look()
            assert not list(tmp_path.iterdir()), "an hour has not passed"
            if turn == 2:
                os.kill(os.getpid(), signal.SIGTERM)
    assert checkpoint.take_up() == (None if at_once else {"turn": 4})
    assert len(turns) == (3 if at_once else 4)
