"""The report's section on masks and FEDD: shown where it has something to show, with figures recounted by hand."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from cgddi.cli import main
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.images import BACKGROUND, LESION, SKIN, TONES, encode_png
from cgddi.stages.report.fedd import section
from cgddi.stages.report.masks import against_human, downstream, flag_counts, idle_donors

from tests.fedd import runs as made
from tests.fedd.specs import spec_file

SETTINGS = SimpleNamespace(images_per_cell=2, thumbnail=48)
SHIFT = {"light": 0, "medium": 2, "dark": 5}
PER_TONE = 4


def square(shift: int = 0) -> np.ndarray:
    mask = np.full((32, 32), SKIN, np.uint8)
    mask[8:18, 8 + shift : 18 + shift] = LESION
    return mask


def write_masks(folder, source="fedd"):
    """A masks archive: four photos a tone; the first is one the segmenter learnt from, the last of dark skin is not used."""
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
    return folder / "masks/clinic/nevus.000.jsonl", {"clinic": {"crop": "resize", "id_map": None, "files": human}}


def write_later(folder):
    """Two canvases of light and one of dark skin, and two donors: one placed everywhere, one nowhere."""
    with ArchiveWriter(folder / "canvases/clinic.tar", {"cohort": "clinic"}) as pool:
        for name, tone in (("light0", "light"), ("light1", "light"), ("dark0", "dark")):
            pool.add(name, {"png": b"x"}, {"id": name, "tone": tone})
    for donor, canvases in (("medium1", {"light0": "light", "dark0": "dark"}), ("dark3", {})):
        spec = {"canvas_cohort": "clinic", "donor": donor}
        with ArchiveWriter(folder / f"lesion_mapped/clinic/{donor}.tar", spec) as mapped:
            for name, tone in canvases.items():
                mapped.add(name, {"png": b"x"}, {"id": name, "tone": tone})
    return [folder / "canvases/clinic.jsonl"], sorted((folder / "lesion_mapped/clinic").glob("*.jsonl"))


@pytest.fixture
def world(tmp_path):
    masks, human = write_masks(tmp_path)
    return tmp_path, masks, human, *write_later(tmp_path)


def test_masks_and_flags_are_counted_by_tone(world):
    table = flag_counts([Archive(world[1])]).set_index("tone")
    assert list(table["photos"]) == [4, 4, 4] and list(table.loc[list(TONES), "with a mask"]) == [4, 4, 3]
    assert list(table["automatic mask not used"]) == [0, 0, 1] and list(table["no_skin"]) == [0, 0, 1]
    assert "converted_from_P" not in table.columns


def test_automatic_masks_are_measured_against_human_ones_the_segmenter_did_not_see(world):
    ((caption, table),) = against_human([Archive(world[1])], world[2], 0)
    assert (
        "8 photos; 3 photo(s) the segmenter learnt from are left out; 1 without a used automatic mask (dark 1)"
        in caption
    )
    lesion = table.set_index("IoU").loc["lesion"]
    assert lesion.index[0] == "all (n=8)" and lesion["light (n=3)"].startswith("1.00")
    for tone, count in (("medium", 3), ("dark", 2)):
        overlap = 10 * (10 - SHIFT[tone])
        assert lesion[f"{tone} (n={count})"].startswith(f"{overlap / (200 - overlap):.2f} [")
    assert table.set_index("IoU").loc["ruler", "all (n=8)"] == "undefined"
    assert BACKGROUND not in square()
    assert against_human([Archive(world[1])], {}, 0) == []


def test_what_came_of_the_masks(world):
    _, masks, _, canvases, mapped = world
    made_ = [Archive(path) for path in mapped]
    table = downstream([Archive(masks)], [Archive(path) for path in canvases], made_).set_index("tone")
    assert list(table["canvases kept"]) == [2, 0, 1] and list(table["with a mask"]) == [4, 4, 3]
    assert list(table["lesion and canvas pairs"]) == [4, 0, 2] and list(table["lesions placed"]) == [1, 0, 1]
    assert table.loc["light", "share placed"] == 0.25 and np.isnan(table.loc["medium", "share placed"])
    assert idle_donors(made_) == 1


def test_human_masks_without_a_study_give_no_section(tmp_path):
    masks, human = write_masks(tmp_path, source="human")
    assert section({"seed": 0}, SETTINGS, None, [], [], []) is None
    assert section({"seed": 0, "human_masks": human}, SETTINGS, None, [masks], *write_later(tmp_path)) is None


def test_the_page_shows_the_study_and_the_masks(world, tmp_path):
    from cgddi.stages.report.page import _environment

    folders, features = made.write_study_runs(tmp_path / "study")
    tables = tmp_path / "fedd/tables"
    arguments = ["--spec", spec_file(made.spec(cohort="clinic"), tables), "--runs", *map(str, folders)]
    assert main(["fedd", "tables", *arguments, "--features", str(features), "--output-dir", str(tables)]) == 0
    found = section(
        {"seed": 0, "human_masks": world[2]}, SETTINGS, str(tables / "summary.json"), [world[1]], *world[3:]
    )
    assert found["sources"] == ["fedd"] and len(found["plots"]) == 7 and len(found["details"]) == 5
    assert {tone: len(shown) for tone, shown in found["examples"].items()} == dict.fromkeys(TONES, 2)
    empty = dict.fromkeys(("title", "table", "review", "comparison", "usage"), "")
    empty |= {name: {} for name in ("tables", "plots", "audits", "healthy", "spec", "versions", "kinds")}
    empty |= {"splits": [], "adapters": [], "tones": [], "predicted": None}
    template = _environment().get_template("page.html")
    page = template.render(**empty | {"fedd": found, "tones": TONES, "healthy": dict.fromkeys(TONES, ())})
    part = page[page.index('<h2 id="fedd">') : page.index('<h2 id="audits">')]
    assert part.count("data:image/png;base64,") == 7 + 3 * 2 * 3
    assert (
        "The FEDD study on cohort clinic" in part
        and "<br>(published 0.78‡)" in part
        and "1 donor(s) gave no lesion" in part
    )
    assert re.search(r"<td>dark</td>\s*<td>4</td>\s*<td>3</td>\s*<td>1</td>", part)
    assert 'href="#fedd"' in page and 'id="fedd"' not in template.render(**empty | {"fedd": None})
