"""Files of other models, concepts and programs: used when they fit, refused with the reason when they do not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from cgddi.core.archive import Archive
from cgddi.core.errors import UserError
from cgddi.core.images import LESION, RULER, SKIN
from cgddi.core.lineage import lineage
from cgddi.diffusion.adapters import LoadedAdapter, apply, read_adapter
from cgddi.diffusion.backbone import load
from cgddi.diffusion.data import read_photos, training_facts
from cgddi.diffusion.log import header
from cgddi.diffusion.tokens import read_embedding
from cgddi.diffusion.weights import read_tensors
from cgddi.stages.embedding.settings import EmbeddingSettings
from cgddi.stages.lora.settings import LoraSettings
from cgddi.stages.lora.train import train_lora
from cgddi.stages.semantic.sample import SemanticJob, sample_concept
from safetensors.torch import load_file, save_file

from tests.diffusion import tiny

CPU = torch.device("cpu")


def draw(world, output, embedding=None, lora=None, model=None):
    spec = tiny.spec_for("semantic", model or world.model, world.images, **{**tiny.SEMANTIC, "max_canvases": 1})
    canvases = [world.root / "canvases.tar"]
    sample_concept(SemanticJob(spec, canvases, None, embedding or world.embedding, lora or world.lora, output))
    return Archive(output)


def test_files_of_another_base_model_are_refused(world, tmp_path):
    other = tiny.make_model(tmp_path / "other", seed=5)
    with pytest.raises(
        UserError, match="pytorch_lora_weights.safetensors: trained on another base model .*Train it again"
    ):
        draw(world, tmp_path / "a.tar", model=other)
    save_file(load_file(world.embedding), tmp_path / "published.safetensors")  # no header of ours
    with pytest.raises(UserError, match="pytorch_lora_weights.safetensors: trained on another base model"):
        draw(world, tmp_path / "a.tar", tmp_path / "published.safetensors", model=other)
    job = world.job(output=str(tmp_path / "out"))
    job.spec["model"]["source"] = str(other)
    with pytest.raises(UserError, match="learned_embeds.safetensors: trained on another base model"):
        train_lora(job)


def test_a_token_of_another_concept_is_refused(world, tmp_path):
    save_file({"<bcc>": torch.ones(1, tiny.HIDDEN)}, tmp_path / "bcc.safetensors")
    for file, token in ((tmp_path / "bcc.safetensors", "<nevus>"), (world.embedding, "<bcc>")):
        with pytest.raises(UserError, match=f"holds the token <(bcc|nevus)>, but {token} is wanted.*disease sheet"):
            read_embedding(file, token)
    save_file({"emb_params": torch.ones(2, tiny.HIDDEN)}, tmp_path / "others.safetensors")
    assert read_embedding(tmp_path / "others.safetensors", "<nevus>")[0] == "<nevus>", "named by no concept"
    save_file({"<nevus>": torch.full((1, tiny.HIDDEN), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match="not finite"):
        read_embedding(tmp_path / "nan.safetensors", "<nevus>")


LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
BAD = {
    "output width": ({f"{LAYER}.lora_B.weight": torch.zeros(99, 4)}, r"layer \S*to_q has weights \(16, 16\)"),
    "input width": ({f"{LAYER}.lora_A.weight": torch.zeros(4, 99)}, r"layer \S*to_q has weights \(16, 16\)"),
    "two ranks": ({f"{LAYER}.lora_B.weight": torch.zeros(16, 7)}, "do not multiply"),
    "a convolution's": ({f"{LAYER}.lora_B.weight": torch.zeros(16, 4, 1, 1)}, "do not multiply"),
    "a container": (
        {"unet.mid_block.lora_A.weight": torch.zeros(2, 4), "unet.mid_block.lora_B.weight": torch.zeros(4, 2)},
        "layer mid_block is not there",
    ),
    "not a number": ({f"{LAYER}.lora_B.weight": torch.full((16, 4), torch.nan)}, "not finite"),
    "a stray alpha": ({"unet.nothing.alpha": torch.tensor(4.0)}, "nothing.alpha is no alpha of a LoRA layer"),
    "text": (
        {
            f"text_encoder.encoder.layers.0.self_attn.q_proj.lora_{end}.weight": torch.zeros(shape)
            for end, shape in (("A", (2, 9)), ("B", (9, 2)))
        },
        "does not fit this base model",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_adapters_that_do_not_fit_are_refused(world, tmp_path, kind):
    change, message = BAD[kind]
    save_file({**load_file(world.lora), **change}, tmp_path / "x.safetensors")
    backbone = load({"source": str(world.model)}, CPU)
    with pytest.raises(UserError, match=message):
        apply(backbone, read_adapter(tmp_path / "x.safetensors"))


def test_alphas_count_in_files_with_a_text_encoder_too(world, tmp_path):
    """alpha = r / 2 with doubled up matrices is the same adapter."""
    draw, tensors, changed = torch.Generator().manual_seed(0), load_file(world.lora), {}
    for layer in ("q_proj", "v_proj"):
        name = f"text_encoder.encoder.layers.0.self_attn.{layer}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, tiny.HIDDEN, generator=draw)
        tensors[f"{name}.lora_B.weight"] = torch.randn(tiny.HIDDEN, 2, generator=draw)
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    for name, value in tensors.items():
        changed[name] = value * 2 if "lora_B" in name else value
        if "lora_B" in name:
            changed[name.replace("lora_B.weight", "alpha")] = torch.tensor(value.shape[1] / 2)
    save_file(changed, tmp_path / "alphas.safetensors")
    backbone = load({"source": str(world.model)}, CPU)
    x, steps, names = torch.randn(1, 4, 16, 16), torch.tensor([500]), ["An image of lesion"]
    seen = []
    for file in ("pytorch_lora_weights.safetensors", "alphas.safetensors"):
        applied = apply(backbone, read_adapter(tmp_path / file))
        assert isinstance(applied, LoadedAdapter)
        with torch.no_grad():
            prompts = backbone.encode_prompts(names)
            seen.append((prompts.embeds, backbone.denoise(x, steps, prompts)))
        applied.remove()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*seen, strict=True))
    plain = backbone.encode_prompts(names)
    assert not torch.allclose(plain.embeds, seen[0][0], atol=1e-4)
    modules = {name for name, _ in backbone.denoiser.named_modules()}
    assert not any("base_layer" in name for name in modules), "another adapter finds the plain layers again"
    apply(backbone, read_adapter(world.lora)).remove()


def test_an_adapter_without_a_record_draws(world, tmp_path, capsys):
    """Ours says in its header what it was trained on; what a published one draws, no split's index will take."""
    for folder, metadata in (("ours", read_tensors(world.lora)[1]), ("published", None)):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "pytorch_lora_weights.safetensors"
        save_file({f"unet.{name}": value for name, value in load_file(world.lora).items()}, file, metadata)
        archive = draw(world, tmp_path / f"{folder}.tar", lora=file)
        if metadata:
            assert archive.record["generator_images"] == world.images
            assert set(archive.record["prior_images"]) <= set(world.canvases) and archive.record["prior_images"]
        else:
            assert "says nowhere which images it was trained on" in capsys.readouterr().err
            with pytest.raises(UserError, match="names no training images"):
                lineage(archive.rows[0], archive.record)
    (tmp_path / "ours/record.json").write_text("{")
    with pytest.raises(UserError, match="record.json: is no record"):
        draw(world, tmp_path / "b.tar", lora=tmp_path / "ours/pytorch_lora_weights.safetensors")


def test_headers_name_versions_and_data(world, tmp_path):
    photos = read_photos([world.root / "masks.tar"], world.images)
    for file in (world.embedding, world.lora):
        _, facts = read_tensors(file)
        versions = json.loads(facts["cgddi.versions"])
        assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
        assert {"diffusers", "transformers"} <= set(versions)
        assert len(json.loads(facts["cgddi.data_sha256"])) == 64
    facts = training_facts(photos, EmbeddingSettings(**tiny.TI))
    assert header({}, facts)["cgddi.data_sha256"] == read_tensors(world.embedding)[1]["cgddi.data_sha256"]


@pytest.mark.parametrize(
    ("settings", "lesion", "ruler"),
    [
        (
            EmbeddingSettings(),
            False,
            False,
        ),  # published: masks are for captions alone, and a token's say nothing of rulers
        (LoraSettings(), False, True),
        (LoraSettings(suffixes=False), False, False),
        (LoraSettings(lesion_weight=5), True, True),
        (LoraSettings(ignore_mask_classes=["ruler"], suffixes=False), True, True),
    ],
)
def test_a_training_depends_on_what_of_a_mask_it_uses(world, settings, lesion, ruler):
    """A corrected pixel of a lesion, and one of a ruler where there was none: whether the training is another one."""
    (photo,) = read_photos([world.root / "masks.tar"], world.images[:1])
    bare = dataclasses.replace(photo, row={}, mask=np.full_like(photo.mask, SKIN))
    facts = training_facts([bare], settings)
    for number, changes in ((LESION, lesion), (RULER, ruler)):
        mask = bare.mask.copy()
        mask[3, 4] = number
        assert (training_facts([dataclasses.replace(bare, mask=mask)], settings) != facts) is changes
    assert training_facts([dataclasses.replace(bare, sha256="0" * 64)], settings) != facts
    assert training_facts([dataclasses.replace(bare, tone="unknown")], settings) != facts
