"""Masks by a trained segmenter over stored features, through the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cgddi.core.archive import Archive, write_record
from cgddi.core.images import LESION, decode_png
from cgddi.fedd.features.files import ImageFeatures, write_features
from cgddi.fedd.segmenter.ensemble import EnsembleMLP, Segmenter
from PIL import Image

from tests.stages.lesion_mapped.world import photo, run, spec_of, write_photos

SIDE = 32
FACTS = {"model": "m1", "size": SIDE, "timestep": 100, "crop": "resize"}


def known_segmenter(folder, members=4, **facts):
    """One that reads the class from block 6's five channels; its last member takes every lesion for skin."""
    networks = EnsembleMLP(members, 7, (5, 5), 5).eval()
    with torch.no_grad():
        for layer in (networks.first, networks.second, networks.last):
            layer.weight.copy_(torch.eye(5, layer.weight.shape[2]).expand_as(layer.weight))
        networks.last.weight[-1, 4, LESION] = 9.0
    facts = {"blocks": [6, 8], "channels": [5, 2], "training_images": ["b", "a"], **FACTS, **facts}
    folder.mkdir()
    Segmenter(networks, facts).save(folder / "weights.safetensors")
    write_record(folder / "record.json", {"training_images": facts["training_images"]})
    return folder


def truth(number):
    return photo(number, SIDE, lesion=0.05)[1]


def features(number, block6=None):
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(truth(number)).long(), 5).permute(2, 0, 1)
    maps = {6: one_hot if block6 is None else block6, 8: torch.ones(2, 4, 4)}
    return ImageFeatures(maps={block: value.half() for block, value in maps.items()})


@pytest.fixture
def world(tmp_path):
    """Three photos: two in the batch's features, the third in the study's."""
    rows = write_photos(tmp_path / "in", 3, SIDE, lesion=0.05)
    for number, row in enumerate(rows):
        Image.fromarray(photo(number, SIDE, lesion=0.05)[0]).save(row["file"])
        row["mask"] = None
    spec = spec_of("fedd")
    write_features(tmp_path / "batch.safetensors", {f"{n:06d}": features(n) for n in (0, 1)}, spec, **FACTS)
    write_features(tmp_path / "study.safetensors", {"000002": features(2), "else": features(5)}, spec, **FACTS)
    known_segmenter(tmp_path / "segmenter")
    return tmp_path, rows


def masks(folder, rows, name="m", segmenter="segmenter", files=("batch", "study"), **settings):
    spec = spec_of("masks", {"source": "fedd", "size": 64, **settings}, rows=rows, cohort="c", batch="b.000")
    words = ["masks", "--output", folder / f"{name}.tar", "--segmenter", folder / segmenter, "--threads", "1"]
    return run(*words, "--features", *[folder / f"{file}.safetensors" for file in files], spec=spec)


def test_votes_and_disagreement_at_the_masks_size(world):
    folder, rows = world
    assert masks(folder, rows) == 0 and masks(folder, rows, "again") == 0
    assert (folder / "m.tar").read_bytes() == (folder / "again.tar").read_bytes()
    archive = Archive(folder / "m.tar")
    for number, row in enumerate(archive.rows):
        mask = decode_png(archive.read(row, "mask.png"))
        assert (mask == np.kron(truth(number), np.ones((2, 2), int))).all()
        unsure = decode_png(archive.read(row, "uncertainty.png"))
        assert (unsure[mask != LESION] == 0).all()
        assert (unsure[mask == LESION] == round(255 * 0.5623 / np.log(4))).all()  # entropy of 3 votes to 1
        assert row["mask_source"] == "fedd" and row["lesion_uncertainty"] > 0.4 and row["uncertainty"] < 0.1
    assert archive.record["segmenter_images"] == ["a", "b"]
    assert {path.rsplit("/", 1)[-1] for path in archive.record["inputs"]} >= {"record.json", "batch.json", "study.json"}


def test_features_that_are_no_numbers_stop_no_other_photo(world):
    folder, rows = world
    broken = {"000000": features(0, torch.full((5, SIDE, SIDE), torch.nan)), "000001": features(1)}
    write_features(folder / "batch.safetensors", broken, spec_of("fedd"), **FACTS)
    assert masks(folder, rows) == 0
    first, second, third = Archive(folder / "m.tar").rows
    assert "mask_failed" in first["flags"] and not first["has_mask"] and second["has_mask"] and third["has_mask"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: {"crop": "square"}, "crop resize, and the cohort is of square"),
        (lambda f: {"files": ["batch"]}, "image 000002: no map features"),
        (
            lambda f: {"segmenter": known_segmenter(f / "other", model="m2").name},
            "features of model m1, and the segmenter is of m2",
        ),
        (
            lambda f: {"segmenter": known_segmenter(f / "late", timestep=50).name},
            "features of timestep 100, and the segmenter is of 50",
        ),
        (lambda f: {"segmenter": known_segmenter(f / "wide", channels=[4, 3]).name}, "channels"),
        (lambda f: {"segmenter": "gone"}, "gone"),
        (lambda f: {"files": ["gone"]}, "no such file"),
    ],
)
def test_what_does_not_belong_together_is_refused(world, capsys, change, words):
    folder, rows = world
    assert masks(folder, rows, **change(folder)) == 2
    assert words in capsys.readouterr().err and not (folder / "m.tar").exists()


def test_a_damaged_segmenter_is_named(world, capsys):
    folder, rows = world
    weights = folder / "segmenter" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert masks(folder, rows) == 2
    assert "weights.safetensors" in capsys.readouterr().err
    assert json.loads((folder / "segmenter" / "record.json").read_text())["training_images"] == ["b", "a"]


def test_photos_that_keep_their_human_masks_need_no_features(world):
    folder, rows = world
    for number, row in enumerate(rows):
        row["mask"] = str(folder / f"{number}.npy")
        np.save(row["mask"], truth(number))
    spec = spec_of("masks", {"source": "fedd", "size": 64, "prefer_human": True}, rows=rows, cohort="c", batch="b.000")
    assert run("masks", "--output", folder / "m.tar", "--segmenter", folder / "segmenter", spec=spec) == 0
    record = Archive(folder / "m.tar").record
    assert record["sources"] == {"human": 3} and record["segmenter_images"] == []
