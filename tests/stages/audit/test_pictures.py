"""Audits of the run's healthy skin and masks: figures recounted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cgddi.cli import main
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.images import LESION, SKIN, TONES, decode_png, encode_png
from cgddi.core.triage import scores_of

SHIFT = {"light": 0, "medium": 2, "dark": 5}
PER_TONE = 6


def square(shift: int = 0) -> np.ndarray:
    mask = np.full((32, 32), SKIN, np.uint8)
    mask[8:18, 8 + shift : 18 + shift] = LESION
    return mask


def write_masks(folder, source="fedd"):
    """A masks archive: six photos a tone; the first is one the segmenter learnt from, the last of dark skin is not used, and the
    human mask of the second light one cannot be read. Returns the manifest and the spec's `human_masks`."""
    human = {}
    with ArchiveWriter(folder / "masks/clinic/nevus.000.tar", {"cohort": "clinic"}) as archive:
        for tone in TONES:
            for k in range(PER_TONE):
                name, used = f"{tone}{k}", not (tone == "dark" and k == PER_TONE - 1)
                np.save(folder / f"{name}.npy", square())
                human[name] = str(folder / f"{name}.npy")
                mask = square(0 if source == "human" or k == 0 else SHIFT[tone])
                row = {"id": f"real/clinic/{name}", "cohort": "clinic", "tone": tone, "malignant": k % 2 == 0}
                row |= {"has_mask": used, "mask_source": source, "width": 64, "height": 48}
                row |= {"flags": ["converted_from_P"] if used else ["no_skin"]}
                pixels = {"png": encode_png(np.full((32, 32, 3), 150)), "uncertainty.png": encode_png(mask * 40)}
                archive.add(name, {**pixels, "mask.png" if used else "rejected.mask.png": encode_png(mask)}, row)
        archive.facts["segmenter_images"] = [f"{tone}0" for tone in TONES] if source == "fedd" else []
    (folder / "light1.npy").write_bytes(b"no mask")
    return folder / "masks/clinic/nevus.000.jsonl", {"clinic": {"crop": "resize", "id_map": None, "files": human}}


def write_later(folder):
    """Two canvases of light and one of dark skin, and two donors: one placed on two of them, one nowhere."""
    with ArchiveWriter(folder / "canvases/clinic.tar", {"cohort": "clinic"}) as pool:
        for name, tone in (("light0", "light"), ("light1", "light"), ("dark0", "dark")):
            pool.add(name, {"png": b"x"}, {"id": name, "tone": tone})
    spec = {"canvas_cohort": "clinic", "images": ["medium1", "dark3"]}
    with ArchiveWriter(folder / "lesion_mapped/clinic/clinic/nevus.000.tar", spec) as mapped:
        for name, tone in (("light0", "light"), ("dark0", "dark")):
            mapped.add(f"medium1/{name}", {"png": b"x"}, {"id": name, "tone": tone, "donor": "medium1"})
    return [str(folder / "canvases/clinic.json")], [str(mapped.path.with_suffix(".jsonl"))]


def audit(folder, kind, seed=0, human=None, **files):
    (folder / "spec.json").write_text(json.dumps({"stage": "audit", "seed": seed, "human_masks": human or {}}))
    args = [item for name, paths in files.items() for item in (f"--{name}", *map(str, paths))]
    assert main(["audit", kind, "--spec", str(folder / "spec.json"), *args, "--output", f"{folder}/{kind}.tar"]) == 0
    return Archive(folder / f"{kind}.tar")


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    manifest, human = write_masks(folder)
    canvases, mapped = write_later(folder)
    return audit(folder, "masks", human=human, photos=[manifest], canvases=canvases, mapped=mapped)


def by(rows, key, value):
    (row,) = [row for row in rows if row[key] == value]
    return row


def test_masks_and_flags_are_counted_by_tone(masks):
    rows = masks.record["counts"]
    assert [row["tone"] for row in rows] == list(TONES) and {row["cohort"] for row in rows} == {"clinic"}
    for name, counted in {
        "photos": [6, 6, 6],
        "with a mask": [6, 6, 5],
        "automatic mask not used": [0, 0, 1],
        "no_skin": [0, 0, 1],
    }.items():
        assert [row[name] for row in rows] == counted, name
    assert "converted_from_P" not in rows[0]


def test_automatic_masks_are_measured_against_human_ones_the_segmenter_did_not_see(masks):
    (found,) = masks.record["against_human"]
    assert (found["photos"], found["learnt"], found["unused"], found["unreadable"]) == (13, 3, {"dark": 1}, 1)
    figures = {(row["class"], row["tone"]): row for row in found["rows"]}
    for tone, count in (("light", 4), ("medium", 5), ("dark", 4)):
        overlap = 10 * (10 - SHIFT[tone])
        row = figures["lesion", tone]
        assert row["images"] == count and row["iou"] == pytest.approx(overlap / (200 - overlap))
        assert row["low"] is None and row["high"] is None, "all alike: resampling says nothing of others"
    counts = {tone: count for tone, count in (("light", 4), ("medium", 5), ("dark", 4))}
    inter = sum(10 * (10 - SHIFT[tone]) * n for tone, n in counts.items())
    assert figures["lesion", "all"]["iou"] == pytest.approx(inter / (200 * 13 - inter)), "pooled over images"
    assert figures["ruler", "all"]["iou"] is None


def test_what_came_of_the_masks(masks):
    rows = masks.record["what_came"]
    light = by(rows, "tone", "light")
    assert [row["canvases kept"] for row in rows] == [2, 0, 1] and [row["with a mask"] for row in rows] == [6, 6, 5]
    assert [row["lesion and canvas pairs"] for row in rows] == [4, 0, 2]
    assert [row["lesions placed"] for row in rows] == [1, 0, 1]
    assert light["share placed"] == 0.25 and by(rows, "tone", "medium")["share placed"] is None
    assert masks.record["idle_donors"] == 1 and masks.record["sources"] == ["fedd"]


def test_examples_show_four_masks_of_each_tone_and_where_they_are_uncertain(masks):
    assert [row["tone"] for row in masks.rows] == [tone for tone in TONES for _ in range(4)]
    row = masks.rows[0]
    photo, drawn, heat = (decode_png(masks.read(row, part)) for part in ("png", "overlay.png", "heat.png"))
    assert (photo == 150).all() and (drawn[12, 12] != photo[12, 12]).any() and (heat != photo).any()


def test_human_masks_are_no_automatic_ones(tmp_path):
    manifest, human = write_masks(tmp_path, source="human")
    found = audit(tmp_path, "masks", human=human, photos=[manifest])
    assert not found.rows and found.record["sources"] == found.record["against_human"] == []
    assert by(found.record["counts"], "tone", "dark")["with a mask"] == 5


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """Six photos of light and one of dark skin, a lesion painted over by flat grey; two discarded."""
    folder = tmp_path_factory.mktemp("healthy")
    rng = np.random.default_rng(0)
    verdicts = {}
    with ArchiveWriter(folder / "healthy/clinic/nevus.000.tar", {"cohort": "clinic"}) as archive:
        for n in range(7):
            before = np.clip(rng.normal(180 if n < 6 else 90, 4, (64, 64, 3)), 0, 255).astype(np.uint8)
            before[20:28, 20:28] = (90, 40, 30)
            region = np.zeros((64, 64), np.uint8)
            region[18:30, 18:30] = 255
            after = before.copy()
            after[region > 0] = 170
            row = {"id": f"healthy/clinic/im{n}", "cohort": "clinic", "tone": "light" if n < 6 else "dark"}
            row |= {"candidates": {"diffusion": {"member": "png", "triage": {}}}}
            pictures = {"png": after, "before.png": before, "region.png": region, "mask.png": np.full((64, 64), SKIN)}
            archive.add(f"im{n}", {name: encode_png(np.asarray(p, np.uint8)) for name, p in pictures.items()}, row)
            verdicts[f"im{n}"] = {"verdict": "discard" if n < 2 else "keep", "by": "review" if n % 2 else "triage"}
            verdicts[f"im{n}"]["method"] = "diffusion"
    with ArchiveWriter(folder / "canvases/clinic.tar", {"cohort": "clinic"}) as pool:
        pool.facts["verdicts"] = verdicts
    files = {"healthy": [folder / "healthy/clinic/nevus.000.jsonl"], "canvases": [folder / "canvases/clinic.json"]}
    return folder, files, verdicts, audit(folder, "healthy", **files)


def test_the_baseline_is_painted_into_the_same_regions_and_scored_alike(healthy):
    *_, found = healthy
    source = Archive(healthy[1]["healthy"][0])
    before_of = {row["id"]: row for row in source.rows}
    for row in found.rows:
        before, after, baseline = (decode_png(found.read(row, part)) for part in ("before.png", "png", "baseline.png"))
        region = decode_png(source.read(before_of[row["id"]], "region.png"))
        assert (baseline[region == 0] == before[region == 0]).all() and (after[region > 0] == 170).all()
        inside = baseline[region > 0].astype(float)
        assert abs(inside.mean() - before[region == 0].mean()) < 5, "skin goes on"
        mask = np.where(region >= 128, LESION, SKIN)
        assert row["scores"] == scores_of(before, after, region, mask)
        assert row["baseline_scores"] == scores_of(before, baseline, region, mask)
    comparison = {row["method"]: row for row in found.record["comparison"]}
    assert list(comparison) == ["run: diffusion", "baseline: heal"]
    for method, key in (("run: diffusion", "scores"), ("baseline: heal", "baseline_scores")):
        for score in ("lesion_contrast", "texture_8", "border_step"):
            values = [row[key][score] for row in found.rows]
            assert comparison[method][score] == pytest.approx(np.median(values), abs=1e-3)
        assert comparison[method]["photos"] == 5
    ratios = [comparison[method]["texture_8"] for method in comparison]
    assert ratios[0] < ratios[1], "flat grey has no grain"


def test_verdicts_are_those_of_the_canvases(healthy):
    *_, verdicts, found = healthy
    for row in found.rows:
        made = verdicts[row["id"].rpartition("/")[2]]
        assert row["verdict"] == f"{made['by']}: {made['verdict']}"


def test_the_seed_draws_the_examples(healthy):
    folder, files, _, found = healthy
    assert [row["tone"] for row in found.rows] == ["light"] * 4 + ["dark"]
    drawn = {tuple(row["id"] for row in audit(folder, "healthy", seed, **files).rows) for seed in (0, 1, 2, 0)}
    assert len(drawn) > 1 and tuple(row["id"] for row in found.rows) in drawn
