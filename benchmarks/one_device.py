"""What one device does: seconds per LoRA run and per token run, images/s, memory, and the share of the arithmetic's floor.

The floor is the time that the multiplications alone would take at the rate of a large matrix product on this device, measured in
the same run; `ratio` is floor / ours, the share reached.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _engine, lora_step, ti_step

LORA_STEPS, TOKEN_STEPS = 750, 500
"""Of a published run (cgDDI, training details)."""


def run() -> list[dict]:
    """Random-weight SD 2.1 on a GPU with the published batches (16 + 16 at 256 px, 16 at 512 px), the toy backbone on a CPU."""
    device = _engine.device()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if device.type == "cuda":
            return measure(_engine.sd21_model(folder / "model"), folder, (256, 512), 16, 40, device)
        return measure(_engine.toy_model(folder / "model"), folder, (64,), 8, 25, device)


def measure(
    model: Path, folder: Path, sizes: tuple[int, ...], batch: int, steps: int, device: torch.device
) -> list[dict]:
    """Both kinds of training and sampling."""

    rate = matmul_rate(device, _engine.backbone(str(model), device).dtype)
    rows = []
    published = {"instances": batch, "priors_per_step": batch}
    runs = [("lora_run", size, lora_step, published, LORA_STEPS) for size in sizes]
    runs += [
        ("token_run", sizes[-1], ti_step, {"batch": batch, "accumulation": 1, "init_token": "lesion"}, TOKEN_STEPS)
    ]
    for name, size, kind, more, every in runs:
        _, tar, names = _engine.photos(folder / f"{name}{len(rows)}", size, 3 * batch)
        settings = {"image_size": size, "steps": steps, **more}
        _reset(device)
        seconds = kind.our_seconds(model, tar, names, folder, settings, device)
        peak = _peak(device)
        count = 2 * batch if kind is lora_step else batch
        work = flops(kind.bare_step(model, size, count, device))
        rows.append(_row(name, "s/run", every * seconds, every * work / rate, size, count, rate, device, peak))
    for size in sizes:
        images = 2 * batch
        draw = _draws(model, size, images, device)
        _reset(device)
        seconds = _engine.timed(draw, 3, 1, block=1)
        rows.append(_row("samples", "s/batch", seconds, flops(draw) / rate, size, images, rate, device, _peak(device)))
        rows[-1]["images_per_second"] = round(images / seconds, 3)
    return rows


def _draws(model: Path, size: int, batch: int, device: torch.device) -> Callable[[], object]:
    """Sampling one batch with the default settings, pixels included."""
    from cgddi.diffusion.sample import Sampler, SampleSettings

    backbone = _engine.backbone(str(model), device)
    pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    mean, std = (part.repeat(batch, 1, 1, 1) for part in backbone.encode_images(pixels))
    prompts = backbone.encode_prompts([ti_step.PROMPT])[[0] * batch]
    sampler = Sampler(backbone, SampleSettings(), size, batch, backbone.empty_negative(""))
    return lambda: sampler.draw(prompts, list(range(batch)), mean, std).cpu()


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of a call, 2 per multiplication and addition, forward and backward."""
    products = {}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        products[torch.ops.mkldnn._linear_pointwise] = lambda x, weight, *_, out_shape=None, **__: (
            2 * int(np.prod(x)) * weight[0]
        )
    work()
    with FlopCounterMode(display=False, custom_mapping=products) as counter:
        work()
    return counter.get_total_flops()


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large product in the number type that the model computes in."""
    from cgddi.diffusion.onednn import product

    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _engine.timed(lambda: product(a, b, None), 40, 10)


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_reserved() if device.type == "cuda" else 0


def _row(name, unit, ours, floor, size, batch, rate, device, peak) -> dict:
    facts = {"image_size": size, "batch": batch, "teraflops_of_a_product": round(rate / 1e12, 3)}
    if peak:
        whole = torch.cuda.get_device_properties(device).total_memory
        facts |= {"peak_gib": round(peak / 2**30, 2), "that_fit_side_by_side": whole // peak}
    facts["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu, 1 thread"
    figures = {"ours": round(ours, 3), "reference": round(floor, 3), "ratio": round(floor / ours, 3)}
    return {"name": name, "unit": unit, **figures, **facts}
