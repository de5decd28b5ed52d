"""Tone, quality and memorisation audits against hand-made pictures and plain formulas."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.colour import skin_angle, tone_of_angle
from cgddi.core.errors import UserError
from cgddi.core.images import encode_png
from cgddi.stages.audit.command import main
from cgddi.stages.audit.features import draw_by_name, extract
from cgddi.stages.audit.quality import _Given, frechet_distance, kernel_distance
from cgddi.stages.audit.settings import AuditSettings, FeatureSettings
from cgddi.stages.index.table import build_index, read_roles
from PIL import Image
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from skimage.color import lab2rgb
from torchmetrics.image.fid import FrechetInceptionDistance

from tests.stages.index.world import make_world

SPEC = {"stage": "audit", "seed": 1, "split": "toy", "versions": {}}


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A world whose semantic images include a copy of a training photo, a flat one and a black one; all three audits."""
    root = tmp_path_factory.mktemp("world")
    world = make_world(root)
    photos = Archive(world.photos[0])
    copied = next(row for row in photos.rows if row["image_id"] == "nel1")
    flat, black = np.full((40, 40, 3), 128, np.uint8), np.zeros((40, 40, 3), np.uint8)
    images = {"copy": photos.read(copied), "flat": encode_png(flat), "black": encode_png(black)}
    with ArchiveWriter(root / "odd.tar", {"stage": "semantic", "versions": {}}) as archive:
        archive.facts.update(generator_images=["nel0"], prior_images=[])
        for key, png in images.items():
            row = {
                "id": f"semantic/toy/{key}",
                "kind": "semantic",
                "cohort": "toy",
                "concept": "nevus",
                "tone": "light",
            }
            archive.add(key, {"png": png}, {**row, "malignant": False, "canvas": "nel0", "generator": "toy/nevus"})
    synthetic = [*world.healthy, *world.mapped, *world.semantic, str(root / "odd.tar")]
    build_index(read_roles([world.split]), world.photos, synthetic)[0].to_parquet(root / "i.parquet")
    settings = {"features": {"weights": "pixels"}, "ita_cuts": [38, -2]}
    found = {}
    for kind in ("tone", "quality", "memorisation"):
        for name in ("a", "b"):
            args = [kind, "--spec", json.dumps({**SPEC, "settings": settings}), "--index", str(root / "i.parquet")]
            main([*args, "--threads", "1", "--photos", *world.photos, "--output", str(root / f"{kind}{name}.json")])
        assert (root / f"{kind}a.json").read_bytes() == (root / f"{kind}b.json").read_bytes(), "deterministic"
        found[kind] = json.loads((root / f"{kind}a.json").read_text())
    return found


@pytest.mark.parametrize(("lightness", "b"), [(75.0, 15.0), (55.0, 18.0), (35.0, 12.0)])
def test_typology_angle_of_a_known_colour(lightness, b):
    colour = np.full((4, 4, 3), [lightness, 8.0, b])
    rgb = (lab2rgb(colour) * 255).round().astype(np.uint8)
    assert skin_angle(rgb) == pytest.approx(np.degrees(np.arctan((lightness - 50) / b)), abs=1.5)


def test_typology_angle_measures_skin_only():
    light, dark = [235, 205, 190], [70, 45, 35]
    rgb = np.full((10, 10, 3), light, np.uint8)
    rgb[:, 4:] = dark
    skin = np.zeros((10, 10), bool)
    skin[:, 4:] = True
    assert tone_of_angle(skin_angle(rgb, skin), (41, 10)) == "dark"
    assert tone_of_angle(skin_angle(rgb, ~skin), (41, 10)) == "light"
    assert skin_angle(rgb, np.zeros_like(skin)) == skin_angle(rgb)


def test_tone_audit_agrees_with_how_the_pictures_were_drawn(audited):
    tone = audited["tone"]
    assert tone["agreement"]["lesion_mapped"] > 0.9 and tone["agreement"]["healthy"] > 0.9
    light = tone["by_kind"]["semantic"]["light"]
    assert light["measured"]["dark"] >= 1, "the black picture is not light"
    assert sum(light["measured"].values()) == light["images"] == light["with_skin_mask"]


def test_quality_audit_finds_the_flat_and_the_black_picture(audited):
    quality = audited["quality"]
    assert quality["flat_images"] == ["semantic/toy/black", "semantic/toy/flat"]
    assert quality["black_images"] == ["semantic/toy/black"]
    assert quality["features"] == "16x16 colour thumbnails"
    dark = quality["by_kind"]["lesion_mapped"]["dark"]
    assert dark["fid"] > 0 and np.isfinite(dark["kid"]) and "fid" not in quality["by_kind"]["real"]["dark"]


def test_memorisation_audit_finds_the_copy(audited):
    found = audited["memorisation"]
    assert found["nearest"][0]["id"] == "semantic/toy/copy" and found["nearest"][0]["image"] == "nel1"
    assert found["nearest"][0]["bits"] == 0 and found["nearest"][0]["similarity"] > 0.999 and found["copies"] >= 1
    assert 1 <= found["closer_than_real"] < found["images"], "the copy is, most samples are not"


def test_frechet_distance_is_the_formula():
    rng = np.random.default_rng(0)
    real, other = rng.normal(0, 1, (200, 5)).astype(np.float32), rng.normal(0.5, 1.4, (150, 5)).astype(np.float32)
    a, b = np.cov(real, rowvar=False), np.cov(other, rowvar=False)
    expected = ((real.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(real, other) == pytest.approx(expected, rel=1e-4)
    metric = FrechetInceptionDistance(feature=_Given(5)).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(other), real=False)
    assert frechet_distance(real, other) == pytest.approx(float(metric.compute()), rel=1e-6)
    few = frechet_distance(real[:3], other[:4])
    assert few == pytest.approx(
        frechet_distance(np.c_[real[:3], np.zeros((3, 20))], np.c_[other[:4], np.zeros((4, 20))])
    )
    assert frechet_distance(real[:1], other) is None


def test_kernel_distance_is_small_within_and_large_between():
    rng = np.random.default_rng(0)
    real, same, far = (rng.normal(m, 1, (120, 8)).astype(np.float32) for m in (0, 0, 1.5))
    assert abs(kernel_distance(real, same, 50, 1)[0]) < 0.2 < kernel_distance(real, far, 50, 1)[0]
    assert kernel_distance(real, far, 50, 1) == kernel_distance(real, far, 50, 1)
    assert kernel_distance(real[:1], far, 50, 1) is None


def test_features_from_a_backbone_with_random_and_with_local_weights(tmp_path):
    pictures = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (40, 40, 3), np.uint8)) for n in range(3)]
    settings = FeatureSettings(backbone="test_resnet", weights="random", image_size=32, batch_size=2)
    first = extract(pictures, settings, 1)
    assert first.shape[0] == 3 and np.array_equal(first, extract(pictures, settings, 1))
    import timm

    torch.manual_seed(5)
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "w.safetensors")
    local = extract(pictures, settings.model_copy(update={"weights": str(tmp_path / "w.safetensors")}), 1)
    assert local.shape == first.shape and not np.allclose(local, first)
    with pytest.raises(UserError, match="another architecture"):
        extract(
            pictures,
            settings.model_copy(update={"weights": str(tmp_path / "w.safetensors"), "backbone": "resnet10t"}),
            1,
        )


def test_drawing_by_name_does_not_depend_on_order():
    table = pd.DataFrame({"id": [f"x{n}" for n in range(50)], "tone": ["light", "dark"] * 25})
    drawn = draw_by_name(table, 5, ["tone"])
    assert list(drawn["id"]) == list(draw_by_name(table[::-1], 5, ["tone"])["id"])
    assert drawn["tone"].value_counts().to_dict() == {"light": 5, "dark": 5}
    assert set(drawn["id"]) < set(draw_by_name(table, 9, ["tone"])["id"])


def test_settings_are_strict():
    with pytest.raises(ValueError, match="extra"):
        AuditSettings(leakage="off")
