"""Which real images one descends from, by hand."""

from __future__ import annotations

import pandas as pd
import pytest
from cgddi.core.archive import ArchiveWriter
from cgddi.core.lineage import generator_images, is_waived, lineage, real_lineage, segmenter_images


@pytest.mark.parametrize(
    ("row", "canvas"),
    [
        ({"kind": "healthy", "key": "a"}, ["a"]),
        ({"kind": "healthy", "key": "a", "image_id": "b"}, ["b"]),
        ({"kind": "healthy", "key": "a", "image_id": "b", "canvas": "c"}, ["c"]),
        ({"kind": "healthy", "key": "a", "unknown": ["canvas"]}, []),
        ({"kind": "lesion_mapped", "key": "a"}, []),
    ],
)
def test_healthy_skin_descends_from_its_own_photo(row, canvas):
    assert lineage(row, {}) == {"donor": [], "canvas": canvas, "generator": []}


@pytest.mark.parametrize(
    ("source", "waived", "found"),
    [
        ("semantic", ["adapters.nevus"], True),
        ("semantic", ["adapters.acne", "semantic"], False),
        ("a set", ["a set"], True),
        ("a set", ["adapters.nevus"], False),
    ],
)
def test_a_waiver_names_a_set_or_a_concepts_adapter(source, waived, found):
    assert is_waived({"kind": "semantic", "concept": "nevus"}, source, waived) is found


def test_only_a_mask_that_a_segmenter_made_descends_from_its_photos(tmp_path):
    with ArchiveWriter(tmp_path / "masks.tar", {"stage": "masks"}) as archive:
        archive.facts["segmenter_images"] = ["z", "y"]
        for name, has_mask, source in (("a", True, "fedd"), ("b", False, "fedd"), ("c", True, "sheet")):
            archive.add(name, {"png": b"x"}, {"image_id": name, "has_mask": has_mask, "mask_source": source})
    assert segmenter_images([tmp_path / "masks.tar"]) == {"a": ["y", "z"]}
    assert segmenter_images([tmp_path / "masks.tar"], lambda name: name == "z") == {"a": ["z"]}
    assert segmenter_images([tmp_path / "masks.tar"], lambda name: name == "a") == {}


def test_real_images_of_rows_are_their_own_donors_and_canvases():
    rows = pd.DataFrame(
        [
            {"kind": "real", "image_id": "a", "donor": None, "canvas": None},
            {"kind": "lesion_mapped", "image_id": "made", "donor": "b", "canvas": "c"},
        ]
    ).assign(generator=None, archive="none.tar")
    assert real_lineage(rows) == {"a", "b", "c"}


def test_a_generators_images_are_those_of_all_archives_it_drew(tmp_path):
    rows = []
    for name, images in (("one", ["a"]), ("two", ["a", "b"])):
        with ArchiveWriter(tmp_path / f"{name}.tar", {"stage": "semantic"}) as archive:
            archive.facts |= {"generator_images": images, "prior_images": ["p"]}
            archive.add("x", {"png": b"x"}, {"kind": "semantic", "generator": "g"})
        rows += [{"archive": str(tmp_path / f"{name}.tar"), "generator": of} for of in ("g", None)]
    assert generator_images(pd.DataFrame(rows)) == {"g": {"a", "b", "p"}}
