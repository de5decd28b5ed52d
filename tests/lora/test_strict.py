"""What must stop a run does, and says which image and what to do."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from cgddi.artefacts import Archive
from cgddi.diffusion import objective
from cgddi.errors import InvalidInput, UserError
from cgddi.lora import data
from cgddi.lora.settings import PAPER, LoraSettings
from cgddi.lora.train import train_lora

from tests.diffusion import tiny


def test_not_a_number_names_step_images_and_checkpoint(world, tmp_path, monkeypatch):
    real, count = objective.Objective.each, iter(range(100))

    def each(self, batch):
        found = real(self, batch)
        return torch.where(torch.arange(len(found)) == 1, torch.nan, found) if next(count) == 4 else found

    monkeypatch.setattr(objective.Objective, "each", each)
    with pytest.raises(UserError, match=r"at step 5 of 6; images: p00\d\. Last good checkpoint: step 4 .*lora-"):
        train_lora([world.job(output=str(tmp_path / "out"))], state=tmp_path / "state")
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_did_not_move(world, tmp_path):
    with pytest.raises(UserError, match="did not move"):
        train_lora([world.job(output=str(tmp_path / "out"), learning_rate=1e-30)])


def test_a_token_that_stayed_where_it_started(world, tmp_path):
    spec = tiny.spec_for("embedding", world.model, world.images, **{**tiny.TI, "learning_rate": 1e-30})
    with pytest.raises(UserError, match="still its initial word"):
        tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path)


def test_unreadable_and_missing_photos_are_all_named_before_training(world, tmp_path):
    archive = tmp_path / "masks.tar"
    ids = tiny.make_photos(archive)
    data_, row = bytearray(archive.read_bytes()), Archive(archive).rows[2]
    data_[row["members"]["png"][0] + 40] ^= 255
    archive.write_bytes(data_)
    spec = tiny.spec_for("embedding", world.model, [*ids, "absent"], **tiny.TI)
    with pytest.raises(InvalidInput) as error:
        tiny.train_embedding(spec, [archive], tmp_path / "out")
    assert "p002" in str(error.value) and "absent" in str(error.value) and len(error.value.problems) == 2


def test_single_image_concept(world, tmp_path):
    spec = tiny.spec_for("embedding", world.model, world.images[:1], "alone", **tiny.TI)
    tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path / "ti")
    job = world.job("alone", str(tmp_path / "lora"), tmp_path / "ti/learned_embeds.safetensors")
    job = dataclasses.replace(job, spec={**job.spec, "images": world.images[:1]})
    assert train_lora([job])[0]["training_images"] == world.images[:1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rnak": 4}, "rnak"),
        ({"image_size": 30}, "image_size 30 is not a multiple of 4"),
        ({"target_modules": ["to_x"]}, "no layer of this base model ends in 'to_x'"),
        ({"prompt": "a {colour}"}, "only {token} and {tone}"),
    ],
)
def test_bad_settings_are_explained(world, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        train_lora([world.job(output=str(tmp_path / "out"), **settings)])


def test_known_word_as_token_is_refused(world, tmp_path):
    spec = tiny.spec_for("embedding", world.model, world.images, **tiny.TI)
    spec["concept"] = {**spec["concept"], "token": "lesion</w>"}
    with pytest.raises(UserError, match="vocabulary"):
        tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path)


def test_priors_need_canvases(world, tmp_path):
    job = dataclasses.replace(world.job(output=str(tmp_path / "out")), canvases=[])
    with pytest.raises(UserError, match="no healthy canvas"):
        train_lora([job])


def test_balanced_and_published_priors(world):
    canvases = data.read_canvases([world.root / "canvases.tar"], None)
    balanced = data.choose_priors(canvases, LoraSettings(prior_per_tone=1), 7)
    assert sorted(p.tone for p in balanced) == ["dark", "light", "medium"]
    published = data.choose_priors(canvases, LoraSettings(**PAPER, instances=1), 7)
    assert [p.tone for p in published] == ["light"] and published[0].id == "c000"
    assert LoraSettings(**PAPER).learning_rate == 5e-6 and LoraSettings().learning_rate == 1e-4


def test_captions_follow_the_masks(world):
    photos = {p.id: p for p in data.read_photos([world.root / "masks.tar"])}
    prompts = {name: data.instance_prompt(photo, LoraSettings(), "<t>") for name, photo in photos.items()}
    assert (
        prompts["p000"]
        == "An image of <t> on the skin of a light-skinned individual with a ruler deliniated with marker"
    )
    assert prompts["p001"] == "An image of <t> on the skin of a medium-skinned individual"
    assert prompts["p002"].endswith("dark-skinned individual with a ruler")
