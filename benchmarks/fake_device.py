"""What an eager step would run on a GPU: operators, arithmetic, memory traffic and peak memory at true sizes, counted without one.

Operators are what an eager step costs the processor, some 10 us each; what they cost the GPU only a GPU tells (`device`). `ours`
and `reference` are operators, counted and aimed at; peak memory is that of tensors made in the work, beside the weights, without
what an allocator wastes and a convolution's workspace takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from cgddi.stages.healthy.settings import HealthySettings

from benchmarks import _fakecuda, _fakemodels, _fakenetworks

MOST = 8
"""Names of operators in a row."""


def run() -> Iterator[dict]:
    """Base models and classifiers in bf16, inpainting in fp16, the ADM as FEDD has it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = _fakemodels.sd21(Path(name) / "sd21")
        yield from _training("lora step, 256 px, 16 + 16", _fakemodels.lora_trainer, folder, 2750)
        for batch, parts in ((16, 1), (4, 4)):
            token = {"image_size": 512, "batch": batch, "accumulation": parts, "init_token": "lesion"}
            name, goal = f"token step, 512 px, {batch} x {parts}", 2000 if parts == 1 else None
            yield from _training(name, _fakemodels.token_trainer, folder, goal, **token)
        with _fakecuda.pretend() as device, torch.inference_mode():
            _, call, decode = _fakemodels.sampling(_fakemodels.backbone(folder), 16, 512)
            yield _row("sampling call, 512 px, 16, guidance", device, call, 850)
            yield _row("decode of 16, 512 px", device, decode, None)
        xl = _fakemodels.sdxl(Path(name) / "sdxl")
        few = {"image_size": 1024, "instances": 2, "priors_per_step": 2}
        yield from _training("SDXL, lora step, 1,024 px, 2 + 2", _fakemodels.lora_trainer, xl, None, **few)
        with _fakecuda.pretend() as device, torch.inference_mode():
            _, call, decode = _fakemodels.sampling(_fakemodels.backbone(xl), 8, 1024)
            yield _row("SDXL, sampling call, 1,024 px, 8, guidance", device, call, None)
            yield _row("SDXL, decode of 8, 1,024 px", device, decode, None)
        for of, pipeline in (
            ("Stable Diffusion 2", lambda: _fakenetworks.sd2_inpainting(folder)),
            ("Kandinsky 2.2", lambda: _fakenetworks.kandinsky22(folder / "tokenizer")),
        ):
            settings = HealthySettings(steps=4, prior_steps=2, prompt="healthy skin", negative_prompt="")
            with _fakecuda.pretend() as device:
                work = _fakenetworks.inpainter(pipeline, settings, 512, settings.batch_size)
                yield _row(f"{of}, inpainting {settings.batch_size} at 512 px, 4 steps", device, work, None)
    for method in ("baseline", "fairdisco", "patchalign"):
        with _fakecuda.pretend() as device:
            batch = 32 if method == "patchalign" else 64
            step = _fakenetworks.classifier(method, batch=batch)
            yield _row(f"{method} step, 224 px, {batch}", device, step, None)
    with _fakecuda.pretend() as device:
        yield _row("ADM features, 256 px, 8", device, _fakenetworks.features(None, precision="bf16"), None)
    with _fakecuda.pretend() as device:
        steps, mask = _fakenetworks.segmenter()
        steps()
        yield _row("20 segmenter steps", device, steps, None)
        yield _row("a segmenter's mask, 256 px", device, mask, None)
    with _fakecuda.pretend() as device:
        yield _row("4 epochs of 90 probes", device, _fakenetworks.probe(), None)


def _training(name: str, trainer_of: Callable, folder: Path, goal: int | None, **settings: Any) -> Iterator[dict]:
    with _fakecuda.pretend() as device:
        trainer = trainer_of(_fakemodels.backbone(folder), **settings)
        trainer.train_step(0)  # the optimizer's state
        yield _row(name, device, lambda: trainer.train_step(1), goal)


def _row(name: str, device: _fakecuda.FakeDevice, work: Callable[[], Any], goal: int | None) -> dict:
    with device.watched() as seen:
        made = work()
    del made
    return {
        "name": name,
        "unit": "operators",
        "ours": seen.operators,
        "reference": goal,
        "ratio": round(goal / seen.operators, 3) if goal else None,
        "tflop": round(seen.flop / 1e12, 3),
        "gb_moved": round(seen.bytes / 1e9, 1),
        "peak_gib_above_weights": round(seen.peak / 2**30, 2),
        "sent": len(seen.pinned) + len(seen.to_device),
        "sent_pageable": len(seen.to_device),
        "read_back": len(seen.read_back),
        "by_op": dict(seen.by_op.most_common(MOST)),
        "device": "none: counted on tensors without memory",
    }
