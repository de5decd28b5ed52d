"""Tokens and adapters are kept by all that made them: the same photos and priors train nothing again, to the same bytes."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.diffusion.train import Trainer
from cgddi.job.store import MadeStore, prune
from cgddi.stages.lora.train import train_lora

from tests.diffusion import tiny

FILES = ("pytorch_lora_weights.safetensors", "samples.png", "metrics.jsonl", "record.json")


def with_another(source, target):
    """A copy of an archive with one more image, which no job here learns from."""
    archive = Archive(source)
    with ArchiveWriter(target, {"stage": "masks"}) as out:
        for number, row in enumerate([*archive.rows, archive.rows[0]]):
            members = {suffix: archive.read(row, suffix) for suffix in row["members"]}
            facts = {name: value for name, value in row.items() if name not in ("key", "members", "sha256")}
            key = row["key"] if number < len(archive.rows) else "other"
            out.add(key, members, facts if key != "other" else {**facts, "image_id": "other"})
    return target


def test_a_corrected_batch_trains_no_adapter_or_token_that_does_not_see_it(world, tmp_path, monkeypatch):
    cache, job = tmp_path / "cache", world.job(output=str(tmp_path / "a"))
    train_lora(job, cache=cache)
    for name in FILES[:3]:
        assert (job.output / name).read_bytes() == (world.root / "lora" / name).read_bytes(), "with a store or without"
    token = tiny.spec_for("embedding", world.model, world.images, **tiny.TI)
    tiny.train_embedding(token, [world.root / "masks.tar"], tmp_path / "t", cache=cache)
    photos = [with_another(world.root / "masks.tar", tmp_path / "new/masks.tar")]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", lambda *_: pytest.fail("it is trained again"))
        used = {}
        again = replace(job, photos=photos, output=tmp_path / "b")
        train_lora(again, cache=cache, used=used)
        tiny.train_embedding(token, photos, tmp_path / "u", cache=cache)
    assert used == {"steps": 0, "reused": 1}
    for name in FILES[:3]:
        assert (again.output / name).read_bytes() == (job.output / name).read_bytes()
    name = "learned_embeds.safetensors"
    assert (tmp_path / "u" / name).read_bytes() == (tmp_path / "t" / name).read_bytes()
    old, new = (json.loads((folder / "record.json").read_text()) for folder in (job.output, again.output))
    assert {name for name in old if old[name] != new[name]} == {"inputs"}
    assert str(photos[0]) in new["inputs"]


def test_other_priors_or_settings_train_anew(world, tmp_path, monkeypatch):
    """The key holds them: nothing is found in a store that has the first."""
    cache, job = tmp_path / "cache", world.job(output=str(tmp_path / "a"), steps=1, grid_steps=2)
    train_lora(job, cache=cache)
    tiny.make_canvases(tmp_path / "canvases.tar", 5)
    others = [
        replace(job, canvases=[tmp_path / "canvases.tar"], output=tmp_path / "b"),
        world.job(output=str(tmp_path / "c"), steps=1, grid_steps=2, learning_rate=2e-2),
    ]
    for other in others:
        used = {}
        train_lora(other, cache=cache, used=used)
        assert used == {"steps": 1}


def test_the_store_keeps_what_was_used_last_and_believes_only_whole_entries(tmp_path):
    store = MadeStore(tmp_path, "semantic", ["facts"])
    for number in range(4):
        store.put({"png": bytes([number]) * 1000}, {"seed": number}, number)
    entries = {int.from_bytes(path.read_bytes()[-1:]): path for path in tmp_path.glob("made/*/*/*")}
    for number, path in entries.items():
        os.utime(path, (1000 + number, 1000 + number))
    assert store.get(0).files == {"png": b"\0" * 1000} and store.get(0).facts == {"seed": 0}  # used last
    assert MadeStore(tmp_path, "semantic", ["other"]).get(0) is None
    assert MadeStore(tmp_path, "semantic", ["facts"], "cuda").get(0) is None
    size = sum(path.stat().st_size for path in entries.values())
    assert prune(tmp_path, (size * 0.6) / 1e9) == 2
    assert [store.get(number) is not None for number in range(4)] == [True, False, False, True]
    data = bytearray(entries[3].read_bytes())
    data[-1] ^= 1
    entries[3].write_bytes(data)
    assert store.get(3) is None and (store.computed, store.reused) == (4, 4)
    assert prune(tmp_path, 0) == 2
