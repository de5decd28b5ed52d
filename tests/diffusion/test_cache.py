"""Latents and text embeddings are computed once, and are the same whoever computed them."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cgddi.core.images import LESION, RULER
from cgddi.diffusion import cache
from cgddi.diffusion.backbone import load
from cgddi.diffusion.cache import Store
from cgddi.diffusion.data import latents_of, loss_weights, prompts_of, read_photos
from cgddi.diffusion.settings import TrainingSettings
from safetensors.torch import save_file

from tests.diffusion import tiny


@pytest.fixture
def backbone(world):
    return load({"source": str(world.model)}, torch.device("cpu"))


def test_latents_are_encoded_once(world, backbone, tmp_path, monkeypatch):
    photos = read_photos([world.root / "masks.tar"])
    first = latents_of(backbone, Store(tmp_path), photos[:2], tiny.SIZE, True)
    every = latents_of(backbone, Store(tmp_path), photos, tiny.SIZE, True)
    assert torch.equal(every[0][:2], first[0]), "company must not matter"
    monkeypatch.setattr(type(backbone), "encode_images", lambda *_: pytest.fail("encoded again"))
    again = latents_of(backbone, Store(tmp_path), photos, tiny.SIZE, True)
    assert torch.equal(again[0], every[0]) and torch.equal(again[1], every[1])
    with pytest.raises(BaseException, match="encoded again"):
        latents_of(backbone, Store(tmp_path), photos, tiny.SIZE, False)


def test_loss_weights_follow_the_mask(world):
    photo = read_photos([world.root / "masks.tar"])[0]
    weights = loss_weights(
        [photo], tiny.SIZE, tiny.SIZE, TrainingSettings(lesion_weight=5, ignore_mask_classes=["ruler"])
    )[0]
    mask = torch.from_numpy(photo.mask.copy())
    assert (weights[0, 0][mask == RULER] == 0).all()
    ratio = weights[0, 0][mask == LESION].mean() / weights[0, 0][(mask != LESION) & (mask != RULER)].mean()
    assert ratio == pytest.approx(5) and float(weights[0].mean()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(weights[1], weights[0].flip(-1))


def test_a_prompt_with_another_token_value_is_encoded_anew(world, backbone, tmp_path):
    other = load({"source": str(world.model)}, torch.device("cpu"))
    backbone.add_token("<t>", [torch.ones(1, tiny.HIDDEN)])
    other.add_token("<t>", [torch.zeros(1, tiny.HIDDEN)])
    store = Store(tmp_path)
    one, two = (prompts_of(b, store, ["a photo of <t>", "a photo"]).embeds for b in (backbone, other))
    assert not torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and (store.hits, store.misses) == (1, 3)


def test_a_token_of_several_vectors(backbone):
    backbone.add_token("<t>", [torch.randn(3, tiny.HIDDEN, generator=torch.Generator().manual_seed(0))])
    (ids,) = backbone.tokenize(["a photo of <t>"])
    new = ids[ids >= backbone.tokenizers[0].convert_tokens_to_ids("<t>")]
    assert len(set(new.tolist())) == 3


def test_concurrent_jobs_share_a_store(tmp_path):
    def work(_):
        return Store(tmp_path).get("latents", ["same"], lambda: {"x": torch.arange(10_000.0)})["x"].sum()

    with ThreadPoolExecutor(8) as pool:
        assert len({float(value) for value in pool.map(work, range(32))}) == 1
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1 and not list(tmp_path.rglob("*.tmp"))


ONES = {"mean": torch.ones(20), "std": torch.zeros(3)}


def entry(tmp_path):
    Store(tmp_path).get("latents", 1, lambda: ONES)
    return Store(tmp_path).path("latents", 1)


def read_again(tmp_path):
    """What a later job gets, and whether it had to compute it."""
    store = Store(tmp_path)
    found = store.get("latents", 1, lambda: ONES)
    assert found.keys() == ONES.keys() and all(torch.equal(found[name], ONES[name]) for name in ONES)
    return store.misses


def test_a_changed_or_cut_entry_is_made_again(tmp_path):
    path = entry(tmp_path)
    good = path.read_bytes()
    for place in range(0, len(good), 7):  # a bit of the header that means nothing may be another; values never
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x40]) + good[place + 1 :])
        made = read_again(tmp_path)
        assert made or place < len(good) - 23 * 4
        path.write_bytes(good)
    for bad in (b"", b"cut", good[:-9], bytes(4096)):
        path.write_bytes(bad)
        assert read_again(tmp_path) == 1
    assert read_again(tmp_path) == 0


def test_an_entry_of_something_else_is_made_again(tmp_path):
    path = entry(tmp_path)
    save_file({"other": torch.zeros(3)}, path)
    assert read_again(tmp_path) == 1
    other = Store(tmp_path)
    other.get("latents", 2, lambda: {"mean": torch.zeros(5)})
    path.write_bytes(other.path("latents", 2).read_bytes())
    assert read_again(tmp_path) == 1


def test_a_cache_that_cannot_be_written_does_not_stop_the_job(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file")
    for number in range(3):
        assert torch.equal(store.get("latents", number, lambda: ONES)["mean"], ONES["mean"])
    assert len(capsys.readouterr().err.splitlines()) == 1, "one plain line, once"

    path = entry(tmp_path / "cache")
    path.unlink()
    path.mkdir()
    assert read_again(tmp_path / "cache") == 1 and "going on without it" in capsys.readouterr().err

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert read_again(tmp_path / "full") == 1
    assert "No space left on device; going on without it" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "full").rglob("*") if path.is_file()], "no temporaries"


def test_other_library_versions_are_other_entries(tmp_path, monkeypatch):
    entry(tmp_path)
    assert read_again(tmp_path) == 0
    monkeypatch.setattr(cache, "_versions", lambda: {"torch": "1.0"})
    assert read_again(tmp_path) == 1


def test_leftovers_of_killed_jobs_go_after_a_day(tmp_path):
    path = entry(tmp_path)
    old, young = path.with_name(".a.safetensors.0123456789ab.tmp"), path.with_name(f".{path.name}.0123456789ab.tmp")
    for left in (old, young):
        left.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    Store(tmp_path).get("latents", 2, lambda: ONES)
    path.unlink()
    assert read_again(tmp_path) == 1
    assert young.exists() and not old.exists(), "another job may be writing the young one now"
