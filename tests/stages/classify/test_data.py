"""The data path: byte ranges, augmentation against torchvision, sampling, verification."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cgddi.core.archive import read_member
from cgddi.core.errors import InvalidInput, UserError
from cgddi.stages.classify.augment import crop_box, train_picture
from cgddi.stages.classify.augment import test_picture as fixed_view
from cgddi.stages.classify.data import MEAN, STD, ArchiveImages, InOrder, loader, to_input, verify
from cgddi.stages.classify.rows import choose_rows
from cgddi.stages.classify.sampling import BalancedSampler, Shuffled, sampling_weights
from cgddi.stages.classify.settings import REGIMES, ClassifySettings
from cgddi.stages.index.command import main as index_main
from PIL import Image
from torchvision.transforms import RandomResizedCrop, v2

from tests.stages.index.world import make_world

SETTINGS = ClassifySettings(image_size=32, min_concept_images=1, workers=0)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    world = make_world(root)
    index_main(
        ["--spec", json.dumps({"stage": "index", "versions": {}, "split": "t"}), *world.index_args(root / "i.parquet")]
    )
    return pd.read_parquet(root / "i.parquet")


@pytest.fixture(scope="module")
def rows(index):
    return choose_rows(index, REGIMES["mixed"], SETTINGS, 1)


def photo(width=90, height=70):
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([127 + 100 * np.sin(x / 9), 127 + 100 * np.cos(y / 7), 127 + 100 * np.sin((x + y) / 11)], -1)
    return Image.fromarray(smooth.astype(np.uint8))


@pytest.mark.parametrize("size", [(90, 70), (64, 64), (40, 120)])
def test_fixed_view_is_resize_and_centre_crop(size):
    settings = ClassifySettings(image_size=56, resize=64)
    reference = v2.Compose([v2.Resize(64), v2.CenterCrop(56)])(photo(*size))
    found = fixed_view(photo(*size), settings).transpose(1, 2, 0).astype(int)
    assert found.shape == (56, 56, 3)
    assert np.abs(found - np.asarray(reference, int)).mean() < 4


def test_train_view_without_randomness_is_the_resized_centre():
    settings = ClassifySettings(image_size=56, resize=64, rotation=0, hflip=0, crop_scale=(1, 1))
    square = photo(80, 80)
    found = train_picture(square, settings, np.random.default_rng(0))
    boxed = np.asarray(square.resize((64, 64), Image.Resampling.BILINEAR, reducing_gap=2.0))[4:60, 4:60].transpose(
        2, 0, 1
    )
    rng = np.random.default_rng(0)
    while not np.array_equal(found, boxed):
        found = train_picture(
            square, settings, rng
        )  # the aspect ratio is drawn too; a draw that does not fit gives the whole
    mirrored = train_picture(square, settings.model_copy(update={"hflip": 1.0}), np.random.default_rng(3))
    plain = train_picture(square, settings, np.random.default_rng(3))
    assert np.array_equal(mirrored, plain[:, :, ::-1])


@pytest.mark.parametrize("seed", range(4))
def test_train_view_rotates_as_pillow_does(seed):
    settings = ClassifySettings(image_size=56, resize=64, rotation=40, hflip=0)
    turned = train_picture(photo(), settings, np.random.default_rng(seed)).transpose(1, 2, 0)
    level = train_picture(
        photo(), settings.model_copy(update={"image_size": 64, "rotation": 0}), np.random.default_rng(seed)
    )
    rng = np.random.default_rng(seed)
    straight = Image.fromarray(np.ascontiguousarray(level.transpose(1, 2, 0)))
    crop_box(photo().size, settings.crop_scale, rng)
    angle = rng.uniform(-40, 40)
    differences = []
    for sign in (1, -1):
        reference = np.asarray(straight.rotate(sign * angle, Image.Resampling.NEAREST))[4:60, 4:60]
        differences.append(np.abs(reference.astype(int) - turned.astype(int)).mean())
    assert min(differences) < 2 < max(differences)


def test_random_crops_cover_the_share_of_area_torchvision_draws():
    rng = np.random.default_rng(0)
    boxes = np.asarray([crop_box((256, 256), (0.8, 1.0), rng) for _ in range(2000)])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 256**2
    torch.manual_seed(0)
    drawn = [RandomResizedCrop.get_params(torch.zeros(3, 256, 256), (0.8, 1.0), (3 / 4, 4 / 3)) for _ in range(2000)]
    reference = np.asarray([height * width for _, _, height, width in drawn]) / 256**2
    assert areas.mean() == pytest.approx(reference.mean(), abs=0.01) and areas.std() == pytest.approx(
        reference.std(), abs=0.01
    )
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 256).all()


def test_images_come_from_the_archives_whatever_the_number_of_workers(rows):
    sampler = BalancedSampler(sampling_weights(rows.train, "class"), 40, 5)
    batches = []
    for workers in (0, 2):
        sampler.epoch = 3
        batches.append(list(loader(ArchiveImages(rows.train, SETTINGS, 9), sampler, 16, workers)))
    for one, two in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    pixels, labels, tones, places = batches[0][0]
    assert pixels.dtype == torch.uint8 and pixels.shape == (16, 3, 32, 32)
    assert labels.tolist() == rows.train["label"].iloc[places.tolist()].tolist()
    assert tones.tolist() == rows.train["tone_id"].iloc[places.tolist()].tolist()


def test_test_view_in_order_equals_decoding_by_hand(rows):
    images = ArchiveImages(rows.test, SETTINGS, 0)
    pixels = torch.cat([batch[0] for batch in loader(images, InOrder(len(rows.test)), 5, 0)])
    for place, row in enumerate(rows.test.itertuples(index=False)):
        picture = Image.open(io.BytesIO(read_member(row.archive, row.start, row.size))).convert("RGB")
        assert np.array_equal(pixels[place].numpy(), fixed_view(picture, SETTINGS))
    normal = to_input(pixels, torch.device("cpu"), False)
    expected = v2.functional.normalize(pixels.float() / 255, list(MEAN), list(STD))
    assert torch.allclose(normal, expected, atol=1e-5)


def test_no_draw_number_comes_twice():
    sampler = BalancedSampler(np.ones(10), 7, 1)
    draws = [draw for _ in range(3) for _, draw in sampler]
    assert len(set(draws)) == 21
    assert sorted(row for row, _ in Shuffled(np.ones(10), 10, 1)) == list(range(10))
    assert np.bincount([row for row, _ in Shuffled(np.ones(10), 25, 1)]).tolist().count(3) == 5


@pytest.mark.parametrize(("sampler", "keys"), [("class", ["label"]), ("tone_class", ["tone", "label"])])
def test_balanced_sampling_draws_every_group_equally(rows, sampler, keys):
    weights = sampling_weights(rows.train, sampler)
    shares = rows.train.assign(w=weights).groupby(keys)["w"].sum()
    assert np.allclose(shares, 1 / len(shares))
    drawn = [row for row, _ in BalancedSampler(weights, 20000, 3)]
    observed = rows.train.iloc[drawn].groupby(keys).size() / 20000
    assert np.allclose(observed, 1 / len(shares), atol=0.02)


def test_diseases_are_drawn_equally_within_a_tone_and_class(rows):
    weights = sampling_weights(rows.train, "tone_class_concept")
    drawn = rows.train.assign(w=weights)
    assert np.allclose(drawn.groupby(["tone", "label"])["w"].sum(), 1 / 6)
    inside = drawn.groupby(["tone", "label", "concept"])["w"].sum()
    for _, shares in inside.groupby(["tone", "label"]):
        assert np.allclose(shares, shares.iloc[0]), "three benign concepts (healthy is one), two malignant ones"
    assert sorted(set(inside.groupby(["tone", "label"]).size())) == [2, 3]


@pytest.mark.parametrize("sampler", ["none", "class", "tone_class", "tone_class_concept"])
@pytest.mark.parametrize("ratio", [None, 0.5])
def test_shares_of_kinds_redistribute_their_draws_and_no_others(rows, sampler, ratio):
    train = rows.train
    before = train.assign(w=sampling_weights(train, sampler, ratio))
    after = train.assign(w=sampling_weights(train, sampler, ratio, {"lesion_mapped": 3, "semantic": 1}))
    sums = after.groupby("kind")["w"].sum()
    if sampler != "tone_class_concept":  # there are concepts without a mapped image of some tone
        assert sums["lesion_mapped"] == pytest.approx(3 * sums["semantic"])
    for kind in ("real", "healthy"):
        assert sums[kind] == pytest.approx(before[before["kind"] == kind]["w"].sum())
    groups = ["tone", "label"] if sampler.startswith("tone_class") else ["label"]
    if sampler != "none":
        assert np.allclose(after.groupby(groups)["w"].sum(), before.groupby(groups)["w"].sum())
    assert after["w"].sum() == pytest.approx(1)


def test_shares_of_zero_that_leave_a_group_empty_are_refused(rows):
    with pytest.raises(UserError, match="share zero to every named kind"):
        sampling_weights(rows.train, "class", None, {"semantic": 0})


@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
def test_ratio_of_real_to_synthetic_draws(rows, ratio):
    weights = sampling_weights(rows.train, "class", ratio)
    real = (rows.train["kind"] == "real").to_numpy()
    assert weights[real].sum() / weights[~real].sum() == pytest.approx(ratio)
    labels = rows.train["label"].to_numpy()
    assert weights[real & (labels == 0)].sum() == pytest.approx(weights[real & (labels == 1)].sum())


def test_verification_names_every_lost_or_changed_image(rows, tmp_path):
    verify(rows.test, 2)
    whole = Path(rows.test["archive"].iloc[0]).read_bytes()
    first, second = rows.test.iloc[0], rows.test.iloc[1]
    broken = bytearray(whole)
    broken[first["start"] + first["size"] // 2] ^= 1
    (tmp_path / "broken.tar").write_bytes(broken)
    (tmp_path / "short.tar").write_bytes(whole[: second["start"] + 10])
    damaged = rows.test.copy()
    damaged.loc[damaged.index[0], "archive"] = str(tmp_path / "broken.tar")
    damaged.loc[damaged.index[1], "archive"] = str(tmp_path / "short.tar")
    damaged.loc[damaged.index[2], "archive"] = str(tmp_path / "absent.tar")
    with pytest.raises(InvalidInput, match="3 problem") as error:
        verify(damaged, 2)
    for text in (first["id"], second["id"], "absent.tar: archive cannot be read"):
        assert text in str(error.value)
