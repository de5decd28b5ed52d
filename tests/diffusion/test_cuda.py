"""What only a GPU can show: half precision, draws that wait for nothing."""

from __future__ import annotations

import pytest
import torch
from accelerate.state import AcceleratorState
from cgddi.core.images import decode_png
from cgddi.diffusion.adapters import read_adapter
from cgddi.diffusion.backbone import load
from cgddi.diffusion.sample import PendingImages, Sampler, SampleSettings
from cgddi.diffusion.tokens import read_embedding
from cgddi.stages.lora.train import train_lora
from cgddi.stages.semantic.sample import SemanticJob, sample_concept

from tests.diffusion import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: there is none here")


def run(world, folder, precision):
    """Token, adapter and samples on the device."""
    AcceleratorState._reset_state(True)
    spec = tiny.spec_for("embedding", world.model, world.images, **{**tiny.TI, "precision": precision})
    tiny.train_embedding(spec, [world.root / "masks.tar"], folder / "token", device="cuda")
    job = world.job(
        output=str(folder / "lora"), embedding=folder / "token/learned_embeds.safetensors", precision=precision
    )
    train_lora(job, device="cuda")
    spec = tiny.spec_for("semantic", world.model, world.images, **{**tiny.SEMANTIC, "precision": precision})
    weights = folder / "lora/pytorch_lora_weights.safetensors"
    canvases = [world.root / "canvases.tar"]
    sample_concept(SemanticJob(spec, canvases, None, job.embedding, weights, folder / "a.tar"), device="cuda")
    from cgddi.core.archive import Archive

    archive = Archive(folder / "a.tar")
    token = read_embedding(job.embedding)[1][0]
    return token, read_adapter(weights).up, [decode_png(archive.read(row)).astype(int) for row in archive.rows]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_device_learns_what_a_cpu_learns(world, tmp_path, precision):
    token, up, pictures = run(world, tmp_path, precision)
    assert torch.allclose(token, read_embedding(world.embedding)[1][0], atol=2e-2 if precision == "fp32" else 0.1)
    assert all(torch.isfinite(value).all() for value in up.values()) and len(pictures) == 9


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_as_a_graph_is_the_same_step(world, tmp_path, precision):
    """Bit for bit, over steps of two parts: recorded kernels are the kernels that were recorded."""
    found = {}
    for graphs in (False, True):
        AcceleratorState._reset_state(True)
        folder, more = tmp_path / str(graphs), {"precision": precision, "cuda_graphs": graphs}
        spec = tiny.spec_for("embedding", world.model, world.images, **{**tiny.TI, **more})
        tiny.train_embedding(spec, [world.root / "masks.tar"], folder / "token", device="cuda")
        AcceleratorState._reset_state(True)
        job = world.job(output=str(folder / "lora"), instances=4, priors_per_step=4, accumulation=2, **more)
        train_lora(job, device="cuda")
        adapter = read_adapter(folder / "lora/pytorch_lora_weights.safetensors")
        found[graphs] = [read_embedding(folder / "token/learned_embeds.safetensors")[1][0], *adapter.up.values()]
    assert all(torch.equal(a, b) for a, b in zip(*found.values(), strict=True))


def test_a_draw_gives_the_device_its_work_and_waits_for_nothing(world):
    """Any read of a device tensor on the way would stop the next batch from being launched behind this one."""
    backbone = load({"source": str(world.model)}, torch.device("cuda"))
    size, shape = tiny.SIZE, (2, *backbone.latent_shape(tiny.SIZE))
    prompts = backbone.encode_prompts(["an image of skin"]).to("cpu")[[0, 0]]
    drawer = Sampler(backbone, SampleSettings(steps=4), size, 2, backbone.empty_negative(""))
    given = prompts, [1, 2], torch.zeros(shape), torch.ones(shape)
    first = PendingImages(drawer.draw(*given)).wait()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = PendingImages(drawer.draw(*given))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again.wait(), first)
