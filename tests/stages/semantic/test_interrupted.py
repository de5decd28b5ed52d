"""The drawing pipeline: order of its work, and what a kill, a damaged file or a failed draw leaves behind."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
import torch
from cgddi.stages.semantic import sample, sampler

from tests.diffusion import tiny
from tests.kill_trials import own_tqdm_lock


def job(world, output, cache=None, used=None, **settings):
    spec = tiny.spec_for("semantic", world.model, world.images, **{**tiny.SEMANTIC, **settings})
    canvases = [world.root / "canvases.tar"]
    sample.sample_concept(
        sample.SemanticJob(spec, canvases, None, world.embedding, world.lora, output), cache, used=used
    )
    return [output.with_suffix(end).read_bytes() for end in (".tar", ".jsonl", ".json")]


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """The archive of an undisturbed job: 9 images in batches of 4."""
    return job(world, tmp_path_factory.mktemp("whole") / "a.tar")


class Slow(sampler.PendingImages):
    """Images that are never here unless waited for, as on a GPU with a full queue."""

    events: list[str]
    spoil: int | None = None

    def __init__(self, images):
        number = sum(event.startswith("launch") for event in self.events)
        self.events.append(f"launch {number}")
        if number == self.spoil:
            images = images.clone()
            images[1] = 0
        super().__init__(images)
        self.number = number

    def ready(self):
        return False

    def wait(self):
        self.events.append(f"wait {self.number}")
        return super().wait()


def test_the_next_batch_is_launched_before_the_last_is_waited_for(world, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(Slow, "events", [], raising=False)
    monkeypatch.setattr(sampler, "PendingImages", Slow)
    assert job(world, tmp_path / "a.tar") == whole
    assert Slow.events == ["launch 0", "launch 1", "wait 0", "launch 2", "wait 1", "wait 2"]


def test_a_failed_draw_is_the_same_redraw_in_and_out_of_line(world, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(Slow, "spoil", 0)
    monkeypatch.setattr(sampler, "PendingImages", Slow)
    late = []
    for here in (False, True):
        monkeypatch.setattr(Slow, "events", [], raising=False)
        monkeypatch.setattr(Slow, "ready", lambda self, here=here: here)
        late.append(job(world, tmp_path / f"{here}.tar"))
    assert late[0] == late[1] != whole


def test_damaged_partial_images_are_drawn_again(world, tmp_path, monkeypatch, whole):
    cache, calls, real = tmp_path / "cache", [], sampler.Sampler.draw

    def second_fails(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(sampler.Sampler, "draw", second_fails)
        with pytest.raises(KeyboardInterrupt):
            job(world, tmp_path / "a.tar", cache)
    kept = sorted(path for path in (cache / "made" / "semantic").rglob("*") if path.is_file())
    assert len(kept) == 8
    kept[0].write_bytes(kept[0].read_bytes()[:-100])  # cut short
    data = bytearray(kept[1].read_bytes())
    data[-9] ^= 1
    kept[1].write_bytes(data)
    used = {}
    assert job(world, tmp_path / "a.tar", cache, used) == whole
    assert used == {"images": 3, "reused": 6}


def test_a_job_killed_by_force_at_random_moments_ends_with_the_same_archive(world, tmp_path, whole):
    """Real processes, forked from this one and killed with SIGKILL; then one that ends."""
    torch.set_num_threads(1)
    draw, cache, output = random.Random(int.from_bytes(os.urandom(4))), tmp_path / "cache", tmp_path / "a.tar"
    began = time.perf_counter()
    job(world, tmp_path / "timed.tar")
    usual, killed = min(time.perf_counter() - began, 3.0), 0
    for moment in (0.05, *(draw.uniform(0.2, 1.1) for _ in range(5))):
        child = os.fork()
        if child == 0:
            try:
                own_tqdm_lock()
                job(world, output, cache)
            finally:
                os._exit(0)
        time.sleep(moment * usual)
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert killed and job(world, output, cache) == whole
