"""Limits from drawn photos whose lesions, tones and copies are known."""

import json

import numpy as np
import pytest
from cgddi.core.archive import ArchiveWriter
from cgddi.core.images import LESION, SKIN, TONES, encode_png
from cgddi.stages.calibration.command import main

from tests.core.test_judges import rgb, skin, spot

TONE_LAB = {"light": (72, 9, 15), "medium": (57, 11, 18), "dark": (38, 9, 14)}


def write(root, count, weak=()):
    """Photos with a spot and their canvases; those of `weak` have none."""
    photos, canvases = ArchiveWriter(root / "photos.tar", {}), ArchiveWriter(root / "canvases.tar", {})
    rng = np.random.default_rng(0)
    mask = np.full((64, 64), SKIN, np.uint8)
    mask[20:40, 20:40] = LESION
    with photos, canvases:
        for number in range(count):
            name, tone = f"p{number:02d}", TONES[number % 3]
            lab = np.array(TONE_LAB[tone]) + rng.normal(0, 1, 3)
            healthy = skin(64, number, lab)
            depth = 0 if name in weak else rng.uniform(14, 25)
            sick = spot(healthy, rng.uniform(0.1, 0.2), (-depth, 3, -3), rng.uniform(0.3, 0.7, 2))
            row = {"image_id": name}
            photos.add(name, {"png": encode_png(rgb(sick)), "mask.png": encode_png(mask)}, row)
            if number != 1:
                canvases.add(name, {"png": encode_png(rgb(healthy))}, row)
    return root


def calibrate(root, images, name="limits", **settings):
    labels = [LABELS[image] | {"image_id": image} for image in images]
    (root / "spec.json").write_text(json.dumps({"stage": "calibration", "labels": labels, "settings": settings}))
    files = ["--photos", str(root / "photos.tar"), "--canvases", str(root / "canvases.tar")]
    main(["--spec", str(root / "spec.json"), *files, "--output", str(root / f"{name}.json")])
    return json.loads((root / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write(tmp_path_factory.mktemp("photos"), 37, weak=("p20",))


IMAGES = [f"p{number:02d}" for number in range(37)]
LABELS = {
    image: {
        "tone": TONES[number % 3],
        "concept": "pale" if number == 20 else "dark",
        "group": "twins" if number < 2 else None,
    }
    for number, image in enumerate(IMAGES)
}


@pytest.fixture(scope="module")
def found(world):
    return calibrate(world, IMAGES, "default")


def test_limits_lie_between_plain_skin_and_lesions(found):
    assert found["photos"] == 36, "p01 has no canvas"
    assert 1 < found["limits"]["presence"] < 7
    assert {tone: row["with a lesion"] for tone, row in found["plain_skin"].items()} == dict.fromkeys(TONES, 0)
    (low, high), angles = found["limits"]["angle"]["medium"], found["limits"]["angle"]
    assert angles["dark"][1] == low and angles["light"][0] == high, "tones that are apart meet at the cuts"
    assert -40 < low < 5 and 30 < high < 52


def test_what_is_refused_is_counted_without_the_photo_itself(found):
    found = found["refused"]
    assert found["by_disease"]["pale"] == {"photos": 1, "refused": 1, "no lesion seen": 1}
    assert found["photos"] == sum(row["photos"] for row in found["by_tone"].values()) == 36
    assert found["refused"] == sum(row["refused"] for row in found["by_tone"].values()) <= 5
    assert found["share"] == pytest.approx(found["refused"] / 36, abs=1e-4)


def test_a_higher_share_is_stricter(world):
    loose, strict = (calibrate(world, IMAGES, false_rejects=share)["limits"] for share in (0.01, 0.3))
    assert strict["presence"] > loose["presence"]
    assert strict["strangeness"] <= loose["strangeness"] and strict["likeness"] <= loose["likeness"]


def test_photos_not_named_move_nothing(world, tmp_path):
    few = IMAGES[:24]
    more = calibrate(world, few)
    alone = calibrate(write(tmp_path, 24, weak=("p20",)), few)
    for key in ("limits", "refused", "plain_skin"):
        assert more[key] == alone[key]


def test_too_few_photos_only_ask_for_a_lesion(world):
    found = calibrate(world, IMAGES[:6])
    assert found["photos"] == 5 and found["refused"] is None
    assert found["limits"]["presence"] == 5.5 and not found["limits"]["traits"]


def test_two_photos_of_one_group_are_no_yardstick_for_copies(tmp_path, monkeypatch):
    photos, canvases = ArchiveWriter(tmp_path / "photos.tar", {}), ArchiveWriter(tmp_path / "canvases.tar", {})
    mask = np.full((64, 64), SKIN, np.uint8)
    with photos, canvases:
        for number in range(12):
            seed = number - (number == 1)
            where = np.random.default_rng(seed).uniform(0.2, 0.8, 2)
            row = {"image_id": f"p{number:02d}"}
            picture = rgb(spot(skin(64, seed), 0.12, (-20, 0, 0), where))
            photos.add(row["image_id"], {"png": encode_png(picture), "mask.png": encode_png(mask)}, row)
            canvases.add(row["image_id"], {"png": encode_png(rgb(skin(64, seed)))}, row)
    assert calibrate(tmp_path, IMAGES[:12])["limits"]["likeness"] < 0.99
    monkeypatch.setitem(LABELS["p01"], "group", None)
    assert calibrate(tmp_path, IMAGES[:12])["limits"]["likeness"] > 0.999
