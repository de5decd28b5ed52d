"""The classifier's data path against torchvision's: images per second from the tars, whole epochs, and on a GPU whole train steps.

Both sides read the same pictures, augment alike (random resized crop, rotation, mirroring, centre crop, normalisation) and run with
the same number of workers; rounds alternate, and the median round counts. On a CPU that is CPU time of one core, since a shared
machine's clock says little; beside a GPU the clock, with all cores. The reference is what one writes without thinking: an unpacked
folder read by `ImageFolder`, `torchvision.transforms`, a plain fp32 loop.

Rows `classify_data`: pictures decoded at every draw and augmented; the same with the augmentation left to the device, that is what
the workers do; and from a warm decoded cache. Rows `classify_step`, on a GPU only: bf16 train steps as the stage takes them, fed by
the loader, against the bare step on one batch that lies on the device.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

COUNT, SIDE, EPOCH, BATCH = 240, 256, 192, 64
FEW, MANY = 4_096, 12_288
"""Draws of two runs on a GPU, whose difference in time gives the rate."""

IN_MEMORY, DECODED = ("pictures in memory", 8 << 30, False), ("decoded at every draw", 0, False)
GRAPHED = "pictures in memory, the step as a CUDA graph", 8 << 30, True
STEPS = (
    ("baseline", 64, (IN_MEMORY, DECODED, GRAPHED)),
    ("baseline", 256, (DECODED,)),
    ("patchalign", 32, (IN_MEMORY, GRAPHED)),
)
"""Train steps measured on a GPU: method, batch, and how: memory for the pictures, and whether as a graph."""


def _write(root: Path):
    """The same pictures as an archive with its index rows, and as a folder per class."""
    import pandas as pd
    from cgddi.core.archive import Archive, ArchiveWriter
    from cgddi.core.images import TONES, encode_png
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    with ArchiveWriter(root / "photos.tar", {"stage": "masks", "versions": {}}) as archive:
        for n in range(COUNT):
            noise = gaussian_filter(rng.normal(0, 1, (SIDE, SIDE, 3)), (6, 6, 0)) * 400 + rng.normal(
                0, 2, (SIDE, SIDE, 3)
            )
            png = encode_png((150 + noise).clip(0, 255).astype(np.uint8))
            name = f"im{n:04d}"
            archive.add(
                name, {"png": png}, {"id": name, "kind": "real", "malignant": bool(n % 2), "tone": TONES[n % 3]}
            )
            folder = root / "folder" / str(n % 2)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.png").write_bytes(png)
    made = Archive(root / "photos.tar").rows
    columns = {"id": [row["id"] for row in made], "kind": "real", "tone": [row["tone"] for row in made], "concept": "x"}
    table = pd.DataFrame(
        {**columns, "label": [int(row["malignant"]) for row in made], "archive": str(root / "photos.tar")}
    )
    table["tone_id"] = table["tone"].map({tone: place for place, tone in enumerate(TONES)})
    table["sha256"] = [row["sha256"] for row in made]
    table["start"], table["size"] = zip(*(row["members"]["png"] for row in made), strict=True)
    return table


def _reference(root: Path, settings, workers: int, draws: int):
    """Loader over the unpacked folder with torchvision's transforms, as FairDisCo's code has them."""
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision import datasets, transforms

    chain = [
        transforms.RandomResizedCrop(settings.resize_to, scale=(0.8, 1.0)),
        transforms.RandomRotation(15),
        transforms.RandomHorizontalFlip(),
        transforms.CenterCrop(settings.image_size),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    folder = datasets.ImageFolder(root / "folder", transforms.Compose(chain))
    options = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": workers > 0}
    drawn = RandomSampler(folder, replacement=True, num_samples=draws)
    return DataLoader(folder, batch_size=BATCH, sampler=drawn, **options)


def _rate(ours, reference, amount: float, clock, rounds: int) -> tuple[float, float]:
    """Median rates (amount per second) of two callables whose rounds alternate, after one round to warm up."""
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(rounds + 1):
        for name, call in (("ours", ours), ("reference", reference)):
            began = clock()
            call()
            times[name].append(clock() - began)
    return amount / statistics.median(times["ours"][1:]), amount / statistics.median(times["reference"][1:])


def _row(name: str, unit: str, against: str, setting: str, ours: float, reference: float) -> dict:
    ratio = round(ours / reference, 2)
    found = {"name": name, "unit": unit, "ours": round(ours, 1), "reference": round(reference, 1), "ratio": ratio}
    return {**found, "against": against, "setting": setting}


def run() -> Iterator[dict]:
    """Rows of the data path, of epochs of a small classifier, and on a GPU of whole train steps, as they come."""
    import torch
    from tqdm import tqdm

    tqdm.monitor_interval = 0
    cuda = torch.cuda.is_available()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if cuda else 1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        table = _write(root)
        yield from _data_rows(root, table, cuda)
        yield from _steps(root, table) if cuda else ()
        yield _epochs(root, table, cuda)
    torch.set_num_threads(threads)


def _data_rows(root: Path, table, cuda: bool) -> Iterator[dict]:
    """Images per second of the data path at full size."""
    import torch
    from cgddi.stages.classify.augment import augment, random_views
    from cgddi.stages.classify.data import Pictures
    from cgddi.stages.classify.settings import ClassifySettings

    device = torch.device("cuda" if cuda else "cpu")
    workers = os.cpu_count() if cuda else 0
    draws, rounds, clock = (8_192, 1, time.perf_counter) if cuda else (COUNT, 5, time.process_time)
    settings = ClassifySettings()
    cached = settings.model_copy(update={"decoded_cache": str(root / "cache")})
    decoding = Pictures(table, settings, False, max(1, workers), memory=0)
    plain = _reference(root, settings, workers, draws)

    def reference() -> None:
        for pixels, _ in plain:
            pixels.to(device)

    ways = [
        ("decoded at every draw and augmented", decoding, True),
        ("from the warm decoded cache, augmentation left to the device", Pictures(table, cached, False, 1), cuda),
    ]
    if not cuda:
        ways.insert(1, ("decoded at every draw, augmentation left to the device", decoding, False))
    for how, pictures, augmenting in ways:

        def ours(pictures=pictures, augmenting=augmenting) -> None:
            rng = np.random.default_rng(0)
            views = torch.from_numpy(random_views(draws, rng)).to(device)
            places = np.array_split(rng.integers(0, COUNT, draws), range(BATCH, draws, BATCH))
            for number, pixels in enumerate(pictures.batches(places)):
                pixels = pixels.to(device, non_blocking=True)
                if augmenting:
                    augment(pixels, views[BATCH * number :][: len(pixels)], settings)
            if cuda:
                torch.cuda.synchronize()

        fast, slow = _rate(ours, reference, draws, clock, rounds)
        setting = f"{draws} draws of {COUNT} pictures of {SIDE} px, {how}, {workers} workers, {device.type}"
        yield _row("classify_data", "images/s", "ImageFolder on an unpacked folder, augmented", setting, fast, slow)


def _epochs(root: Path, table, cuda: bool) -> dict:
    """Epochs per minute of a small classifier."""
    import timm
    import torch
    from cgddi.job.trackers import reporting
    from cgddi.stages.classify.methods import Baseline
    from cgddi.stages.classify.rows import Rows
    from cgddi.stages.classify.settings import REGIMES, ClassifySettings
    from cgddi.stages.classify.train import train
    from torch.nn import functional

    workers = 4 if cuda else 0
    net = {"backbone": "resnet18", "weights": "random", "epochs": 1, "batch_size": BATCH}
    options = {"image_size": 224 if cuda else 64, "images_per_epoch": EPOCH, "precision": "bf16" if cuda else "fp32"}
    settings = ClassifySettings(training=net, selection="last", **options)
    accelerator = reporting(None, settings.precision)
    model = Baseline(timm.create_model("resnet18", num_classes=0), 2)
    other = timm.create_model("resnet18", num_classes=2).to(accelerator.device)
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-4)
    plain = _reference(root, settings, workers, EPOCH)
    chosen = Rows(table, table, table, ("benign", "malignant"))

    def epoch() -> None:
        train(accelerator, model, chosen, REGIMES["real"], "baseline", settings, 1, max(1, workers))

    def plain_epoch() -> None:
        other.train()
        for pixels, labels in plain:
            optimizer.zero_grad()
            functional.cross_entropy(other(pixels.to(accelerator.device)), labels.to(accelerator.device)).backward()
            optimizer.step()

    clock = time.perf_counter if cuda else time.process_time
    fast, slow = _rate(epoch, plain_epoch, 60, clock, 2 if cuda else 5)
    about = (
        f"ResNet-18, {settings.image_size} px, {EPOCH} draws per epoch, {workers} workers, {accelerator.device.type}"
    )
    return _row("classify_epochs", "epochs/minute", "a plain PyTorch loop", about, fast, slow)


def _steps(root: Path, table) -> Iterator[dict]:
    """Images per second of whole train steps on a GPU, fed with pictures from memory and decoded at every draw."""
    import torch
    from cgddi.job.trackers import reporting
    from cgddi.stages.classify import train as module
    from cgddi.stages.classify.data import Pictures
    from cgddi.stages.classify.methods import build
    from cgddi.stages.classify.rows import Rows
    from cgddi.stages.classify.settings import REGIMES, ClassifySettings
    from safetensors.torch import save_file

    texts = {"labels": json.dumps([f"c{n}" for n in range(65)])}
    save_file({"embeddings": torch.randn(65, 768)}, root / "texts.safetensors", texts)
    chosen = Rows(table, table, table, ("benign", "malignant"))
    for method, batch, ways in STEPS:
        settings = ClassifySettings(
            training={"weights": "random", "epochs": 1, "batch_size": batch},
            selection="last",
            label_texts={"file": str(root / "texts.safetensors")},
        )
        accelerator = reporting(None, settings.precision)
        model, _ = build(method, settings, 2, [], pretrained=False)
        few, many = (FEW, MANY) if method == "baseline" else (FEW // 8, MANY // 8)
        for how, memory, graph in ways:
            module.Pictures = functools.partial(Pictures, memory=memory)

            def seconds(
                images: int, settings=settings, method=method, model=model, accelerator=accelerator, graph=graph
            ) -> float:
                these = settings.model_copy(update={"images_per_epoch": images, "cuda_graphs": graph})
                began = time.perf_counter()
                module.train(accelerator, model, chosen, REGIMES["real"], method, these, 1, os.cpu_count())
                torch.cuda.synchronize()
                return time.perf_counter() - began

            seconds(4 * batch)
            short, long = seconds(few), seconds(many)
            bare = _bare(accelerator, model, batch)
            name = f"{method}, {sum(p.numel() for p in model.parameters()):,} parameters, bf16, 224 px, batch {batch}"
            setting = f"{name}, {how}, {os.cpu_count()} cores, {torch.cuda.get_device_name()}"
            row = _row("classify_step", "images/s", "the bare step", setting, (many - few) / (long - short), bare)
            yield {**row, "peak MiB": torch.cuda.max_memory_allocated() >> 20}
    module.Pictures = Pictures


def _bare(accelerator, model, batch: int, steps: int = 40) -> float:
    """Images per second of forward, backward and optimizer alone, on one batch that lies on the device."""
    import torch
    from cgddi.stages.classify.train import Losses

    network = Losses(model.train())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    images = torch.randn(batch, 3, 224, 224, device=accelerator.device).to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=accelerator.device) % 2
    for step in range(10 + steps):
        if step == 10:
            torch.cuda.synchronize()
            began = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.stack([term.float() for term in network(images, labels, labels, None).values()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    torch.cuda.synchronize()
    return steps * batch / (time.perf_counter() - began)
