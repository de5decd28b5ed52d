"""What a killed run finds again: the last whole state of its own, and nothing of any other run."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from cgddi.job import checkpoint as checkpoint_module
from cgddi.job.checkpoint import (
    Checkpoint,
    Terminated,
    Termination,
    exit_on_sigterm,
    generator_states,
    random_state,
    restore_generators,
    restore_optimizer,
    restore_random,
)


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


def test_a_state_comes_back_as_it_was(tmp_path):
    """Numbers that JSON has not, keys that are no texts, tensors anywhere."""
    state = {
        "best": [-math.inf, math.inf, 0.1],
        "of": {3: torch.arange(4), "name": None},
        "flags": (True, [torch.ones(2, 1)]),
    }
    checkpoint = Checkpoint(tmp_path, "classify", 1)
    with checkpoint.kept(lambda: state, seconds=0) as look:
        look()
    found = checkpoint.take_up()
    assert found["best"] == state["best"] and list(found["of"]) == [3, "name"] and found["of"]["name"] is None
    assert torch.equal(found["of"][3], state["of"][3]) and torch.equal(found["flags"][1][0], torch.ones(2, 1))
    assert found["flags"][0] is True


def test_a_state_is_written_when_its_time_has_passed_since_the_last(tmp_path, monkeypatch):
    clock, kept = [0.0], []
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: clock[0])
    checkpoint = Checkpoint(tmp_path, "classify", 1)
    monkeypatch.setattr(checkpoint, "save", lambda *_: kept.append(clock[0]))
    with checkpoint.kept(lambda: 0) as look:
        for clock[0] in (30, 59, 61, 90, 120, 121, 150):
            look()
    assert kept == [61, 121]


def test_a_folder_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    checkpoint = saved(tmp_path / "file/state", 1, 2)
    said = capsys.readouterr().err
    assert said.count(f"checkpoint {checkpoint.path} cannot be written") == 1 and checkpoint.load() is None


def test_averages_lie_in_memory_as_their_parameters_do():
    """A fused step walks through both alike, whatever layout a file gave them."""
    parameter = torch.nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.randn(2, 3, 4, 5)
    optimizer.step()
    state = optimizer.state_dict()
    wanted = {name: state["state"][0][name].clone() for name in ("exp_avg", "exp_avg_sq")}
    state["state"][0] |= {name: value.contiguous() for name, value in wanted.items()}
    restore_optimizer(optimizer, state)
    for name, value in wanted.items():
        found = optimizer.state[parameter][name]
        assert found.stride() == parameter.stride() and torch.equal(found, value)


def test_draws_go_on_where_they_were():
    own = torch.Generator().manual_seed(1)
    before, states = random_state(), generator_states([own])
    wanted = torch.rand(3), torch.rand(3, generator=own)
    restore_random(before)
    restore_generators([own], states)
    assert torch.equal(torch.rand(3), wanted[0]) and torch.equal(torch.rand(3, generator=own), wanted[1])


@pytest.mark.parametrize("block", [Termination, exit_on_sigterm])
def test_sigterm_means_afterwards_what_it_meant_before(block):
    before = signal.getsignal(signal.SIGTERM)
    with block():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
