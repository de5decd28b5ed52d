"""The leakage gate: every kind of leak is injected, found and named; an honest split passes."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.errors import UserError
from cgddi.stages.audit.command import main
from cgddi.stages.audit.copies import near_duplicates
from cgddi.stages.audit.leakage import audit_leakage, lineage_leaks
from cgddi.stages.audit.settings import AuditSettings
from cgddi.stages.index.table import build_index, read_roles
from PIL import Image, ImageEnhance

from tests.stages.index.world import make_world

SETTINGS = {"features": {"weights": "pixels"}}
PIXELS = AuditSettings(**SETTINGS)
SYNTHETIC = ("healthy", "mapped", "semantic")


def build(world, synthetic=None, drop_touching=()):
    synthetic = [path for name in SYNTHETIC for path in getattr(world, name)] if synthetic is None else synthetic
    return build_index(read_roles([world.split]), world.photos, synthetic, drop_touching)[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), generator_images={"wart": ["wal0", "wal4"]})


def spec_file(folder, settings):
    spec = {"stage": "audit", "seed": 1, "split": "toy", "versions": {}, "settings": {**SETTINGS, **settings}}
    (folder / "spec.json").write_text(json.dumps(spec))
    return str(folder / "spec.json")


def gate(index, tmp_path, **settings):
    index.to_parquet(tmp_path / "i.parquet")
    out = tmp_path / "leakage.json"
    args = ["--index", str(tmp_path / "i.parquet"), "--output", str(out), "--threads", "1"]
    main(["leakage", "--spec", spec_file(tmp_path, settings), *args])
    return json.loads(out.read_text())


def test_an_honest_index_passes(world, tmp_path):
    index = build(world, drop_touching=("donor", "canvas", "generator"))
    result = gate(index, tmp_path)
    assert result["passed"] and result["clean"] and result["leaks"] == [] and result["near_duplicates"] == []
    assert result["checked"]["training_images"] == (index["role"] == "train").sum()


@pytest.mark.parametrize(
    ("kind", "keep", "way"),
    [
        ("lesion_mapped", ("canvas", "generator"), "donor"),
        ("healthy", ("donor", "generator"), "canvas"),
        ("lesion_mapped", ("donor", "generator"), "canvas"),
        ("semantic", ("donor", "canvas"), "generator"),
    ],
)
def test_each_leak_by_descent_stops_the_build_and_is_named(world, tmp_path, kind, keep, way):
    if way == "donor":
        path = tmp_path / "mapped.tar"
        with ArchiveWriter(path, {"stage": "lesion_mapped", "versions": {}}) as archive:
            row = {"id": "lesion_mapped/toy/bad", "kind": kind, "cohort": "toy", "concept": "nevus", "tone": "light"}
            png = Archive(world.mapped[0]).read(Archive(world.mapped[0]).rows[0])
            archive.add("a", {"png": png}, {**row, "malignant": False, "donor": "nel4", "canvas": "nel0"})
        index = build(world, [path])
    else:
        index = build(world, drop_touching=keep)
        index = index[(index["kind"] == kind) | (index["kind"] == "real")]
    leaks = lineage_leaks(index)
    assert {(leak["kind"], leak["way"]) for leak in leaks} == {(kind, way)}
    assert {leak["role"] for leak in leaks} == ({"test", "validation"} if way == "canvas" else {"test"})
    with pytest.raises(UserError, match="leak held-out images") as error:
        gate(index, tmp_path, near_duplicates="off")
    assert leaks[0]["id"] in str(error.value) and leaks[0]["image"] in str(error.value)
    assert not (tmp_path / "leakage.json").exists()
    failed = json.loads((tmp_path / "leakage.json.failed.json").read_text())
    assert failed["leaks"] == leaks and not failed["passed"]


def test_prior_images_count_as_generator_images(tmp_path, world):
    path = tmp_path / "semantic.tar"
    source = Archive(world.semantic[0])
    with ArchiveWriter(path, {"stage": "semantic", "versions": {}}) as archive:
        archive.facts.update(generator_images=["nel0"], prior_images=["nel4"])
        row = {key: value for key, value in source.rows[0].items() if key not in ("key", "members", "sha256")}
        archive.add("a", {"png": source.read(source.rows[0])}, row)
    assert [(leak["way"], leak["image"]) for leak in lineage_leaks(build(world, [path]))] == [("generator", "nel4")]


def automatic(world, tmp_path, images):
    """The world's photos with masks made by a segmenter that learnt from the given images."""
    source = Archive(world.photos[0])
    path = tmp_path / "automatic.tar"
    with ArchiveWriter(path, {"stage": "masks", "versions": {}}) as archive:
        archive.facts["segmenter_images"] = images
        for row in source.rows:
            facts = {key: value for key, value in row.items() if key not in ("key", "members", "sha256")}
            members = {name: source.read(row, name) for name in ("png", "mask.png")}
            archive.add(row["key"], members, {**facts, "has_mask": True, "mask_source": "fedd"})
    return str(path)


def test_a_segmenter_that_learnt_from_a_test_photo_is_a_leak(world, tmp_path):
    roles = read_roles([world.split])
    synthetic = [path for name in SYNTHETIC for path in getattr(world, name)]
    honest = automatic(world, tmp_path, ["nel0", "wal1"])
    kept, facts = build_index(roles, [honest], synthetic)
    assert not [reason for reason in facts["dropped"] if "segmenter" in reason]
    assert lineage_leaks(kept, [honest]) == [] and set(kept["kind"]) > {"real"}

    leaky = automatic(world, tmp_path, ["nel0", "nel4"])
    safe, facts = build_index(roles, [leaky], synthetic)
    assert set(safe["kind"]) == {"real"}
    assert {reason.partition(":")[0] for reason in facts["dropped"] if "segmenter" in reason} >= {
        "healthy",
        "lesion_mapped",
    }

    everything = build_index(roles, [leaky], synthetic, ("donor", "canvas", "generator"))[0]
    leaks = lineage_leaks(everything, [leaky])
    assert {(leak["way"], leak["image"], leak["role"]) for leak in leaks} == {("segmenter", "nel4", "test")}
    made = everything[(everything["role"] == "train") & (everything["kind"] != "real")]
    assert {leak["id"] for leak in leaks} == set(made["id"]) and {leak["kind"] for leak in leaks} == set(made["kind"])
    everything.to_parquet(tmp_path / "i.parquet")
    files = ["--index", str(tmp_path / "i.parquet"), "--photos", leaky, "--output", str(tmp_path / "leakage.json")]
    with pytest.raises(UserError, match="segmenter nel4 is a test image"):
        main(["leakage", "--spec", spec_file(tmp_path, {}), *files, "--threads", "1"])


def test_automatic_masks_of_unknown_descent_are_refused(world, tmp_path):
    with pytest.raises(UserError, match="Make its masks again"):
        build_index(read_roles([world.split]), [automatic(world, tmp_path, [])], [])


def test_the_gate_trusts_the_manifest_and_not_the_index(world):
    index = build(world, drop_touching=("donor", "generator"))
    index.loc[index["kind"] != "real", "canvas"] = "nel0"
    assert any(leak["way"] == "canvas" for leak in lineage_leaks(index)), "a doctored canvas column hides nothing"
    index.loc[index.index[index["role"] == "train"][0], "sha256"] = "0" * 64
    assert any(leak["way"] == "manifest" for leak in lineage_leaks(index))


def test_waived_gate_passes_but_is_not_clean(world, tmp_path):
    result = gate(build(world), tmp_path, leakage_gate="report", near_duplicates="off")
    assert result["passed"] and not result["clean"] and result["leaks"]


def photo_archive(world, tmp_path, edit, image="nel4"):
    """A training photo that is an edited copy of another (None: the very file), with its index."""
    photos = Archive(world.photos[0])
    row = next(row for row in photos.rows if row["image_id"] == image)
    png = photos.read(row)
    if edit is not None:
        buffer = io.BytesIO()
        edit(Image.open(io.BytesIO(png))).save(buffer, "PNG")
        png = buffer.getvalue()
    path = tmp_path / "copy.tar"
    with ArchiveWriter(path, {"stage": "masks", "versions": {}}) as archive:
        facts = {**{k: v for k, v in row.items() if k not in ("key", "members", "sha256")}, "id": "real/toy/copy"}
        archive.add("copy", {"png": png}, {**facts, "image_id": "copy"})
    roles = {**read_roles([world.split]), "copy": "train"}
    return build_index(roles, [*world.photos, path], [])[0]


def test_a_test_photo_under_another_name_is_found_by_its_pixels(world, tmp_path):
    leaks = lineage_leaks(photo_archive(world, tmp_path, None))
    assert [(leak["id"], leak["way"], leak["image"]) for leak in leaks] == [("real/toy/copy", "same pixels", "nel4")]


@pytest.mark.parametrize(
    "edit",
    [
        lambda picture: picture,
        lambda picture: ImageEnhance.Brightness(picture).enhance(1.08),
        lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
        lambda picture: picture.resize((64, 64), Image.Resampling.BICUBIC),
    ],
    ids=["copy", "brighter", "mirrored", "turned", "resized"],
)
def test_near_duplicates_are_found_however_turned(world, tmp_path, edit):
    pairs = near_duplicates(photo_archive(world, tmp_path, edit), PIXELS, 1)
    assert [(pair["id"], pair["image"], pair["role"]) for pair in pairs] == [("real/toy/copy", "nel4", "test")]


def test_a_pair_at_both_thresholds_is_a_near_duplicate_and_one_beyond_either_is_not(world, tmp_path):
    index = photo_archive(world, tmp_path, lambda picture: ImageEnhance.Brightness(picture).enhance(0.6).rotate(3))
    wide = AuditSettings(**SETTINGS, hash_distance=20, duplicate_similarity=0.5)
    (pair,) = [p for p in near_duplicates(index, wide, 1) if (p["id"], p["image"]) == ("real/toy/copy", "nel4")]
    bits, similarity = pair["bits"], pair["similarity"]
    assert 0 < bits <= 20 and 0.5 < similarity < 1

    def found(distance, cut):
        at = AuditSettings(**SETTINGS, hash_distance=distance, duplicate_similarity=cut)
        return ("real/toy/copy", "nel4") in {(p["id"], p["image"]) for p in near_duplicates(index, at, 1)}

    assert found(bits, similarity - 1e-4)
    assert not found(bits - 1, similarity - 1e-4) and not found(bits, similarity + 1e-4)


@pytest.mark.parametrize(("kind", "image", "searched"), [
    ("healthy", "nel3", True), ("real", "nel3", True), ("lesion_mapped", "nel3", False), ("real", "nel1", False),
])  # fmt: skip
def test_photos_and_canvases_are_compared_with_validation_and_test_photos(world, tmp_path, kind, image, searched):
    index = photo_archive(world, tmp_path, lambda picture: picture, image)
    index.loc[index["id"] == "real/toy/copy", "kind"] = kind
    pairs = near_duplicates(index, PIXELS, 1)
    assert {(pair["image"], pair["role"]) for pair in pairs} == ({("nel3", "validation")} if searched else set())


def test_near_duplicate_gate_can_be_enforced_reported_or_off(world, tmp_path):
    index = photo_archive(world, tmp_path, lambda picture: picture.rotate(0))
    assert not audit_leakage(index, PIXELS, 1)["passed"]
    reported = audit_leakage(index, AuditSettings(**SETTINGS, near_duplicates="report"), 1)
    assert reported["passed"] and not reported["clean"]
    off = audit_leakage(index, AuditSettings(**SETTINGS, near_duplicates="off"), 1)
    assert off["near_duplicates"] == []
    with pytest.raises(UserError, match="nearly equals test image nel4"):
        gate(index, tmp_path)


def test_unfilled_index_types_survive_parquet(world, tmp_path):
    index = build(world, drop_touching=("donor", "canvas", "generator"))
    index.to_parquet(tmp_path / "i.parquet")
    assert lineage_leaks(pd.read_parquet(tmp_path / "i.parquet")) == []
