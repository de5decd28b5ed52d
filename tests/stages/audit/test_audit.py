"""Tone, quality and memorisation audits: every figure recomputed by loops, closed formulas or another library."""

from __future__ import annotations

import hashlib
import io
import json
import threading

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from cgddi.core.archive import Archive, ArchiveWriter, read_member
from cgddi.core.errors import UserError
from cgddi.core.images import SKIN, TONES, decode_png, encode_png
from cgddi.stages.audit.command import main
from cgddi.stages.audit.features import ahead, draw_by_name, extract
from cgddi.stages.audit.quality import frechet_distance, held_out, kernel_distance
from cgddi.stages.audit.settings import AuditSettings, FeatureSettings
from cgddi.stages.index.table import build_index, read_roles
from PIL import Image
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from skimage.color import rgb2lab

from tests.stages.index.world import make_world

CUTS = (38.0, -2.0)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def checkers(low, high):
    """A grey picture whose pixels take two values equally often: mean (low + high) / 2, standard deviation (high - low) / 2."""
    board = np.indices((40, 40)).sum(0) % 2
    return np.repeat(np.where(board, high, low)[..., None], 3, -1).astype(np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world whose semantic images include copies of training photos (one its own canvas's) and pictures at each threshold."""
    root = tmp_path_factory.mktemp("world")
    world = make_world(root)
    photos = Archive(world.photos[0])
    rows = {row["image_id"]: row for row in photos.rows}
    images = {name: photos.read(rows[image]) for name, image in (("copy", "nel1"), ("own", "nel0"), ("held", "nel4"))}
    greys = {"flat": (128, 131), "coarse": (126, 130), "black": (0, 15), "dim": (6, 10), "plain": (40, 200)}
    images |= {name: encode_png(checkers(*pair)) for name, pair in greys.items()}
    with ArchiveWriter(root / "odd.tar", {"stage": "semantic", "versions": {}}) as archive:
        archive.facts.update(generator_images=["nel0"], prior_images=[])
        for key, png in images.items():
            row = {"id": f"semantic/toy/{key}", "kind": "semantic", "cohort": "toy", "concept": "nevus"}
            row |= {"tone": "light", "malignant": False, "canvas": "nel0", "generator": "toy/nevus"}
            archive.add(key, {"png": png}, row)
    synthetic = [*world.healthy, *world.mapped[:5], *world.semantic[:3], str(root / "odd.tar")]
    index = build_index(read_roles([world.split]), world.photos, synthetic)[0]
    index.to_parquet(root / "i.parquet")
    return world, index


def audit(world, folder, kind, seed=1, **settings):
    settings = {"features": {"weights": "pixels"}, "ita_cuts": CUTS, **settings}
    index = pd.read_parquet(world.root / "i.parquet")
    held = index[(index["kind"] == "real") & (index["role"] != "train")]
    labels = [{"image_id": row.image_id, "tone": row.tone} for row in held.itertuples()]
    spec = {"stage": "audit", "seed": seed, "split": "toy", "versions": {}, "settings": settings, "labels": labels}
    (folder / "spec.json").write_text(json.dumps(spec))
    args = [kind, "--spec", str(folder / "spec.json"), "--index", str(world.root / "i.parquet"), "--threads", "1"]
    main([*args, "--photos", *world.photos, "--output", str(folder / "found.json")])
    return json.loads((folder / "found.json").read_text())


def pixels(row):
    return np.asarray(Image.open(io.BytesIO(read_member(row.archive, row.start, row.size))).convert("RGB"))


def thumbnails(rows):
    small = [Image.fromarray(pixels(row)).resize((16, 16), Image.Resampling.BOX) for row in rows.itertuples()]
    return np.stack([np.asarray(picture, float).ravel() / 255 for picture in small])


def training(index, **wanted):
    index = index[index["role"] == "train"]
    for key, value in wanted.items():
        index = index[index[key] == value]
    return index.reset_index(drop=True)


def test_tone_is_measured_on_the_skin_of_the_canvas_and_counted_by_kind(world, tmp_path):
    world, index = world
    found = audit(world, tmp_path, "tone")
    masks = {
        row["image_id"]: decode_png(Archive(world.photos[0]).read(row, "mask.png"))
        for row in Archive(world.photos[0]).rows
    }
    for kind, tone in (("real", "dark"), ("lesion_mapped", "medium"), ("semantic", "light")):
        angles = []
        for row in training(index, kind=kind, tone=tone).itertuples():
            lab = rgb2lab(pixels(row))[masks[row.canvas if isinstance(row.canvas, str) else row.image_id] == SKIN]
            angles.append(np.median(np.degrees(np.arctan2(lab[:, 0] - 50, lab[:, 2]))))
        cell = found["by_kind"][kind][tone]
        angles = np.array(angles)
        expected = {"light": angles > CUTS[0], "dark": angles <= CUTS[1]}
        expected["medium"] = ~expected["light"] & ~expected["dark"]
        assert cell["measured"] == {name: int(expected[name].sum()) for name in TONES}
        assert cell["images"] == cell["with_skin_mask"] == len(angles)
        assert cell["agree"] == expected[tone].sum() and cell["agreement"] == pytest.approx(
            expected[tone].mean(), abs=1e-4
        )
        assert cell["angle_quartiles"] == pytest.approx(list(np.percentile(angles, [25, 50, 75])), abs=0.05)
    assert 0 < found["by_kind"]["semantic"]["light"]["agreement"] < 1
    agree = sum(cell["agree"] for cell in found["by_kind"]["semantic"].values())
    assert found["agreement"]["semantic"] == pytest.approx(agree / len(training(index, kind="semantic")), abs=1e-4)
    assert found["cuts_from"] == "settings"
    relative = found["by_kind"]["semantic"]["light"]
    real = found["by_kind"]["real"]["light"]["agreement"]
    assert relative["relative"] == pytest.approx(relative["agreement"] / real, abs=1e-3)
    fitted = audit(world, tmp_path, "tone", ita_cuts=None)
    assert fitted["cuts_from"] == "real training photos"
    assert fitted["agreement"]["real"] >= found["agreement"]["real"] - 0.1
    other = audit(world, tmp_path, "tone", ita_cuts=[90, 89])
    assert other["agreement"]["lesion_mapped"] < 0.5 < found["agreement"]["lesion_mapped"]


def test_flat_and_black_pictures_and_colours(world, tmp_path):
    world, index = world
    found = audit(world, tmp_path, "quality")
    assert found["flat_images"] == ["semantic/toy/flat"], "deviation 1.5; 2 of `coarse` and `dim` is not below 2"
    assert found["black_images"] == ["semantic/toy/black"], "mean 7.5; 8 of `dim` is not below 8"
    cell = found["by_kind"]["semantic"]["light"]
    rows = training(index, kind="semantic", tone="light")
    assert (cell["images"], cell["flat"], cell["black"]) == (len(rows), 1, 1)
    lab = [rgb2lab(np.asarray(Image.fromarray(pixels(row)).resize((32, 32)))).mean((0, 1)) for row in rows.itertuples()]
    assert cell["lab_mean"] == pytest.approx(np.mean(lab, 0), abs=0.01)
    assert cell["lab_std"] == pytest.approx(np.std(lab, 0), abs=0.01)


def test_distances_are_to_held_out_photos_of_the_same_tone(world, tmp_path):
    world, index = world
    found = audit(world, tmp_path, "quality")
    held = index[(index["kind"] == "real") & (index["role"] != "train")]
    assert found["features"] == "16x16 colour thumbnails" and found["perceptual"] is None
    assert found["held_out"] == {"images": len(held), "seen_by_generators": 0}
    train = training(index)
    for kind, tone in (("semantic", "light"), ("lesion_mapped", "dark"), ("real", "dark"), ("all", "medium")):
        chosen = train[(train["kind"] != "real") if kind == "all" else (train["kind"] == kind)]
        chosen = chosen[chosen["tone"] == tone].reset_index(drop=True)
        real, other = thumbnails(held[held["tone"] == tone]), thumbnails(chosen)
        cell = found["by_kind"][kind][tone]
        assert cell["images"] == len(other) and cell["lpips"] is None
        assert cell["real_images"] == len(real)
        centred = [x - x.mean(0) for x in (real, other)]
        a, b = (x.T @ x / (len(x) - 1) for x in centred)
        # tr (ab)^(1/2) over the few images instead of the 768 features
        root = np.sqrt(np.linalg.eigvals(centred[0] @ b @ centred[0].T / (len(real) - 1)).real.clip(0)).sum()
        fid = ((real.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root
        assert cell["fid"] == pytest.approx(fid, rel=1e-3)
        assert np.isfinite(cell["kid"])
    assert cell["kid"] != audit(world, tmp_path, "quality", 2)["by_kind"]["all"]["medium"]["kid"], "drawn by the seed"


def test_photos_that_taught_a_generator_are_not_compared_with_unless_all_did(world):
    index = world[1]
    held = index[(index["kind"] == "real") & (index["role"] != "train")]
    labels = {row.image_id: {"tone": row.tone} for row in held.itertuples()}  # all that the plan tells this job
    hidden = index.assign(tone=index["tone"].where(index["role"] != "test"))
    used, counts = held_out(hidden, labels)
    assert set(used["image_id"]) == set(held["image_id"]) and dict(
        zip(used["image_id"], used["tone"], strict=True)
    ) == {image: label["tone"] for image, label in labels.items()}
    assert len(held_out(hidden, {})[0]) == (held["role"] == "validation").sum(), "of unknown tone"
    taught = set(held["image_id"][:3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cgddi.stages.audit.quality.generator_images", lambda rows: {"toy/nevus": taught})
        used, counts = held_out(index, labels)
        assert set(used["image_id"]) == set(held["image_id"]) - taught
        assert counts == {"images": len(held) - 3, "seen_by_generators": 0}
        patch.setattr("cgddi.stages.audit.quality.generator_images", lambda rows: {"toy/nevus": set(held["image_id"])})
        used, counts = held_out(index, labels)
        assert counts == {"images": len(held), "seen_by_generators": len(held)} == counts | {"images": len(used)}


def test_at_most_so_many_images_of_a_kind_and_tone_are_measured(world, tmp_path):
    for kind in ("tone", "quality"):
        found = audit(world[0], tmp_path, kind, images_per_tone=3)
        assert {c["images"] for name, by in found["by_kind"].items() for c in by.values() if name != "all"} == {3}
    assert audit(world[0], tmp_path, "memorisation", images_per_tone=3)["images"] == 9


def test_memorisation_is_the_nearest_photo_that_is_not_the_canvas(world, tmp_path):
    world, index = world
    found = audit(world, tmp_path, "memorisation")
    real, semantic = training(index, kind="real"), training(index, kind="semantic")
    vectors, drawn = thumbnails(real), thumbnails(semantic)
    centre = vectors.mean(0)
    nearest = {}
    for row, vector in zip(semantic.itertuples(), drawn, strict=True):
        cosines = {
            photo.image_id: (vector - centre)
            @ (v - centre)
            / np.linalg.norm(vector - centre)
            / np.linalg.norm(v - centre)
            for photo, v in zip(real.itertuples(), vectors, strict=True)
            if photo.image_id != row.canvas
        }
        nearest[row.id] = max(cosines.items(), key=lambda item: item[1])
    values = np.array([value for _, value in nearest.values()])
    assert found["images"] == len(semantic) and found["threshold"] < 1
    for q, value in found["similarity"].items():
        assert value == pytest.approx(np.quantile(values, float(q)), abs=2e-3)
    unit = (vectors - centre) / np.linalg.norm(vectors - centre, axis=1, keepdims=True)
    between = unit @ unit.T - 2 * np.eye(len(unit))
    assert found["between_real"]["0.5"] == pytest.approx(np.median(between.max(1)), abs=2e-3)
    assert found["threshold"] == pytest.approx(np.sort(between.max(1))[-1], abs=2e-3), (
        "of so few photos the nearest two"
    )
    assert found["copies"] == found["closer_than_real"] == (values > between.max()).sum() > 0
    first = found["nearest"][0]
    assert (first["id"], first["image"], first["bits"], first["same_concept"]) == ("semantic/toy/copy", "nel1", 0, True)
    assert first["similarity"] == 1 and len(found["nearest"]) == 20
    for entry in found["nearest"]:
        assert entry["similarity"] == pytest.approx(nearest[entry["id"]][1], abs=2e-3)
    images = {entry["id"]: entry["image"] for entry in found["nearest"]}
    assert images.get("semantic/toy/own") != "nel0", "it resembles its canvas by construction"
    assert images.get("semantic/toy/held") != "nel4", "no held-out photo is compared"


def test_frechet_distance_is_the_formula():
    rng = np.random.default_rng(0)
    real, other = rng.normal(0, 1, (200, 5)).astype(np.float32), rng.normal(0.5, 1.4, (150, 5)).astype(np.float32)
    a, b = np.cov(real, rowvar=False), np.cov(other, rowvar=False)
    expected = ((real.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(real, other) == pytest.approx(expected, rel=1e-4)
    few = frechet_distance(real[:3], other[:4])
    wide = frechet_distance(np.c_[real[:3], np.zeros((3, 20))], np.c_[other[:4], np.zeros((4, 20))])
    assert few == pytest.approx(wide) and frechet_distance(real[:1], other) is None


def squared_discrepancy(a, b):
    """Unbiased squared maximum mean discrepancy with the kernel (x y / d + 1)^3 (Binkowski 2018)."""
    kernel = [(x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernel[:2]]
    return sum(within) - 2 * kernel[2].mean()


def test_kernel_distance_is_the_mean_over_subsets_of_fifty():
    rng = np.random.default_rng(0)
    real, far = rng.normal(0, 1, (120, 8)).astype(np.float32), rng.normal(0.7, 1, (90, 8)).astype(np.float32)
    mean, deviation = kernel_distance(real, far, 1)
    draws = [rng.permutation(len(x))[:50] for x in (real, far) * 300]
    subsets = [squared_discrepancy(real[a], far[b]) for a, b in zip(draws[::2], draws[1::2], strict=True)]
    assert mean == pytest.approx(np.mean(subsets), abs=float(4 * np.std(subsets) / 50**0.5))
    assert deviation == pytest.approx(np.std(subsets), rel=0.35)
    assert kernel_distance(real, far, 1) == (mean, deviation) != kernel_distance(real, far, 2)
    few = kernel_distance(real[:9], far[:9], 1)
    assert few == (pytest.approx(squared_discrepancy(real[:9], far[:9]), rel=1e-3), pytest.approx(0, abs=1e-4))
    assert kernel_distance(real[:1], far, 1) is None


def test_features_from_a_backbone_with_random_and_with_local_weights(tmp_path):
    pictures = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (40, 40, 3), np.uint8)) for n in range(3)]
    settings = FeatureSettings(backbone="test_resnet", weights="random", image_size=32)
    first = extract(pictures, settings, 1)
    assert first.shape[0] == 3 and np.array_equal(first, extract(pictures, settings, 1, threads=3))
    torch.manual_seed(5)
    model = timm.create_model("test_resnet", num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    settings = settings.model_copy(update={"weights": str(tmp_path / "w.safetensors")})
    small = np.stack([np.asarray(p.resize((32, 32), Image.Resampling.BILINEAR)) for p in pictures]) / 255
    tensor = torch.tensor((small - MEAN) / STD, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(tensor), pre_logits=True)
    assert extract(pictures, settings, 1) == pytest.approx(expected.numpy(), abs=1e-4)
    with pytest.raises(UserError, match="another architecture"):
        extract(pictures, settings.model_copy(update={"backbone": "resnet10t"}), 1)


def test_threads_keep_the_order_and_work_ahead_a_little():
    begun, gone_on = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            gone_on.wait(10)  # the slowest is still the first
        elif item == 1:
            gone_on.set()
        return 10 * item

    results = ahead(work, iter(range(50)), 2)
    assert next(results) == 0 and len(begun) <= 9 + 2
    assert list(results) == [10 * item for item in range(1, 50)] and sorted(begun) == list(range(50))
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 / item, [1, 0], 2))


def test_drawing_by_name_does_not_depend_on_order():
    table = pd.DataFrame({"id": [f"x{n}" for n in range(50)], "tone": ["light", "dark"] * 25})
    drawn = draw_by_name(table, 5, ["tone"])
    assert list(drawn["id"]) == list(draw_by_name(table[::-1], 5, ["tone"])["id"])
    for tone, rows in table.groupby("tone"):
        least = sorted(rows["id"], key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:5]
        assert set(drawn[drawn["tone"] == tone]["id"]) == set(least)


def test_settings_are_strict():
    with pytest.raises(ValueError, match="extra"):
        AuditSettings(leakage="off")
    assert AuditSettings().duplicate_cut == 0.95
    assert AuditSettings(features={"weights": "pixels"}).duplicate_cut == 0.99
    assert AuditSettings(duplicate_similarity=0.5).duplicate_cut == 0.5
