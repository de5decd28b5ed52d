"""A flow-matching transformer goes through the same loops: token, adapter, samples, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cgddi.core.archive import Archive
from cgddi.core.images import decode_png
from cgddi.diffusion import adapters
from cgddi.diffusion.families import FAMILIES
from cgddi.diffusion.sampler import Sampler, SampleSettings
from cgddi.stages.semantic.sample import sample_concept
from safetensors.torch import load_file

from tests.diffusion import tiny
from tests.diffusion.conftest import World, train
from tests.diffusion.flow import FlowRule, FlowTransformer, make_flow_model


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A token and an adapter trained on it by the ordinary stage functions."""
    root = tmp_path_factory.mktemp("flow")
    torch.set_num_threads(1)
    FAMILIES["FlowPipeline"] = FlowTransformer
    photos, canvases = tiny.make_photos(root / "masks.tar"), tiny.make_canvases(root / "canvases.tar")
    yield train(World(root, make_flow_model(root / "model"), photos, canvases))
    del FAMILIES["FlowPipeline"]


def test_token_adapter_and_samples(flow, tmp_path):
    spec = tiny.spec_for("semantic", flow.model, flow.images, **tiny.SEMANTIC)
    count = sample_concept(spec, [flow.root / "canvases.tar"], None, flow.embedding, flow.lora, tmp_path / "a.tar")
    archive = Archive(tmp_path / "a.tar")
    assert count == len(archive.rows) == 9
    pictures = [decode_png(archive.read(row)) for row in archive.rows]
    assert all(picture.std() > 1 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 9


def test_the_adapter_file_is_diffusers_own(flow):
    """diffusers' loader on its own transformer gives the prediction that ours gives."""
    from diffusers import SD3Transformer2DModel

    tensors = load_file(flow.lora)
    assert tensors and all(name.startswith("transformer.") for name in tensors)
    backbone = FlowTransformer(flow.model, torch.device("cpu"))
    theirs = SD3Transformer2DModel.from_pretrained(flow.model, subfolder="transformer")
    x, steps = torch.randn(2, 4, 16, 16), torch.tensor([500, 10])
    prompts = backbone.encode_prompts(["An image of lesion", "skin"])
    with torch.no_grad():
        before = backbone.denoise(x, steps, prompts)
        assert torch.allclose(before, theirs(x, prompts.embeds, prompts.pooled, steps)[0], atol=1e-5)
        theirs.load_lora_adapter(dict(tensors), prefix="transformer")
        expected = theirs(x, prompts.embeds, prompts.pooled, steps)[0]
        for fuse in (True, False):
            applied = adapters.Applied(backbone.denoiser, adapters.read_adapter(flow.lora), fuse)
            assert torch.allclose(backbone.denoise(x, steps, prompts), expected, atol=1e-4)
            applied.remove()
        assert torch.equal(backbone.denoise(x, steps, prompts), before)
        assert (expected - before).abs().max() > 1e-3


def test_the_loop_ends_at_the_clean_latents_when_the_network_is_right():
    """With the true velocity of one image as its prediction, sampling from any strength gives that image back."""

    class Right:
        device, dtype = torch.device("cpu"), torch.float32
        clean = torch.randn(1, 4, 8, 8)

        def __init__(self):
            self.rule = FlowRule({"shift": 3.0}, self.device)

        def latent_shape(self, size):
            return 4, 8, 8

        def denoise(self, noisy, step, prompts):
            return (noisy - self.clean) / (step / 1000)

        def decode(self, latents):
            return latents

    from cgddi.diffusion.backbone import Prompts

    backbone, empty = Right(), Prompts(torch.zeros(1, 1, 1))
    for strength in (None, 0.6):
        sampler = Sampler(backbone, SampleSettings("model", 10, strength, 2.0), 16, 2, empty)
        mean = None if strength is None else torch.randn(2, 4, 8, 8)
        found = sampler.draw(empty[[0, 0]], [1, 2], mean, None if mean is None else torch.zeros_like(mean))
        assert np.allclose(found, backbone.clean.expand(2, -1, -1, -1), atol=1e-4)
