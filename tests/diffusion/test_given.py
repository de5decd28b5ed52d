"""Ready adapters draw in the place of trained ones: files as others publish them, with the lineage that the config declares."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from cgddi.core.archive import Archive
from cgddi.core.errors import UserError
from cgddi.diffusion.given import Shapes, look_into
from cgddi.diffusion.weights import given_files
from cgddi.plan.given import GivenAdapter
from cgddi.stages.semantic.sample import SemanticJob, sample_concept
from safetensors.torch import load_file, save_file

from tests.diffusion import tiny


@pytest.fixture(scope="module")
def released(world, tmp_path_factory):
    """A folder as the authors' releases are: a doubled prefix, and a token of a name of its own."""
    folder = tmp_path_factory.mktemp("released")
    tensors = {f"unet.{name}": value for name, value in load_file(world.lora).items()}
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    (rows,) = load_file(world.embedding).values()
    save_file({"<nevus-class>": rows}, folder / "learned_embeds.safetensors")
    return folder


def draw(world, output, learnt_from, embedding="learned_embeds.safetensors", words=None, folder=None):
    spec = tiny.spec_for("semantic", world.model, world.images, **{**tiny.SEMANTIC, "max_canvases": 1})
    ready = {"weights": "pytorch_lora_weights.safetensors", "embedding": embedding, "words": words}
    spec["adapter"] = {**ready, "model": {"source": str(folder), "revision": None}, "learnt_from": learnt_from}
    canvases = [world.root / "canvases.tar"]
    sample_concept(SemanticJob(spec, canvases, None, *given_files(spec["adapter"]), output))
    return Archive(output)


def test_a_released_adapter_draws_what_the_run_s_own_would(world, released, tmp_path):
    spec = tiny.spec_for("semantic", world.model, world.images, **{**tiny.SEMANTIC, "max_canvases": 1})
    canvases = [world.root / "canvases.tar"]
    sample_concept(SemanticJob(spec, canvases, None, world.embedding, world.lora, tmp_path / "own.tar"))
    own, ready = Archive(tmp_path / "own.tar"), draw(world, tmp_path / "a.tar", ["p1", "p2"], folder=released)
    assert [row["sha256"] for row in ready.rows] == [row["sha256"] for row in own.rows]
    assert ready.record["generator_images"] == ["p1", "p2"] and ready.record["prior_images"] == []
    assert not any("unknown" in row for row in ready.rows) and all("<nevus>" in row["prompt"] for row in ready.rows)


def test_what_nobody_knows_stands_in_every_row(world, released, tmp_path):
    archive = draw(world, tmp_path / "a.tar", None, embedding=None, words="dark mole", folder=released)
    assert all(row["unknown"] == ["generator"] and "dark mole" in row["prompt"] for row in archive.rows)
    assert archive.record["unknown_generators"] == [archive.rows[0]["generator"]]
    assert "generator_images" not in archive.record


def given(folder, **more):
    return GivenAdapter(source=str(folder), **more)


def test_check_opens_adapters_and_names_what_does_not_fit(world, world_xl, released, tmp_path):
    shapes = Shapes.of(SimpleNamespace(source=str(world.model), revision=None))
    assert {parameter.device.type for parameter in shapes.denoiser.parameters()} == {"meta"}
    assert look_into(given(released), shapes) and look_into(given(released), None)
    assert not look_into(given("someone/nevus"), shapes), "not fetched"
    with pytest.raises(
        UserError, match=r"lora_weights.safetensors does not fit .*has weights \(16, 64\), .*are \(16, 32\)"
    ):
        look_into(given(released), Shapes.of(SimpleNamespace(source=str(world_xl.model), revision=None)))
    save_file({"<x>": torch.ones(1, 9)}, tmp_path / "narrow.safetensors")
    message = r"narrow.safetensors: a token of 9 numbers, but the text encoder of this base model has 32"
    with pytest.raises(UserError, match=message):
        look_into(given(released, embedding=str(tmp_path / "narrow.safetensors")), shapes)
    with pytest.raises(UserError, match="narrow.safetensors: holds no LoRA"):
        look_into(given(tmp_path / "narrow.safetensors", embedding=None, words="x"), shapes)
    assert Shapes.of(SimpleNamespace(source="someone/base", revision=None)) is None


def test_a_hub_that_does_not_answer_is_said_so(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    adapter = {"weights": "w.safetensors", "embedding": None, "model": {"source": "o/nevus", "revision": None}}
    with pytest.raises(UserError, match="adapter o/nevus: the hub did not give w.safetensors.*cgddi fetch"):
        given_files(adapter)
