"""FEDD's pixel classifier on native maps against the published way: memory and time of training and of segmenting.

Published: every map is upsampled to the photo's 256 px, all are joined to 1024 numbers a pixel and kept for training (32 GB for 120
photos), and each pixel goes through the network. Ours keeps the native maps in half precision, gathers the pixels of a training
batch from them, and applies the first layer at low resolution. Both sides have the same maps, weights and training pixels; each
runs in its own process, and memory is the peak of that process above what it held with everything imported.
"""

from __future__ import annotations

import multiprocessing
import time

import torch
from torch import nn
from torch.nn import functional

PHOTOS, SIZE, BLOCKS = 4, 256, ((512, 32), (512, 64))
CHANNELS = sum(channels for channels, _ in BLOCKS)
HIDDEN, CLASSES, PIXELS, STEPS = (128, 32), 5, 64, 300


def _maps(number: int) -> list[torch.Tensor]:
    """One photo's maps as they are stored: (C, h, w), float16."""
    draw = torch.Generator().manual_seed(number)
    return [torch.randn(channels, side, side, generator=draw).half() for channels, side in BLOCKS]


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = HIDDEN
    return nn.Sequential(
        nn.Linear(CHANNELS, first),
        nn.ReLU(),
        nn.BatchNorm1d(first),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.BatchNorm1d(second),
        nn.Linear(second, CLASSES),
    )


def _train(network: nn.Sequential, batch) -> None:
    """STEPS steps on random pixels; `batch(image, row, column)` gives their features."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    draw = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        image = torch.randint(PHOTOS, (PIXELS,), generator=draw)
        row, column, label = (torch.randint(n, (PIXELS,), generator=draw) for n in (SIZE, SIZE, CLASSES))
        optimizer.zero_grad()
        functional.cross_entropy(network.train()(batch(image, row, column)), label).backward()
        optimizer.step()


def _ours():
    from cgddi.fedd.segmenter import lowres

    maps = lowres.stack([_maps(number) for number in range(PHOTOS)])

    @torch.no_grad()
    def segment(network: nn.Sequential):
        first = network[0]
        for number in range(PHOTOS):
            parts = []
            for _, hidden in lowres.strips(first.weight, first.bias, [m[number : number + 1] for m in maps], SIZE):
                parts.append(network[1:](hidden[0].flatten(1).T))
            yield torch.cat(parts)

    return lambda image, row, column: lowres.sample(maps, image, row, column, SIZE), segment


def _published():
    pixels = torch.empty(PHOTOS, SIZE * SIZE, CHANNELS)
    for number in range(PHOTOS):
        start = 0
        for block in _maps(number):
            wide = functional.interpolate(block[None].float(), (SIZE, SIZE), mode="bilinear", align_corners=False)
            pixels[number, :, start : start + len(block)] = wide[0].flatten(1).T
            start += len(block)

    @torch.no_grad()
    def segment(network: nn.Sequential):
        for number in range(PHOTOS):
            yield network(pixels[number])

    return lambda image, row, column: pixels[image, row * SIZE + column], segment


def _resident(field: str) -> float:
    """MiB this process holds ("VmRSS") or has held at most ("VmHWM")."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def _measure(side: str) -> dict:
    """One side in a process of its own: MiB, seconds of each part, and the logits of the untrained network."""
    torch.set_num_threads(1)
    network = _network()
    _train(network, lambda image, row, column: torch.zeros(PIXELS, CHANNELS))  # what the libraries load when first used
    network = _network().eval()
    before = _resident("VmRSS")
    began = time.process_time()
    batch, segment = {"ours": _ours, "reference": _published}[side]()
    prepared = time.process_time()
    logits = torch.stack(list(segment(network)))
    segmented = time.process_time()
    _train(network, batch)
    trained = time.process_time()
    return {
        "memory": _resident("VmHWM") - before,
        "prepare": prepared - began,
        "segment": segmented - prepared,
        "train": trained - segmented,
        "logits": logits.numpy(),
    }


def run() -> dict:
    """Peak MiB of both ways, with CPU seconds and the greatest difference of any logit."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ours, reference = (pool.apply(_measure, (side,)) for side in ("ours", "reference"))
    seconds = {part: f"{ours[part]:.2f} s against {reference[part]:.2f} s" for part in ("prepare", "segment", "train")}
    total, other = (sum(side[part] for part in seconds) for side in (ours, reference))
    return {
        "name": "fedd_features",
        "unit": "MiB",
        "ours": round(ours["memory"], 1),
        "reference": round(reference["memory"], 1),
        "ratio": round(reference["memory"] / ours["memory"], 1),
        "against": "upsampled maps kept for training",
        "setting": f"{PHOTOS} photos of {SIZE} px, {CHANNELS} channels, {STEPS} steps of {PIXELS} pixels, one thread",
        "cpu_seconds": round(total, 2),
        "cpu_seconds_reference": round(other, 2),
        "time_ratio": round(other / total, 1),
        **seconds,
        "greatest_logit_difference": float(abs(ours["logits"] - reference["logits"]).max()),
    }
