"""The classifier's data path against torchvision's: images per second from the tars, and whole epochs per minute.

Both sides read the same pictures, augment alike (random resized crop, rotation, mirroring, centre crop, normalisation) and run with
the same number of workers; rounds alternate, and the median round counts (CPU time where there are no workers, since a shared
machine's clock says little; the clock otherwise). The reference is what one writes without thinking: an
unpacked folder read by `ImageFolder`, `torchvision.transforms`, a plain fp32 loop.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

COUNT, SIDE, ROUNDS, EPOCH = 240, 256, 5, 192


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


def _reference(root: Path, settings, workers: int, batch: int):
    """Loader over the unpacked folder with torchvision's transforms, as FairDisCo's code has them."""
    from torch.utils.data import DataLoader
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
    return DataLoader(folder, batch_size=batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def _rate(ours, reference, amount: float, clock) -> tuple[float, float]:
    """Median rates (amount per second) of two callables whose rounds alternate, after one round to warm up."""
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(ROUNDS + 1):
        for name, call in (("ours", ours), ("reference", reference)):
            began = clock()
            call()
            times[name].append(clock() - began)
    return amount / statistics.median(times["ours"][1:]), amount / statistics.median(times["reference"][1:])


def run() -> list[dict]:
    """Two rows: images per second of the data path at full size, and epochs per minute of a small classifier."""
    import timm
    import torch
    from cgddi.stages.classify.data import Pictures, augment, random_views
    from cgddi.stages.classify.methods import Baseline
    from cgddi.stages.classify.rows import Rows
    from cgddi.stages.classify.settings import REGIMES, ClassifySettings
    from cgddi.stages.classify.train import accelerator_for, train
    from torch.nn import functional
    from tqdm import tqdm

    tqdm.monitor_interval = 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = 4 if device.type == "cuda" else 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    clock = time.perf_counter if workers else time.process_time
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        table = _write(root)
        full = ClassifySettings()
        pictures = {
            "kept": Pictures(table, full, False, max(1, workers)).load(),
            "read at every draw": Pictures(table, full, False, max(1, workers), memory=0),
        }
        plain = _reference(root, full, workers, 32)

        def reference() -> None:
            for pixels, _ in plain:
                pixels.to(device)

        for how, held in pictures.items():

            def ours(held=held) -> None:
                rng = np.random.default_rng(0)
                views = torch.from_numpy(random_views(COUNT, rng)).to(device)
                places = np.array_split(rng.integers(0, COUNT, COUNT), range(32, COUNT, 32))
                for number, pixels in enumerate(held.batches(places)):
                    augment(pixels.to(device), views[32 * number :][: len(pixels)], full)

            fast, slow = _rate(ours, reference, COUNT, clock)
            names = {
                "name": "classify_data",
                "unit": "images/s",
                "against": "ImageFolder on an unpacked folder",
                "setting": f"{COUNT} pictures of {SIDE} px, {how}, {workers} workers, {device.type}",
            }
            rows.append({**names, "ours": round(fast, 1), "reference": round(slow, 1), "ratio": round(fast / slow, 2)})

        net = {"backbone": "resnet18", "weights": "random", "epochs": 1, "batch_size": 32}
        small = ClassifySettings(
            image_size=224 if device.type == "cuda" else 64,
            images_per_epoch=EPOCH,
            training=net,
            selection="last",
            precision="bf16" if device.type == "cuda" else "fp32",
        )
        accelerator = accelerator_for(small, None)
        model = Baseline(timm.create_model("resnet18", num_classes=0), 2)
        other = timm.create_model("resnet18", num_classes=2).to(device)
        optimizer = torch.optim.Adam(other.parameters(), lr=1e-4)
        plain_small = _reference(root, small, workers, 32)
        chosen = Rows(table, table, table, ("benign", "malignant"))

        def epoch() -> None:
            train(accelerator, model, chosen, REGIMES["real"], "baseline", small, 1, max(1, workers))

        def plain_epoch() -> None:
            other.train()
            for step, (pixels, labels) in enumerate(plain_small):
                if step * 32 >= EPOCH:
                    break
                optimizer.zero_grad()
                functional.cross_entropy(other(pixels.to(device)), labels.to(device)).backward()
                optimizer.step()

        fast, slow = _rate(epoch, plain_epoch, 60, clock)
        about = f"ResNet-18, {small.image_size} px, {EPOCH} draws per epoch, {workers} workers, {device.type}"
        names = {
            "name": "classify_epochs",
            "unit": "epochs/minute",
            "against": "a plain PyTorch loop",
            "setting": about,
        }
        rows.append({**names, "ours": round(fast, 2), "reference": round(slow, 2), "ratio": round(fast / slow, 2)})
    torch.set_num_threads(threads)
    return rows
