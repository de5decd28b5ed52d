"""The data path: pictures by byte range, their test view and their random views against torchvision's."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cgddi.core.archive import ArchiveWriter, read_member, sha256
from cgddi.core.errors import InvalidInput
from cgddi.core.images import encode_png
from cgddi.stages.classify import decode
from cgddi.stages.classify.augment import augment, normalise, random_views
from cgddi.stages.classify.data import Pictures
from cgddi.stages.classify.decode import plain_png
from cgddi.stages.classify.rows import choose_rows
from cgddi.stages.classify.settings import REGIMES, ClassifySettings
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from tests.stages.index.world import make_world

SETTINGS = ClassifySettings(image_size=32, min_concept_images=1)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("world"))
    return choose_rows(pd.read_parquet(world.write_index()), REGIMES["mixed"], SETTINGS, 1)


def photo(width=80, height=80):
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([127 + 100 * np.sin(x / 9), 127 + 100 * np.cos(y / 7), 127 + 100 * np.sin((x + y) / 11)], -1)
    return Image.fromarray(smooth.astype(np.uint8))


def archived(tmp_path, *pictures):
    """Index rows of pictures in an archive of their own."""
    with ArchiveWriter(tmp_path / "p.tar", {"stage": "masks"}) as archive:
        for n, picture in enumerate(pictures):
            archive.add(f"p{n}", {"png": encode_png(np.asarray(picture))}, {"id": f"p{n}"})
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    places = [dict(zip(("start", "size"), line["members"]["png"], strict=True)) for line in lines]
    return pd.DataFrame(
        [{**line, **place, "archive": str(tmp_path / "p.tar")} for line, place in zip(lines, places, strict=True)]
    )


@pytest.mark.parametrize("size", [(90, 70), (64, 64), (40, 120)])
def test_the_test_view_is_the_published_one(tmp_path, size):
    settings = ClassifySettings(image_size=56, resize=64)
    published = transforms.Compose(
        [transforms.Resize(64), transforms.CenterCrop(56), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    found = normalise(Pictures(archived(tmp_path, photo(*size)), settings, True, 1)[np.array([0])])
    assert torch.allclose(found[0], published(photo(*size)), atol=1e-5)


def test_published_sizes():
    assert ClassifySettings().resize_to == 256 and ClassifySettings().image_size == 224


@pytest.mark.parametrize("case", range(6))
def test_a_random_view_is_crop_rotation_mirroring_and_centre_crop_as_torchvision_has_them(tmp_path, case):
    settings = ClassifySettings(image_size=56, resize=64)
    side = 70
    left, top, width, height = 2 + case, 5, 60 - 2 * case, 55 + case
    degrees, mirrored = (4 + 2 * case) * (-1) ** (case // 2), case % 2 == 1
    kept = Pictures(archived(tmp_path, photo(side, side)), settings, False, 1)[np.array([0, 0])]
    assert kept.shape == (2, 3, side, side) and np.array_equal(kept[0].permute(1, 2, 0), np.asarray(photo(side, side)))
    centre = [(2 * left + width) / side - 1, (2 * top + height) / side - 1]
    view = [*centre, width / side, height / side, np.radians(degrees), -1 if mirrored else 1]
    found = augment(kept, torch.tensor([[0, 0, 1, 1, 0, 1], view]).float(), settings)
    whole = v2.functional.center_crop(v2.functional.resize(kept[0].float(), [64, 64]), [56, 56])
    assert (found[0] - normalise(whole)).abs().mean() < 0.02, "each picture has a view of its own"
    cropped = v2.functional.resized_crop(kept[1].float(), top, left, height, width, [64, 64])
    differences = []
    for sign in (1, -1):  # which way is positive differs; the view is symmetrical
        turned = v2.functional.rotate(cropped, sign * degrees, v2.InterpolationMode.BILINEAR)
        turned = v2.functional.horizontal_flip(turned) if mirrored else turned
        differences.append(float((found[1] - normalise(v2.functional.center_crop(turned, [56, 56]))).abs().mean()))
    assert min(differences) < 0.01 < 0.02 < max(differences)


def by_hand(picture, view, settings):
    """One view in plain numpy, pixel by pixel: where each comes from, and the four pixels around that place."""
    size, side = settings.image_size, picture.shape[-1]
    cx, cy, hx, hy, angle, sign = map(float, view)
    shown = np.zeros((3, size, size))
    for row in range(size):
        for column in range(size):
            u, v = ((2 * place + 1 - size) / settings.resize_to for place in (column, row))
            u *= sign
            u, v = u * np.cos(angle) + v * np.sin(angle) * 1.0, -u * np.sin(angle) + v * np.cos(angle)
            if max(abs(u), abs(v)) > 1:
                continue
            x, y = (((c + h * t) + 1) * side / 2 - 0.5 for c, h, t in ((cx, hx, u), (cy, hy, v)))
            x, y = min(max(x, 0), side - 1), min(max(y, 0), side - 1)
            left, top = int(x), int(y)
            right, bottom = min(left + 1, side - 1), min(top + 1, side - 1)
            a, b = x - left, y - top
            upper = picture[:, top, left] * (1 - a) + picture[:, top, right] * a
            lower = picture[:, bottom, left] * (1 - a) + picture[:, bottom, right] * a
            shown[:, row, column] = upper * (1 - b) + lower * b
    return (shown / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]


def test_a_batch_is_what_each_of_its_pictures_is_alone():
    settings, rng = ClassifySettings(image_size=28, resize=32), np.random.default_rng(5)
    pictures = torch.from_numpy(rng.integers(0, 256, (7, 3, 36, 36), dtype=np.uint8))
    views = random_views(7, rng)
    views[0] = [0, 0, 1, 1, 0.2, 1]  # a crop up to the edge, beyond which a rotation looks
    found = augment(pictures, torch.from_numpy(views), settings)
    for number in range(7):
        expected = by_hand(pictures[number].double().numpy(), views[number], settings)
        assert np.abs(found[number].numpy() - expected).max() < 2e-3, "in standard deviations of some 57 grey levels"
        alone = augment(pictures[number : number + 1], torch.from_numpy(views[number : number + 1]), settings)
        assert torch.equal(found[number], alone[0])


def test_what_rotation_brings_in_is_black():
    settings = ClassifySettings(image_size=64, resize=64)
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    found = augment(white, torch.tensor([[0, 0, 0.9, 0.9, np.radians(15), 1]]).float(), settings)
    black, full = normalise(torch.tensor([0.0, 255.0])[:, None, None, None].repeat(1, 3, 1, 1))[:, :, 0, 0]
    assert torch.allclose(found[0, :, 0, 0], black) and torch.allclose(found[0, :, 32, 32], full)
    level = augment(white, torch.tensor([[0, 0, 0.9, 0.9, 0, 1]]).float(), settings)
    assert torch.allclose(level, full[:, None, None].expand_as(level[0])[None])


def test_views_are_drawn_as_torchvision_draws_them():
    count = 20000
    views = random_views(count, np.random.default_rng(0))
    torch.manual_seed(0)
    params, square = transforms.RandomResizedCrop.get_params, torch.zeros(1, 1000, 1000)
    drawn = np.array([params(square, (0.8, 1.0), (3 / 4, 4 / 3)) for _ in range(count // 4)]) / 1000
    top, left, height, width = drawn.T
    theirs = {"area": width * height, "log ratio": np.log(width / height), "x": left + width / 2, "y": top + height / 2}
    w, h = views[:, 2], views[:, 3]
    ours = {"area": w * h, "log ratio": np.log(w / h), "x": (views[:, 0] + 1) / 2, "y": (views[:, 1] + 1) / 2}
    for name in ours:
        for share in (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98):
            assert np.quantile(ours[name], share) == pytest.approx(np.quantile(theirs[name], share), abs=0.008), name
    assert ((np.abs(views[:, :2]) + views[:, 2:4]) <= 1 + 1e-6).all(), "crops lie inside"
    degrees = np.degrees(views[:, 4])
    assert np.abs(degrees).max() <= 15 and np.allclose(np.quantile(degrees, [0.1, 0.5, 0.9]), [-12, 0, 12], atol=0.4)
    assert set(views[:, 5]) == {-1, 1} and (views[:, 5] == -1).mean() == pytest.approx(0.5, abs=0.02)


def test_pictures_come_from_the_archives_whatever_fits_in_memory(rows):
    """Kept altogether, in part and not at all; by one thread or three."""
    side = 40
    kept = [
        Pictures(rows.train, SETTINGS, False, threads, memory)
        for threads, memory in ((1, 1 << 30), (3, 50 * 3 * side**2), (2, 0))
    ]
    draws = [np.random.default_rng(n).integers(0, len(rows.train), 64) for n in range(4)]
    for places, *found in zip(draws, *(pictures.batches(draws) for pictures in kept), strict=True):
        for n, place in enumerate(places[:8]):
            row = rows.train.iloc[place]
            picture = Image.open(io.BytesIO(read_member(row.archive, row.start, row["size"])))
            assert np.array_equal(found[0][n].permute(1, 2, 0), np.asarray(picture))
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    drawn = len(set(np.concatenate(draws)))
    assert [pictures.used for pictures in kept] == [drawn, 50, 0] and drawn > 50
    assert [pictures.load().used for pictures in kept] == [len(rows.train), 50, 0]


def test_the_fast_reader_gives_pillows_pixels_or_none(tmp_path):
    """Our own PNG files; others, and damaged ones, are Pillow's business."""
    for size in ((1, 1), (5, 3), (64, 64), (37, 90)):
        png = encode_png(np.asarray(photo(*size)))
        assert np.array_equal(plain_png(png), np.asarray(Image.open(io.BytesIO(png))))
    assert plain_png(png[: len(png) // 2]) is None and plain_png(png[:20]) is None and plain_png(b"") is None
    assert plain_png(encode_png(np.zeros((8, 8), np.uint8))) is None, "grey"
    with io.BytesIO() as file:
        photo(40, 30).save(file, "png")
        assert plain_png(file.getvalue()) is None, "Pillow's filters"
    other = photo(40, 40).convert("P")
    other.save(tmp_path / "p.png")
    assert plain_png((tmp_path / "p.png").read_bytes()) is None


@pytest.mark.parametrize("killed", [False, True])
def test_processes_decode_what_one_thread_does(rows, monkeypatch, killed):
    """Two processes, one of them killed under way; with room for a part of the pictures."""
    monkeypatch.setattr(decode, "PATIENCE", 20)
    alone, several = (Pictures(rows.train, SETTINGS, False, n, 20 * 3 * 40**2) for n in (1, 2))
    draws = [np.random.default_rng(n).integers(0, len(rows.train), 32) for n in range(8)]
    for number, (one, two) in enumerate(zip(alone.batches(draws), several.batches(draws), strict=True)):
        assert torch.equal(one, two)
        if killed and number == 2:
            os.kill(next(iter(several.decoders._processes._processes)), signal.SIGKILL)
    assert alone.decoders._processes is None and several.decoders._processes is not None
    assert np.array_equal(alone.place, several.place)


def test_no_decoding_process_outlives_its_parent(rows, tmp_path):
    rows.train.to_parquet(tmp_path / "rows.parquet")
    code = f"""if True:
        import pandas as pd
        from cgddi.stages.classify import decode
        from cgddi.stages.classify.data import Pictures
        from cgddi.stages.classify.settings import ClassifySettings
        decode.PATIENCE = 0
        pictures = Pictures(pd.read_parquet({str(tmp_path / "rows.parquet")!r}), ClassifySettings(image_size=32), False, 2)
        pictures.load()
        print(*pictures.decoders._processes._processes, flush=True)
        input()
    """
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    workers = [*map(int, parent.stdout.readline().split())]
    assert len(workers) == 2 and all(Path(f"/proc/{pid}").exists() for pid in workers)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < end, "they go on"
        time.sleep(0.05)
    parent.stdin.close(), parent.stdout.close()


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_large_pictures_are_kept_at_the_side_that_the_smallest_crop_needs(tmp_path):
    large = Pictures(archived(tmp_path, photo(200, 200)), ClassifySettings(image_size=56, resize=64), False, 1)
    assert large.side == 72 and large.side * np.sqrt(0.8) >= 64
    expected = photo(200, 200).resize((72, 72), Image.Resampling.BILINEAR)
    assert np.array_equal(large[np.array([0])][0].permute(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("fixed", [True, False])
def test_every_lost_or_changed_picture_is_named(rows, tmp_path, fixed):
    whole = Path(rows.test["archive"].iloc[0]).read_bytes()
    first, second, fourth = rows.test.iloc[0], rows.test.iloc[1], rows.test.iloc[3]
    broken = bytearray(whole)
    broken[first["start"] + first["size"] // 2] ^= 1
    (tmp_path / "broken.tar").write_bytes(broken)
    (tmp_path / "short.tar").write_bytes(whole[: second["start"] + 10])
    (tmp_path / "text.tar").write_bytes(b"no picture")
    damaged = rows.test.copy()
    damaged.loc[damaged.index[0], "archive"] = str(tmp_path / "broken.tar")
    damaged.loc[damaged.index[1], "archive"] = str(tmp_path / "short.tar")
    damaged.loc[damaged.index[2], "archive"] = str(tmp_path / "absent.tar")
    damaged.loc[damaged.index[3], ["archive", "start", "size"]] = [str(tmp_path / "text.tar"), 0, 10]
    damaged.loc[damaged.index[3], "sha256"] = sha256(b"no picture")
    with pytest.raises(InvalidInput, match="4 problem") as error:
        Pictures(damaged, SETTINGS, fixed, 2).load()
    for text in (
        f"{first['id']} is not what",
        f"before image {second['id']}",
        "absent.tar",
        f"{fourth['id']} cannot be read",
    ):
        assert text in str(error.value)
    with pytest.raises(InvalidInput, match="is not what the index says"):
        Pictures(damaged.iloc[[4, 0]], SETTINGS, fixed, 1, memory=0)[np.array([1])]
