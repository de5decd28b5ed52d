"""Latents and text embeddings are computed once, and are the same whoever computed them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cgddi.core.images import LESION, RULER
from cgddi.diffusion.backbone import load
from cgddi.diffusion.cache import Store
from cgddi.diffusion.data import latents_of, loss_weights, prompts_of, read_photos
from cgddi.diffusion.settings import TrainingSettings
from cgddi.job.store import prune

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
    assert not torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    (kept,) = store._kept.values()
    assert (kept.reused, kept.computed) == (1, 3)


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
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_tensors_come_back_as_they_were_made_of_the_same_alone(tmp_path):
    made = {"mean": torch.tensor([[1.5, -0.0], [float("inf"), 3e-39]]), "std": torch.arange(3, dtype=torch.float16)}
    assert Store(tmp_path).get("latents", 1, lambda: made) is made

    def again(kind="latents", facts=1, root=tmp_path):
        return Store(root).get(kind, facts, lambda: {})

    back = again()
    assert back.keys() == made.keys()
    assert all(torch.equal(back[n], made[n]) and back[n].dtype == made[n].dtype for n in made)
    back["mean"] += 1  # a job's own, to change
    assert torch.equal(again()["mean"], made["mean"])
    assert again(kind="prompts") == again(facts=2) == again(root=None) == {}


def test_the_caches_limit_bounds_them(tmp_path):
    Store(tmp_path).get("latents", 1, lambda: {"mean": torch.zeros(1000)})
    assert prune(tmp_path, 1) == 0 and prune(tmp_path, 0) == 1
