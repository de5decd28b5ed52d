"""The index: roles, lineage filter, byte ranges, bad input."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from cgddi.core.archive import ArchiveWriter, read_member, sha256
from cgddi.core.errors import InvalidInput, UserError
from cgddi.core.images import UNKNOWN, encode_png
from cgddi.stages.index.command import main
from cgddi.stages.index.table import build_index, read_roles

from tests.stages.index.world import CONCEPTS, make_world, spec_file

SPEC = {"stage": "index", "seed": 1, "split": "toy"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def build(world, **options):
    return build_index(
        read_roles([world.split]), world.photos, [*world.healthy, *world.mapped, *world.semantic], **options
    )


def test_command_writes_the_same_table_twice(world, tmp_path):
    for name in ("a", "b"):
        main(["--spec", spec_file(tmp_path, **SPEC), *world.index_args(tmp_path / f"{name}.parquet")])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["spec"] == SPEC and record["images"] == len(pd.read_parquet(tmp_path / "a.parquet"))


def test_synthetic_images_descend_from_training_images_only(world):
    table, facts = build(world)
    made = table[table["kind"] != "real"]
    assert set(made["role"]) == {"train"} and set(made["kind"]) == {"healthy", "lesion_mapped", "semantic"}
    for column in ("donor", "canvas"):
        assert {world.roles[image] for image in made[column].dropna()} == {"train"}
    assert facts["dropped"]["healthy: canvas is a test image"] == 12
    assert facts["dropped"]["lesion_mapped: canvas is a validation image"] > 0
    everything, _ = build(world, drop_touching=())
    assert len(everything) == len(table) + sum(facts["dropped"].values())


WAYS = ("donor", "canvas", "generator", "segmenter")


@pytest.mark.parametrize("drop", [WAYS, *((way,) for way in WAYS), ()], ids=lambda drop: "+".join(drop) or "none")
def test_what_stays_by_each_rule_alone_against_the_lineage_told_in_plain_words(tmp_path, drop):
    """Uneven on purpose: priors, photos of no role, and a segmenter that learnt from a test photo and one of no role."""
    roles = {"a": "train", "b": "train", "c": "validation", "d": "test", "s": "train", "m": "train"}
    about = {"cohort": "x", "concept": "nevus", "tone": "dark", "malignant": False}
    masks = {"s": ["a", "d"], "m": ["b", "e"], "n": ["a"]}
    photos = []
    for name in ("a", "b", "c", "d", "e", "s", "m", "n"):
        photos.append(tmp_path / f"photo_{name}.tar")
        with ArchiveWriter(photos[-1], {"stage": "masks"}) as archive:
            archive.facts["segmenter_images"] = masks.get(name)
            source = {"has_mask": True, "mask_source": "fedd" if name in masks else "human"}
            archive.add(
                name,
                {"png": name.encode()},
                {"id": f"real/{name}", "kind": "real", "image_id": name, **source, **about},
            )
    mapped, made = tmp_path / "mapped.tar", {}
    with ArchiveWriter(mapped, {"stage": "lesion_mapped"}) as archive:
        for donor in "abcdes":
            for canvas in "abcdm":
                name = f"{donor}{canvas}"
                made[f"mapped/{name}"] = {"donor": donor, "canvas": canvas}
                row = {"id": f"mapped/{name}", "kind": "lesion_mapped", "donor": donor, "canvas": canvas, **about}
                archive.add(name, {"png": name.encode()}, row)
    semantic = []
    for images, priors in (("a", "b"), ("ab", ""), ("a", "c"), ("ad", "b"), ("ae", ""), ("as", ""), ("b", "m")):
        name = f"{images}_{priors}"
        semantic.append(tmp_path / f"{name}.tar")
        with ArchiveWriter(semantic[-1], {"stage": "semantic"}) as archive:
            archive.facts |= {"generator_images": list(images), "prior_images": list(priors)}
            for canvas in "acm":
                made[f"semantic/{name}-{canvas}"] = {"canvas": canvas, "generator": images + priors}
                row = {
                    "id": f"semantic/{name}-{canvas}",
                    "kind": "semantic",
                    "canvas": canvas,
                    "generator": name,
                    **about,
                }
                archive.add(canvas, {"png": canvas.encode()}, row)
    table, facts = build_index(roles, photos, [mapped, *semantic], drop_touching=drop)

    def clean(ancestors):
        """Made of training photos alone, by the ways that count."""
        everyone = set("".join(ancestors.values()))
        taught = {image for photo in everyone for image in masks.get(photo, ())}
        used = {**ancestors, "segmenter": taught}
        return all(roles.get(image) == "train" for way in drop for image in used.get(way, ()))

    expected = {name for name, ancestors in made.items() if clean(ancestors)}
    assert set(table["id"][table["kind"] != "real"]) == expected
    assert (len(expected) == len(made)) == (not drop) and expected
    assert sum(n for why, n in facts["dropped"].items() if not why.startswith("real")) == len(made) - len(expected)
    assert dict(zip(table["image_id"], table["role"], strict=True)) | {"": "train"} == roles | {"": "train"}


def test_published_rule_drops_transplants_by_donor_and_samples_by_disease_and_canvas_together(tmp_path):
    """`[donor, own_canvas]`: uneven photos of two concepts, one canvas that no split knows."""
    photos = {"a": ("nevus", "train"), "b": ("wart", "train"), "c": ("nevus", "test"), "d": ("wart", "validation")}
    roles, about = (
        {name: role for name, (_, role) in photos.items()},
        {"cohort": "x", "tone": "dark", "malignant": False},
    )
    with ArchiveWriter(tmp_path / "photos.tar", {"stage": "masks"}) as archive:
        for name, (concept, _) in photos.items():
            row = {"id": f"real/{name}", "kind": "real", "image_id": name, "concept": concept, **about}
            archive.add(name, {"png": name.encode()}, row)
    with ArchiveWriter(tmp_path / "made.tar", {"stage": "semantic"}) as archive:
        archive.facts |= {"generator_images": ["a", "b", "c", "d"], "prior_images": []}
        for canvas in "abcdx":
            for donor in "abcd":
                row = {
                    "id": f"mapped/{donor}{canvas}",
                    "kind": "lesion_mapped",
                    "donor": donor,
                    "canvas": canvas,
                    **about,
                }
                archive.add(f"m{donor}{canvas}", {"png": b"x"}, row | {"concept": photos[donor][0]})
            for concept in ("nevus", "wart"):
                row = {
                    "id": f"semantic/{concept}-{canvas}",
                    "kind": "semantic",
                    "canvas": canvas,
                    "generator": "g",
                    **about,
                }
                archive.add(f"s{concept}{canvas}", {"png": b"x"}, row | {"concept": concept})
    table, facts = build_index(roles, [tmp_path / "photos.tar"], [tmp_path / "made.tar"], ("donor", "own_canvas"))
    left = {f"mapped/{donor}{canvas}" for donor in "ab" for canvas in "abcdx"}
    left |= {f"semantic/{concept}-{canvas}" for concept in ("nevus", "wart") for canvas in "abcdx"}
    left -= {"semantic/nevus-c", "semantic/wart-d"}
    assert set(table["id"][table["kind"] != "real"]) == left
    assert facts["dropped"]["semantic: disease and canvas are those of one held-out photo"] == 2


def test_a_dropped_concept_leaves_with_all_that_was_made_with_it(world):
    """Its photos, its samples, its lesions elsewhere and other lesions on its canvases; nothing else changes."""
    table, _ = build(world)
    less, facts = build(world, drop_concepts=["nevus"])
    photos = set(table["image_id"][(table["kind"] == "real") & (table["concept"] == "nevus")])
    touched = table["concept"].eq("nevus") | table["donor"].isin(photos) | table["canvas"].isin(photos)
    assert photos and touched.sum() > len(photos) and set(table["kind"][touched]) == set(table["kind"])
    pd.testing.assert_frame_equal(less, table[~touched].reset_index(drop=True))
    assert sum(n for why, n in facts["dropped"].items() if why.endswith("concept dropped")) >= touched.sum()


def test_byte_ranges_hold_the_images(world):
    table, _ = build(world)
    for row in table.groupby("kind").head(2).itertuples(index=False):
        assert sha256(read_member(row.archive, row.start, row.size)) == row.sha256


def test_generator_that_saw_a_test_image_loses_its_images(tmp_path):
    world = make_world(tmp_path, generator_images={"nevus": ["nel0", "nel4"]})
    table, facts = build(world)
    semantic = table[table["kind"] == "semantic"]
    assert "nevus" not in set(semantic["concept"]) and "wart" in set(semantic["concept"])
    assert facts["dropped"]["semantic: generator saw an image that is not for training"] > 0
    kept, _ = build(world, drop_touching=("donor", "canvas"))
    assert "nevus" in set(kept[kept["kind"] == "semantic"]["concept"])


def test_generator_without_lineage_is_refused(tmp_path, world):
    path = tmp_path / "semantic.tar"
    with ArchiveWriter(path, {"stage": "semantic"}) as archive:
        row = {"id": "s/1", "kind": "semantic", "cohort": "toy", "concept": "nevus", "tone": "dark", "malignant": False}
        archive.add("a", {"png": b"x"}, {**row, "canvas": "nel0", "generator": "toy/nevus"})
    with pytest.raises(UserError, match="generator_images"):
        build_index(read_roles([world.split]), world.photos, [path])


def test_images_outside_the_split_are_left_out_with_what_was_made_of_them(world):
    roles = {image: role for image, role in world.roles.items() if image != "nel0"}
    table, facts = build_index(roles, world.photos, world.mapped)
    assert facts["dropped"]["real: no role in this split"] == 1
    assert facts["dropped"]["lesion_mapped: donor is not in this split"] > 0
    assert "nel0" not in set(table["image_id"]) | set(table["donor"].dropna()) | set(table["canvas"].dropna())


def test_bad_roles_are_named_by_row(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("image_id,role\na,train\nb,tset\na,test\n")
    with pytest.raises(InvalidInput, match=r"row 3, column role: unknown role \(found 'tset'\)") as error:
        read_roles([path])
    assert "row 4, column role: image already has role train" in str(error.value)
    path.write_text("image,role\n")
    with pytest.raises(InvalidInput, match="no column image_id"):
        read_roles([path])


def test_missing_photo_and_repeated_id(world):
    with pytest.raises(UserError, match="1 image.s. of the split have no photo.*ghost"):
        build_index({**world.roles, "ghost": "test"}, world.photos, [])
    with pytest.raises(UserError, match="stands in two archives"):
        build_index(world.roles, world.photos, [world.healthy[0], world.healthy[0]])


def test_samples_that_failed_their_check_are_not_learnt_from_and_are_counted(world, tmp_path):
    counts = {"wanted": 2, "passed at first": 1, "drawn": 3, "passed": 1, "short": 1, "reasons": {"no lesion": 2}}
    spec = {"stage": "semantic", "concept": {"slug": "nevus"}, "canvas_cohort": "toy"}
    canvas = next(image for image, role in sorted(world.roles.items()) if role == "train")
    with ArchiveWriter(tmp_path / "checked.tar", spec) as archive:
        archive.facts.update(generator_images=[canvas], prior_images=[], check={"dark": counts})
        for key, used in (("passed", True), ("failed", False), ("unchecked", None)):
            row = {"id": f"semantic/{key}", "kind": "semantic", "cohort": "toy", "concept": "nevus", "tone": "dark"}
            row |= {"malignant": False, "canvas": canvas, "generator": "toy/nevus"}
            archive.add(key, {"png": key.encode()}, row | ({} if used is None else {"used": used}))
    table, facts = build_index(read_roles([world.split]), world.photos, [tmp_path / "checked.tar"])
    assert set(table.loc[table["kind"] == "semantic", "id"]) == {"semantic/passed", "semantic/unchecked"}
    assert facts["dropped"] == {"semantic: failed its check": 1}
    assert facts["samples"] == [{"concept": "nevus", "cohort": "toy", "tone": "dark", **counts}]


def test_a_composite_is_as_malignant_as_the_sheet_says_of_its_donor(world):
    labels = {
        image: {"concept": concept, "tone": tone, "malignant": CONCEPTS[concept]}
        for image, (tone, concept) in world.facts.items()
    }
    plain, _ = build_index(read_roles([world.split]), world.photos, [*world.mapped, *world.semantic])
    donor = plain["donor"].dropna().iloc[0]
    labels[donor]["malignant"] = not labels[donor]["malignant"]
    table, _ = build_index(read_roles([world.split]), world.photos, [*world.mapped, *world.semantic], labels=labels)
    changed = table.set_index("id")["malignant"] != plain.set_index("id")["malignant"]
    assert set(table["id"][(table["donor"] == donor) | (table["image_id"] == donor)]) == set(changed.index[changed])


def test_unknown_tones_are_in_no_index_but_their_lesions_on_known_skin_are(world, tmp_path):
    """A photo of unknown tone may lend its lesion; itself, and what lies on its skin, is left out and counted."""
    donor, canvas = "nel0", "nem1"
    labels = {image: {"tone": tone, "concept": concept} for image, (tone, concept) in world.facts.items()}
    labels[donor]["tone"] = labels[canvas]["tone"] = UNKNOWN
    mapped = tmp_path / "mapped.tar"
    pixels = encode_png(np.zeros((4, 4, 3), np.uint8))
    with ArchiveWriter(mapped, {"stage": "lesion_mapped"}) as archive:
        for skin, tone in (("wal1", "light"), (canvas, UNKNOWN)):
            row = {"id": f"m/{skin}", "kind": "lesion_mapped", "concept": "nevus", "tone": tone, "malignant": False}
            archive.add(skin, {"png": pixels}, {**row, "cohort": "toy", "donor": donor, "canvas": skin})
    table, facts = build_index(world.roles, world.photos, [mapped], labels=labels)
    assert set(table["tone"].dropna()) == {"light", "medium", "dark"}
    assert not {donor, canvas} & set(table["image_id"])
    assert list(table[table["kind"] == "lesion_mapped"]["id"]) == ["m/wal1"]
    assert facts["dropped"] == {"lesion_mapped: skin tone is not known": 1, "real: skin tone is not known": 2}
