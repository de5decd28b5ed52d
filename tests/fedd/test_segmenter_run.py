"""`cgddi fedd segmenter` on a made study: it learns what can be learnt, from training photos alone, and refuses bad input."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from cgddi.core.bootstrap import Bootstrap
from cgddi.core.errors import InvalidInput, UserError
from cgddi.fedd.features.files import FeatureFiles
from cgddi.fedd.iou import iou_rows, read_counts
from cgddi.fedd.segmenter.ensemble import load
from cgddi.fedd.segmenter.pixels import PixelSampler, load_pixels, validation_pixels
from cgddi.fedd.study import Photos
from safetensors import safe_open

from tests.fedd.specs import train
from tests.fedd.study import SIZE, make_study, truth_of

PER_TONE = {"train": 4, "validation": 2, "test": 2}


segment = partial(train, "segmenter")


def iou(output) -> dict[tuple[str, str], float]:
    rows = iou_rows([read_counts(output / "test.csv", {})], Bootstrap(20, 0.95, 0))
    return {(row["class"], row["tone"]): row["iou"] for row in rows}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A study whose classes can be told apart, its spec, and the run of a plain segmenter."""
    folder = tmp_path_factory.mktemp("study")
    spec = make_study(folder, 4.0, PER_TONE)
    record = segment(spec, folder, folder / "plain")
    return folder, spec, record


def test_it_learns_separable_classes(world) -> None:
    folder, spec, record = world
    found = iou(folder / "plain")
    assert min(value for value in found.values()) > 0.9
    assert record["training_images"] == sorted(row["image_id"] for row in spec["train"])
    assert record["counts"]["test"]["dark"] == {"images": 2, "malignant": 1}
    assert record["left_out"] == [] and record["variant"] == "plain" and record["subset"] == "20"
    assert record["history"][0]["loss"] > record["history"][-1]["loss"]
    doubt = record["disagreement"]["test"]
    assert doubt["wrong"] is None or doubt["wrong"] > doubt["right"]
    with safe_open(folder / "plain/pictures.safetensors", "np") as pictures:
        shown = json.loads(pictures.metadata()["cgddi"])["images"]
        assert len(shown) == 6 and pictures.get_tensor(shown[0]["image_id"] + "/uncertainty").shape == (SIZE, SIZE)


def test_its_masks_are_those_in_the_table(world) -> None:
    """The loaded weights give the masks whose counts the run wrote."""
    folder, spec, _ = world
    segmenter, files = load(folder / "plain"), FeatureFiles([folder / "features.safetensors"])
    row = spec["test"][0]
    mask, _ = segmenter.predict(files.maps(row["image_id"], segmenter.blocks))
    line = next(
        x
        for x in (folder / "plain/test.csv").read_text().splitlines()
        if x.startswith(f"{row['image_id']},light,false,lesion")
    )
    truth = np.load(row["mask"])
    assert line.split(",")[4] == str(((mask == 1) & (truth == 1)).sum())


def test_same_bytes_and_nothing_learnt_from_the_test(world, tmp_path) -> None:
    """Run again: the same bytes. With other test photos: the same weights."""
    folder, spec, _ = world
    segment(spec, folder, tmp_path / "again")
    for name in ("weights.safetensors", "test.csv", "validation.csv", "pictures.safetensors", "record.json"):
        assert (folder / "plain" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    segment({**spec, "test": spec["test"][:1]}, folder, tmp_path / "other")
    assert (tmp_path / "other/weights.safetensors").read_bytes() == (folder / "plain/weights.safetensors").read_bytes()


def test_members_do_not_depend_on_their_number(world, tmp_path) -> None:
    folder, spec, _ = world
    fewer = {**spec, "settings": {**spec["settings"], "ensemble": 2, "steps": 50}}
    more = {**spec, "settings": {**spec["settings"], "ensemble": 3, "steps": 50}}
    weights = []
    for name, job in (("fewer", fewer), ("more", more)):
        segment(job, folder, tmp_path / name)
        weights.append(load(tmp_path / name).networks.first.weight[:2])
    assert torch.allclose(*weights, atol=1e-4)


def test_it_does_not_learn_from_noise(tmp_path) -> None:
    spec = make_study(tmp_path, 0.0, PER_TONE)
    record = segment(spec, tmp_path, tmp_path / "run")
    assert iou(tmp_path / "run")["lesion", "all"] < 0.3
    assert record["disagreement"]["test"]["wrong"] > record["disagreement"]["test"]["right"]


@pytest.mark.parametrize("variant", ["reweight", "centre"])
def test_variants_learn_too(world, tmp_path, variant) -> None:
    folder, spec, plain = world
    record = segment({**spec, "variant": variant}, folder, tmp_path / variant)
    assert iou(tmp_path / variant)["lesion", "all"] > 0.9
    assert record["variant"] == variant and load(tmp_path / variant).facts["variant"] == variant
    first, last = (record["history"][k]["tone_weights"] for k in (0, -1))
    assert first == plain["history"][0]["tone_weights"] == {"light": 0.33333, "medium": 0.33333, "dark": 0.33333}
    assert (last == first) == (variant != "reweight")


def loaded(folder, spec, role="train"):
    truth = np.stack([np.load(row["mask"]) for row in spec[role]]).astype(np.uint8)
    photos = Photos(tuple(spec[role]), np.zeros((len(truth), 3, SIZE, SIZE), np.uint8), truth)
    return load_pixels(FeatureFiles([folder / "features.safetensors"]), photos, [2, 1], "cpu")


def test_reweight_draws_the_tone_it_does_poorly(world) -> None:
    folder, spec, _ = world
    sampler = PixelSampler(loaded(folder, spec), [torch.Generator().manual_seed(0)])
    sampler.reweigh(torch.tensor([0.9, 0.9, 0.1]))
    assert (sampler.tone_weights[2] / sampler.tone_weights[0]).item() == pytest.approx(np.exp(0.4), rel=1e-4)
    sampler.reweigh(torch.tensor([0.5, torch.nan, 0.5]))  # a tone without lesion pixels: as the others
    assert (sampler.tone_weights[2] / sampler.tone_weights[1]).item() == pytest.approx(np.exp(0.4), rel=1e-4)


def test_centre_is_blind_to_what_a_photo_is_like_as_a_whole(tmp_path) -> None:
    """Trained and tested with dark skin moved far off, it does as well there; moving all features of a photo moves no pixel."""
    spec = {**make_study(tmp_path, 4.0, PER_TONE, tone_shift=30.0), "variant": "centre"}
    segment(spec, tmp_path, tmp_path / "centre")
    assert iou(tmp_path / "centre")["lesion", "dark"] > 0.8
    segmenter, files = load(tmp_path / "centre"), FeatureFiles([tmp_path / "features.safetensors"])
    maps = {block: values.float() for block, values in files.maps("test-light-0", [2, 1]).items()}
    mask, doubt = segmenter.predict(maps)
    moved, other_doubt = segmenter.predict({block: values + 50 for block, values in maps.items()})
    assert (mask == moved).mean() > 0.995 and np.abs(doubt - other_doubt).mean() < 0.01


def test_held_pixels_stand_for_all(world) -> None:
    """Weighed, the validation pixels hold as many of each class as the masks; every class of a photo is among them."""
    folder, spec, _ = world
    data = loaded(folder, spec, "validation")
    held = validation_pixels(data, 100, 3)
    for class_id in range(5):
        assert held.weight[held.y == class_id].sum().item() == pytest.approx((data.truth == class_id).sum().item())
    assert len(held.y) <= 600 and (held.y == 1).sum() >= 6 * 20


def altered(name):
    """A spec with one thing wrong; returns it with the words of the error."""

    def no_mask(spec, folder):
        spec["train"][1]["mask"] = None
        return "train-light-1: has no human mask"

    def unknown_ids(spec, folder):
        mask = truth_of(1)
        mask[0, 0] = 9
        np.save(folder / "bad.npy", mask)
        spec["test"][0]["mask"] = str(folder / "bad.npy")
        return r"test-light-0.*no class \(9\)"

    def float_mask(spec, folder):
        np.save(folder / "float.npy", truth_of(1) * 0.5)
        spec["validation"][0]["mask"] = str(folder / "float.npy")
        return "whole numbers"

    def other_shape(spec, folder):
        np.save(folder / "wide.npy", truth_of(1)[:16])
        spec["train"][0]["mask"] = str(folder / "wide.npy")
        return "does not have the photo's shape"

    def no_features(spec, folder):
        spec["train"].append({**spec["train"][0], "image_id": "stranger"})
        return "stranger: no map features of block 1, 2"

    def other_block(spec, folder):
        spec["blocks"] = [2, 5]
        return "no map features of block 5"

    def other_timestep(spec, folder):
        spec["timestep"] = 50
        return "timestep 100, and the study is of 50"

    def other_size(spec, folder):
        spec["size"] = 64
        return "size 32, and the study is of 64"

    def tested_on(spec, folder):
        spec["test"].append(spec["train"][0])
        return "train-light-0: is listed for test and also for train"

    def no_validation(spec, folder):
        spec["validation"] = []
        return "no validation photos"

    def no_lesion(spec, folder):
        np.save(folder / "bare.npy", np.full((SIZE, SIZE), 4))
        for row in spec["train"]:
            row["mask"] = str(folder / "bare.npy")
        return "none of the training masks has a lesion"

    def all_lesion(spec, folder):
        np.save(folder / "all.npy", np.ones((SIZE, SIZE), int))
        for row in spec["train"]:
            row["mask"] = str(folder / "all.npy")
        return "every training mask is lesion all over"

    def variant(spec, folder):
        spec["variant"] = "fair"
        return "no variant 'fair'"

    def setting(spec, folder):
        spec["settings"]["ensembles"] = 3
        return "ensembles"

    return locals()[name]


@pytest.mark.parametrize(
    "name",
    [
        "no_mask",
        "unknown_ids",
        "float_mask",
        "other_shape",
        "no_features",
        "other_block",
        "other_timestep",
        "other_size",
    ]
    + ["tested_on", "no_validation", "no_lesion", "all_lesion", "variant", "setting"],
)
def test_bad_input_stops_before_training(world, tmp_path, name) -> None:
    folder, spec, _ = world
    spec = copy.deepcopy(spec)
    words = altered(name)(spec, tmp_path)
    with pytest.raises((UserError, InvalidInput), match=words):
        segment(spec, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_training_mask_that_is_lesion_all_over_is_left_out(world, tmp_path) -> None:
    folder, spec, _ = world
    spec = copy.deepcopy(spec)
    np.save(tmp_path / "all.npy", np.ones((SIZE, SIZE), int))
    spec["train"][0]["mask"] = str(tmp_path / "all.npy")
    spec["settings"]["steps"] = 50
    record = segment(spec, folder, tmp_path / "out")
    assert [line["image_id"] for line in record["left_out"]] == ["train-light-0"]
    assert "train-light-0" not in record["training_images"]
