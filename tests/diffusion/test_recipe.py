"""What a training is made of, against a second writing of it (reference.py): uneven tones, every setting in force.

Who is drawn and how often, mirrored or not, with which caption, timestep, noise, loss weight; the weight of priors, and which they
are; clipping, decay, rate and its schedule; where the adapter starts and which row of the token table moves.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from cgddi.core.archive import ArchiveWriter
from cgddi.core.images import encode_png
from cgddi.diffusion.adapters import read_adapter
from cgddi.diffusion.tokens import read_embedding
from cgddi.stages.embedding.settings import EmbeddingSettings
from cgddi.stages.lora.settings import LoraSettings

from tests.diffusion import reference, tiny

TONES_OF_PHOTOS = ["light"] * 5 + ["medium"] * 2 + ["dark"]
TONES_OF_CANVASES = ["light"] * 2 + ["medium"] * 3 + ["dark"] * 5
PROMPTS = ("An image of {token} on {tone} skin", "a photo of {token}")


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image as the reference sees it."""

    id: str
    tone: str
    pixels: object
    mask: object


def archive(path, tones, prefix, start) -> list[Picture]:
    """Photos with discs, rulers and markers, tones as given; marks are told by the masks alone."""
    made = []
    with ArchiveWriter(path, {"stage": "masks"}) as writer:
        for number, tone in enumerate(tones):
            pixels, mask = tiny.photo(start + number, tone)
            made.append(Picture(f"{prefix}{number:02}", tone, pixels, mask))
            row = {"image_id": made[-1].id, "tone": tone}
            writer.add(made[-1].id, {"png": encode_png(pixels), "mask.png": encode_png(mask)}, row)
    return made


@pytest.fixture(scope="module", params=["v_prediction", "epsilon"])
def place(request, tmp_path_factory):
    """Folder, model, photos and canvases."""
    root = tmp_path_factory.mktemp("recipe")
    model = tiny.make_model(root / "model", prediction=request.param, zero_snr=request.param == "v_prediction")
    photos = archive(root / "masks.tar", TONES_OF_PHOTOS, "p", 0)
    return root, model, photos, archive(root / "canvases.tar", TONES_OF_CANVASES, "c", 50)


COMMON = {
    "precision": "fp32",
    "image_size": tiny.SIZE,
    "steps": 3,
    "weight_decay": 0.4,
    "lesion_weight": 6.0,
    "ignore_mask_classes": ["ruler", "marker"],
    "suffixes": True,
    "log_every": 1,
}  # fmt: skip
TOKENS = {
    "": {"warmup": 2, "steps": 4},
    "published": {"tone_exponent": 0.0, "scale_lr": True, "hflip": 0.5, "suffixes": False, "lesion_weight": 1.0},
}
ADAPTERS = {
    "": {"prior_tone_exponent": 2.0, "prior_per_tone": 4, "warmup": 1},
    "published": {"hflip": 0.0, "prior_weight": 1.0, "clip": 1.0, "lr_schedule": "constant", "lesion_weight": 1.0},
}


@pytest.mark.parametrize("change", TOKENS)
def test_a_token_is_what_the_recipe_says(place, tmp_path, change):
    root, model, photos, _ = place
    settings = {
        **COMMON, "init_token": "lesion", "batch": 3, "accumulation": 2, "learning_rate": 3e-3, "scale_lr": False,
        "lr_schedule": "cosine", "hflip": 0.3, "tone_exponent": 0.7, "clip": 0.02, "prompts": PROMPTS, **TOKENS[change],
    }  # fmt: skip
    spec = tiny.spec_for(
        "embedding", model, [p.id for p in photos], "nevus", **settings, validate_every=0, grid_every=0
    )
    tiny.train_embedding(spec, [root / "masks.tar"], tmp_path)
    _, (row,) = read_embedding(tmp_path / "learned_embeds.safetensors")
    wanted = reference.learn_token(model, EmbeddingSettings(**settings), 7, "nevus", photos)
    start = reference.Reference(model, EmbeddingSettings(**settings), "<nevus>").table[-1:].detach()
    assert_close(row - start, wanted - start)


@pytest.mark.parametrize("change", ADAPTERS)
def test_an_adapter_is_what_the_recipe_says(place, tmp_path, change):
    root, model, photos, canvases = place
    settings = {
        **COMMON, "rank": 2, "alpha": 6, "target_modules": ["to_q", "to_out.0", "conv1"], "instances": 6,
        "priors_per_step": 4, "prior_weight": 0.3, "prior_per_tone": 2, "accumulation": 2, "learning_rate": 4e-3,
        "lr_schedule": "linear", "clip": 0.05, "hflip": 0.7, "tone_exponent": 0.6, **ADAPTERS[change],
    }  # fmt: skip
    spec = tiny.spec_for(
        "lora", model, [p.id for p in photos], "nevus", **settings, grid_steps=2, grid_columns=1, validate_every=0
    )
    left_out = reference.priors_of(canvases, LoraSettings(**settings), 7)[
        -1
    ]  # would be one, were it not a test photo's
    split = tmp_path / "split.csv"
    split.write_text("image_id,role\n" + "".join(f"{c.id},{'test' if c is left_out else 'train'}\n" for c in canvases))
    rows = torch.linspace(-0.05, 0.05, tiny.HIDDEN)[None]
    tiny.write_token(tmp_path / "token.safetensors", "<nevus>", rows)
    record = tiny.train_adapter(
        spec, [root / "masks.tar"], [root / "canvases.tar"], split, tmp_path / "token.safetensors", tmp_path / "out"
    )
    kept = [c for c in canvases if c is not left_out]
    assert record["prior_images"] == [c.id for c in reference.priors_of(kept, LoraSettings(**settings), 7)]
    found = read_adapter(tmp_path / "out/pytorch_lora_weights.safetensors")
    wanted = reference.learn_adapter(model, LoraSettings(**settings), 7, "nevus", photos, kept, rows)
    assert found.down.keys() == wanted.keys()
    for part, place_in in ((found.down, 0), (found.up, 1)):
        mine, theirs = (
            torch.cat([values[name].flatten() for name in sorted(wanted)])
            for values in (part, {name: both[place_in] for name, both in wanted.items()})
        )
        assert_close(mine, theirs)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal up to rounding, as a whole: AdamW makes much of the rounding of a number that hardly has a gradient."""
    assert float((found - wanted).norm() / wanted.norm()) < 5e-3
