"""Parts of `python -m benchmarks device`: whole commands, profiles, classifiers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch

from benchmarks import _device as base
from benchmarks import _engine
from benchmarks._device import BATCH, CUDA, DEVICE, LORA, TOKEN, WORK, model, note, photos, tried
from benchmarks._device_steps import drawing, lora_seconds, random_adapter


# -- whole commands -----------------------------------------------------------------------------------------------------------
def whole() -> None:
    """`cgddi embedding`, `lora` and `semantic` as the rules call them: from the start of the process to the last file."""
    size, big = LORA["image_size"], TOKEN["image_size"]
    tiny = {} if CUDA else {"image_size": 64, "grid_steps": 2, "grid_every": 0}
    photos(size), photos(big)
    few = {} if CUDA else {"steps": 12}
    counts = {} if CUDA else {"instances": 2, "priors_per_step": 2}
    embedding = command(
        "embedding",
        big,
        16,
        [],
        **few,
        **tiny,
        **({} if CUDA else {"batch": 2, "accumulation": 2}),
        init_token="lesion",
    )
    if embedding is None:
        return
    weights = command(
        "lora", size, 48, ["--embedding", embedding / "learned_embeds.safetensors"], **few, **tiny, **counts
    )
    if weights is not None:
        files = [
            "--embedding",
            embedding / "learned_embeds.safetensors",
            "--lora",
            weights / "pytorch_lora_weights.safetensors",
        ]
        small = {} if CUDA else {"image_size": 64, "steps": 4, "batch": 2}
        repeats = 4 if CUDA else 1
        command("semantic", big, 48, files, check=False, repeats=repeats, max_canvases=48 if CUDA else 2, **small)


def command(stage: str, size: int, count: int, more: list, **settings: object) -> Path | None:
    """Run one stage's command; gives its output folder."""
    root, folder = Path(__file__).parents[1], WORK / f"whole-{stage}"
    _, tar, names = photos(size)
    spec = _engine.spec(stage, model(), names[:count])
    place = _engine.precision(DEVICE)
    spec |= {"settings": {**settings, "precision": place}, "malignant": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec))
    argv = [
        "--spec",
        folder / "spec.json",
        "--cache",
        WORK / "cache",
        "--metrics",
        folder / "m.jsonl",
        "--threads",
        "8",
        *more,
    ]
    argv += ["--output", folder / "a.tar"] if stage == "semantic" else ["--output-dir", folder, "--photos", tar]
    argv += [] if stage == "embedding" else ["--canvases", tar]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "workflow"), os.environ.get("PYTHONPATH", "")])}
    began = time.perf_counter()
    argv = [sys.executable, "-m", "cgddi.cli", "--gpus", str(int(CUDA)), stage, *map(str, argv)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode:
        note(f"whole {stage} failed", rc=done.returncode, error=done.stderr[-1500:])
        return None
    used = json.loads((folder / "m.jsonl").read_text().splitlines()[-1])
    note(f"whole `cgddi {stage}`", s=round(took, 1), **{k: v for k, v in used.items() if k not in ("stage", "concept")})
    return folder


# -- profile ------------------------------------------------------------------------------------------------------------------
def profile() -> None:
    """Top kernels, the share of time that the device works, and waits, of ten LoRA steps and of two batches of samples."""
    from cgddi.diffusion.adapters import apply
    from cgddi.diffusion.train import Trainer
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if CUDA else [])
    real, state = Trainer.train_step, {}

    def report(name: str, prof, wall: float) -> None:
        order = "self_device_time_total" if CUDA else "self_cpu_time_total"
        averages = prof.key_averages()
        busy = sum(e.self_device_time_total for e in averages) / 1e6 if CUDA else 0
        calls = sum(e.count for e in averages if e.key.startswith("cudaLaunchKernel") or e.key == "cuLaunchKernelEx")
        note(f"profile of {name}", wall_s=round(wall, 3), device_busy=round(busy / wall, 3), launches=calls)
        table = averages.table(sort_by=order, row_limit=40, max_name_column_width=80)
        (base.out() / f"profile-{name.replace(' ', '-')}.txt").write_text(table)

    def step(self, number: int):
        if number == 12:
            base.drain()
            state.update(prof=watch(activities=kinds), began=time.perf_counter())
            state["prof"].__enter__()
        found = real(self, number)
        if number == 21:
            base.drain()
            state["wall"] = time.perf_counter() - state["began"]
            state["prof"].__exit__(None, None, None)
        return found

    with tried("profile of a training"):
        Trainer.train_step = step
        try:
            lora_seconds(26, cuda_graphs=False)
        finally:
            Trainer.train_step = real
        report("ten lora steps", state["prof"], state["wall"])
    with tried("profile of sampling"):
        backbone = _engine.backbone(model(), DEVICE)
        apply(backbone, random_adapter(backbone))
        draw = drawing(backbone, BATCH)
        draw()
        base.drain()
        began = time.perf_counter()
        with watch(activities=kinds) as prof:
            draw(), draw()
            base.drain()
        report("two batches", prof, time.perf_counter() - began)
    if CUDA:
        with tried("waits"), warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                lora_seconds(25, cuda_graphs=False, log_every=1000, checkpoint_every=1000)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            places: dict[str, int] = {}
            for one in (w for w in seen if "synchroniz" in str(w.message)):
                where = f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}"
                places[where] = places.get(where, 0) + 1
            note("waits for the device in 25 steps", places=dict(sorted(places.items(), key=lambda p: -p[1])[:20]))


def classify() -> None:
    """The classifiers' data path and a bare training step."""
    import timm

    for name, batch in (("resnet18", 256), ("vit_base_patch16_224", 128)) if CUDA else (("resnet18", 4),):
        with tried(f"bare step of {name}"):
            net = timm.create_model(name, num_classes=2).to(DEVICE, memory_format=torch.channels_last)
            optimizer = torch.optim.Adam(net.parameters(), 1e-4, fused=True)
            x = torch.randn(batch, 3, 224, 224, device=DEVICE).to(memory_format=torch.channels_last)
            y = torch.zeros(batch, dtype=torch.long, device=DEVICE)

            def step(net=net, optimizer=optimizer, x=x, y=y) -> None:
                with torch.autocast(DEVICE.type, torch.bfloat16, enabled=CUDA):
                    loss = torch.nn.functional.cross_entropy(net(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            note(
                "bare classifier step",
                backbone=name,
                batch=batch,
                images_per_s=round(batch / _engine.timed(step, 30, 10), 1),
            )
    with tried("classify_data"):
        # A process of its own, as in the workflow: each decoding process imports the main module, and this one's imports torch.
        argv = [sys.executable, "-m", "benchmarks", "classify_data", "--json"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as rows:
            for row in rows.stdout:
                note("classifier data", **{k if k != "name" else "of": v for k, v in json.loads(row).items()})
