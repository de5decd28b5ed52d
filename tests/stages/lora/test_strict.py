"""What must stop a run does, and says which image and what to do."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from cgddi.core.archive import Archive
from cgddi.core.errors import InvalidInput, UserError
from cgddi.core.images import RULER
from cgddi.diffusion.backbone import Backbone
from cgddi.diffusion.data import caption, read_canvases, read_photos
from cgddi.diffusion.train import Network
from cgddi.stages.lora.settings import LoraSettings
from cgddi.stages.lora.train import choose_priors, train_lora, unmoved_layers

from tests.diffusion import tiny


def test_not_a_number_names_step_images_and_checkpoint(world, tmp_path, monkeypatch):
    real, count = Network.forward, iter(range(100))

    def forward(self, *args):
        found = real(self, *args)
        spoilt = torch.arange(len(found)).reshape(-1, 1, 1, 1) == 1
        return torch.where(spoilt, torch.nan, found) if next(count) == 4 else found

    monkeypatch.setattr(Network, "forward", forward)
    with pytest.raises(UserError, match=r"at step 5 of 6; images: p00\d\. Last good checkpoint: step 4 .*lora-"):
        train_lora(world.job(output=str(tmp_path / "out")), state=tmp_path / "state")
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_did_not_move(world, tmp_path):
    with pytest.raises(UserError, match="did not move"):
        train_lora(world.job(output=str(tmp_path / "out"), learning_rate=1e-30))


def test_an_adapter_that_hardly_moved(world, tmp_path):
    with pytest.raises(UserError, match=r"did not move: B is below 1e-07 in \d+ of \d+ layers, unet\."):
        train_lora(world.job(output=str(tmp_path / "out"), learning_rate=5e-9))
    assert not (tmp_path / "out").exists()


def test_one_layer_that_moved_hides_no_others():
    moved, still = torch.full((4, 2), 1e-3), torch.full((4, 2), 1e-9)
    tensors = {f"unet.l{n}.lora_{end}.weight": moved for n in range(4) for end in "AB"}
    assert unmoved_layers("nevus", tensors) == []
    tensors["unet.l3.lora_B.weight"] = still
    assert unmoved_layers("nevus", tensors) == ["unet.l3"]
    tensors["unet.l1.lora_B.weight"] = still
    with pytest.raises(UserError, match="in 2 of 4 layers, unet.l1 first"):
        unmoved_layers("nevus", tensors)
    with pytest.raises(UserError, match="not finite"):
        unmoved_layers("nevus", {**tensors, "unet.l0.lora_A.weight": torch.full((2, 4), torch.nan)})


def test_weight_decay_alone_does_not_count_as_learning(world, tmp_path, monkeypatch):
    """Without a gradient a token shrinks; the error must come all the same."""
    settings = {**tiny.TI, "weight_decay": 1.0, "lr_schedule": "cosine", "warmup": 2}
    spec = tiny.spec_for("embedding", world.model, world.images, **settings)
    real = Backbone.encode_ids
    monkeypatch.setattr(Backbone, "encode_ids", lambda self, ids: _cut(real(self, ids)))
    with pytest.raises(UserError, match="still its initial word .*vector 1 of 1"):
        tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path)


def _cut(prompts):
    """The same numbers; their gradient is lost."""
    return dataclasses.replace(prompts, embeds=prompts.embeds.detach() + 0 * prompts.embeds)


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
    first, second, absent = map(str, error.value.problems)
    assert "image absent" in absent and "not the archive that its record names" in first + second
    assert "cannot read p002 (" in first + second and "does not match its manifest" in first + second


def test_single_image_concept(world, tmp_path):
    spec = tiny.spec_for("embedding", world.model, world.images[:1], "alone", **tiny.TI)
    tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path / "ti")
    job = world.job("alone", str(tmp_path / "lora"), tmp_path / "ti/learned_embeds.safetensors")
    job = dataclasses.replace(job, spec={**job.spec, "images": world.images[:1]})
    assert train_lora(job)["training_images"] == world.images[:1]


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
        train_lora(world.job(output=str(tmp_path / "out"), **settings))


@pytest.mark.parametrize("token", ["lesion</w>", "lesion", "Skin"])
def test_known_word_as_token_is_refused(world, tmp_path, token):
    spec = tiny.spec_for("embedding", world.model, world.images, **tiny.TI)
    spec["concept"] = {**spec["concept"], "token": token}
    with pytest.raises(UserError, match="vocabulary"):
        tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path)


def test_priors_need_canvases(world, tmp_path):
    job = dataclasses.replace(world.job(output=str(tmp_path / "out")), canvases=[])
    with pytest.raises(UserError, match="no healthy canvas"):
        train_lora(job)


def test_balanced_and_published_priors(world):
    canvases = read_canvases([world.root / "canvases.tar"], None)
    balanced = choose_priors(canvases, LoraSettings(prior_per_tone=1), 7, 1)
    assert sorted(p.tone for p in balanced) == ["dark", "light", "medium"]
    paper = LoraSettings(priors="published", instances=1)
    published = choose_priors(canvases, paper, 7, 3)
    assert [(p.id, p.tone) for p in published] == [("c000", "light"), ("c003", "light"), ("c001", "medium")]
    assert [p.id for p in choose_priors(canvases, paper, 7, 1)] == ["c000"], "as many as photos, not as the batch"
    assert len(choose_priors(canvases, LoraSettings(priors="published", prior_per_tone=2), 7, 6)) == 2


def test_captions_follow_the_masks(world):
    photos = {p.id: p for p in read_photos([world.root / "masks.tar"])}
    prompts = {name: caption(LoraSettings().prompt, photo, LoraSettings(), "<t>") for name, photo in photos.items()}
    assert (
        prompts["p000"]
        == "An image of <t> on the skin of a light-skinned individual deliniated with marker and a ruler"
    )
    assert prompts["p001"] == "An image of <t> on the skin of a medium-skinned individual"
    assert prompts["p002"].endswith("dark-skinned individual with a ruler")
    assert prompts["p003"].endswith("light-skinned individual deliniated with marker")


def test_captions_of_canvases_name_their_rulers(world):
    canvases = {p.id: p for p in read_canvases([world.root / "canvases.tar"], None)}
    plain = canvases["c001"]
    mask = plain.mask.copy()
    mask[:3] = RULER
    ruled = dataclasses.replace(plain, mask=mask)
    for priors in ("balanced", "published"):
        settings = LoraSettings(priors=priors)
        assert (
            caption(settings.class_prompt, plain, settings) == "An image of healthy skin on a medium-skinned individual"
        )
        assert (
            caption(settings.class_prompt, ruled, settings)
            == caption(settings.class_prompt, plain, settings) + " with a ruler"
        )
    plainly = LoraSettings(suffixes=False)
    assert caption(plainly.class_prompt, ruled, plainly) == caption(plainly.class_prompt, plain, plainly)
