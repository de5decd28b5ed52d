"""Parts of `python -m benchmarks device`: steps of training and sampling, eager and compiled, beside what bounds them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import _device as base
from benchmarks import _engine, lora_step, ti_step
from benchmarks._device import BATCH, DEVICE, LORA, STEPS, TOKEN, WORK, model, note, photos, seconds, tried


# -- training -----------------------------------------------------------------------------------------------------------------
def lora_seconds(steps: int, **settings: object) -> tuple[float, float]:
    """Seconds per step of the stage's function, and of all of it."""
    from cgddi.diffusion import train
    from cgddi.diffusion.tokens import start_rows
    from cgddi.diffusion.weights import write_tensors
    from cgddi.stages.lora.train import LoraJob, train_lora

    base.fresh()
    _, tar, names = photos(LORA["image_size"])
    backbone = _engine.backbone(model(), DEVICE)
    rows = start_rows(backbone.tokenizers[0], backbone.text_encoders[0], "lesion", 1)
    write_tensors(WORK / "token.safetensors", {"<c>": rows})
    more = {"grid_steps": 2, "grid_columns": 1, "steps": steps, **LORA, **settings}
    with tempfile.TemporaryDirectory() as name:
        spec = _engine.spec("lora", model(), names, **more)
        job = LoraJob(spec, [tar], [tar], None, WORK / "token.safetensors", Path(name))
        began = time.perf_counter()
        with _engine.clocked(train, _engine.Clock()) as clock:
            train_lora(job, cache=None, device=DEVICE, backbone=backbone)
    return clock.seconds(10), time.perf_counter() - began


def lora() -> None:
    """A LoRA step: ours one kernel after the other, as a graph, and the bare step."""
    size, count = LORA["image_size"], LORA["instances"] + LORA["priors_per_step"]
    with tried("bare lora step"):
        bare = _engine.timed(lora_step.bare_step(model(), size, count, DEVICE), STEPS, 10)
        note("lora step", way="bare", ms=round(bare * 1e3, 2))
    for how in ("plain", "graph"):
        with tried(f"lora step {how}"):
            step, whole = lora_seconds(STEPS, cuda_graphs=how == "graph")
            facts = {"ms": round(step * 1e3, 2), "of_bare": round(bare / step, 3), "s_of_750": round(750 * step, 1)}
            note("lora step", way=how, **facts, all_s=round(whole, 1))


def token_seconds(**settings: object) -> float:
    """Seconds per step of the stage's function."""
    from cgddi.diffusion import train
    from cgddi.stages.embedding.train import TokenJob, train_token

    base.fresh()
    _, tar, names = photos(TOKEN["image_size"])
    backbone = _engine.backbone(model(), DEVICE)
    more = {**TOKEN, "steps": STEPS, "init_token": "lesion", "scale_lr": False, **settings}
    with tempfile.TemporaryDirectory() as name, _engine.clocked(train, _engine.Clock()) as clock:
        job = TokenJob(_engine.spec("embedding", model(), names[:16], **more), [tar], Path(name))
        train_token(job, cache=None, device=DEVICE, backbone=backbone)
    return clock.seconds(10)


def token() -> None:
    """A token step, likewise."""
    with tried("bare token step"):
        bare = _engine.timed(ti_step.bare_step(model(), TOKEN["image_size"], TOKEN["batch"], DEVICE), STEPS, 10)
        note("token step", way="bare", ms=round(bare * 1e3, 2))
    for how, parts in (("plain", 1), ("graph", 1), ("graph", 4)):
        parts = min(parts, TOKEN["batch"])
        with tried(f"token step {how} in {parts}"):
            graphs = {"cuda_graphs": how == "graph"}
            step = token_seconds(batch=TOKEN["batch"] // parts, accumulation=parts, **graphs)
            facts = {"ms": round(step * 1e3, 2), "of_bare": round(bare / step, 3), "s_of_500": round(500 * step, 1)}
            note("token step", way=how, parts=parts, **facts)


def scripts() -> None:
    """diffusers' own scripts (a checkout of their examples named by DIFFUSERS_EXAMPLES) beside ours: one benchmark each."""
    for kind in (lora_step, ti_step):
        kind.ROUNDS, real = 1, _engine.sd21_model
        _engine.sd21_model = lambda folder: model()
        try:
            with tried(kind.__name__):
                base.fresh()
                note(
                    "against diffusers' script",
                    **{f"{k}": v for k, v in kind.run().items() if k != "name"},
                    of=kind.__name__,
                )
        finally:
            _engine.sd21_model = real


# -- sampling -----------------------------------------------------------------------------------------------------------------
def random_adapter(backbone):
    """An adapter of the default's shape."""
    from cgddi.diffusion.adapters import Adapter, find_targets
    from cgddi.stages.lora.settings import LoraSettings

    modules, down, up = dict(backbone.denoiser.named_modules()), {}, {}
    draw = torch.Generator().manual_seed(0)
    for name in find_targets(backbone.denoiser, LoraSettings().target_modules):
        out, inner = modules[name].weight.shape
        down[name], up[name] = (torch.randn(8, inner, generator=draw) / 8, torch.randn(out, 8, generator=draw) * 1e-3)
    return Adapter(down, up, {}, {}, {})


def drawing(backbone, batch: int) -> Callable[[], torch.Tensor]:
    """Draws one batch with the default settings."""
    from cgddi.diffusion.sample import Sampler, SampleSettings

    size = TOKEN["image_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    mean, std = (part.repeat(batch, 1, 1, 1) for part in backbone.encode_images(pixels))
    prompts = backbone.encode_prompts(["An image of lesion on a dark-toned individual"]).to("cpu")[[0] * batch]
    sampler = Sampler(backbone, SampleSettings(), size, batch, backbone.empty_negative(""))
    return lambda: sampler.draw(prompts, list(range(batch)), mean, std)


def _sampled(way: str, batch: int, backbone, rounds: int = 2) -> None:
    took = seconds(drawing(backbone, batch), rounds)
    facts = {"images_per_s": round(batch / took, 2), "hours_of_185400": round(185400 * took / batch / 3600, 2)}
    note("sampling", way=way, batch=batch, **facts)


def sampling() -> None:
    """Batches with an adapter on the weights, decoding, and diffusers' pipeline."""
    from cgddi.diffusion.adapters import apply

    backbone = _engine.backbone(model(), DEVICE)
    with tried("sampling"):
        applied = apply(backbone, random_adapter(backbone))
        for batch in (BATCH, 2 * BATCH):
            _sampled("adapter on the weights", batch, backbone)
        applied.remove()
    with tried("decode"):
        x = torch.randn(BATCH, *backbone.latent_shape(TOKEN["image_size"]), device=DEVICE)
        note("decode", batch=BATCH, ms=round(seconds(lambda: backbone.decode(x)) * 1e3, 1))
    with tried("diffusers' pipeline"):
        from PIL import Image

        from benchmarks.sampling import _pipeline

        pipe, size = _pipeline(model(), backbone), TOKEN["image_size"]
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))
        for batch, steps in ((1, 100), (BATCH, 20)):
            many = {"image": [picture] * batch, "strength": 0.725, "guidance_scale": 8.75, "num_inference_steps": steps}
            took = seconds(lambda many=many, batch=batch: pipe(["a lesion"] * batch, **many), 1, 1)
            note("diffusers' img2img", batch=batch, steps=steps, images_per_s=round(batch / took, 2))
        pipe = None
