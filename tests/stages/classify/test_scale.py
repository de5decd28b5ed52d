"""The data path at scale, shrunk: memory does not grow with the images drawn, rows cost bytes, archives do not exhaust handles."""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest
from cgddi.stages.classify.data import ArchiveImages, InOrder, loader
from cgddi.stages.classify.rows import choose_rows
from cgddi.stages.classify.sampling import BalancedSampler, sampling_weights
from cgddi.stages.classify.settings import REGIMES, ClassifySettings
from cgddi.stages.index.command import main as index_main

from benchmarks._paper_size import write

SETTINGS = ClassifySettings(image_size=32, min_concept_images=1, workers=0)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    root = tmp_path_factory.mktemp("big")
    spec = json.dumps({"stage": "index", "versions": {}, "split": "big"})
    index_main(["--spec", spec, *write(root, share=0.02), "--output", str(root / "i.parquet")])
    return choose_rows(pd.read_parquet(root / "i.parquet"), REGIMES["synthetic"], SETTINGS, 1).train


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_does_not_grow_with_the_images_drawn(train):
    images = ArchiveImages(train, SETTINGS, 1)
    sampler = BalancedSampler(sampling_weights(train, "tone_class_concept"), 2000, 1)
    batches = loader(images, sampler, 64, 0)

    def epoch() -> int:
        return sum(int(pixels.shape[0]) for pixels, *_ in batches)

    assert epoch() == 2000
    before = resident()
    assert epoch() + epoch() + epoch() == 6000
    # 6,000 decoded pictures would be 18 MB.
    assert resident() - before < 4 * 2**20


def test_a_row_costs_bytes_and_not_a_picture(train):
    images = ArchiveImages(train, SETTINGS, 1)
    held = images.place.nbytes + images.label.numpy().nbytes + images.tone.numpy().nbytes
    assert len(images) > 3000 and held == 40 * len(images)


def test_more_archives_than_open_files_are_read(train, tmp_path):
    first = train["archive"].iloc[0]
    rows = train[train["archive"] == first].head(1)
    links = []
    for n in range(300):
        os.symlink(first, tmp_path / f"{n}.tar")
        links.append(str(tmp_path / f"{n}.tar"))
    many = pd.concat([rows] * 300, ignore_index=True).assign(archive=links)
    images = ArchiveImages(many, SETTINGS, 1)
    seen = [pixels.numpy() for pixels, *_ in loader(images, InOrder(300), 50, 0)]
    assert len(images._open) <= 256 and sum(map(len, seen)) == 300
    assert all(np.array_equal(picture, seen[0][0]) for batch in seen for picture in batch)
