"""Automatic masks from end to end: what is used, what is left out, and how the later stages take it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from cgddi.cli import main
from cgddi.core.archive import Archive
from cgddi.core.errors import UserError
from cgddi.core.images import LESION, SKIN, decode_png
from cgddi.core.labels import labels_of as labels_by_id
from cgddi.core.masks import read_mask
from cgddi.stages.index.table import build_index
from cgddi.stages.masks.settings import MasksSettings
from cgddi.stages.masks.stage import PredictedMask, write_batch
from PIL import Image

from tests.stages.lesion_mapped.world import labels_of, photo, row_of, run, spec_of, write_photos

SIZE = 64


class Oracle:
    """A predictor that gives the masks it was told to."""

    def __init__(self, masks):
        self.masks, self.provenance, self.calls = masks, {"segmenter_images": ["000000"]}, []

    def predict(self, photos):
        self.calls.append([key for key, _ in photos])
        results = []
        for key, picture in photos:
            assert picture.mode == "RGB"
            mask = self.masks[key]
            unsure = np.where(mask == LESION, 128, 10).astype(np.uint8) if not isinstance(mask, str) else None
            results.append(mask if isinstance(mask, str) else PredictedMask(mask.astype(np.uint8), unsure))
        return results


def predict(tmp_path, masks, rows=None, name="m", **settings):
    rows = rows or [{**row, "mask": None} for row in write_photos(tmp_path / "in", len(masks), SIZE, lesion=0.03)]
    masks = dict(zip([row["image_id"] for row in rows], masks, strict=True))
    settings = {"source": "fedd", "size": SIZE, **settings}
    spec = spec_of("masks", settings, rows=rows, cohort="c", batch="nevus.000")
    oracle = Oracle(masks)
    write_batch(spec, MasksSettings(**settings), tmp_path / f"{name}.tar", lambda: oracle)
    return Archive(tmp_path / f"{name}.tar"), oracle


def truth(number, **changes):
    return photo(number, SIZE, lesion=0.03, **changes)[1]


def lesionless(number):
    mask = truth(number)
    mask[mask == LESION] = SKIN
    return mask


def skinless(number):
    mask = truth(number)
    mask[mask == SKIN] = 0
    return mask


def test_an_automatic_mask_is_used_unless_a_flag_says_no(tmp_path):
    archive, _ = predict(tmp_path, [truth(0), lesionless(1), skinless(2), "its features are gone."])
    good, empty, bare, failed = archive.rows
    assert good["has_mask"] and good["mask_source"] == "fedd" and good["has_ruler"] and good["flags"] == []
    assert (decode_png(archive.read(good, "mask.png")) == truth(0)).all()
    assert good["lesion_uncertainty"] == round(128 / 255, 4) and good["uncertainty"] < 0.06
    assert decode_png(archive.read(good, "uncertainty.png")).shape == (SIZE, SIZE)
    for row, flag in ((empty, "no_lesion"), (bare, "no_skin")):
        assert not row["has_mask"] and row["mask_source"] == "fedd" and row["flags"] == [flag]
        assert {"rejected.mask.png", "uncertainty.png"} < set(row["members"]) and "mask.png" not in row["members"]
    assert failed["flags"] == ["mask_failed"] and set(failed["members"]) == {"png"}
    record = archive.record
    assert record["segmenter_images"] == ["000000"] and (record["masked"], record["rejected"]) == (1, 2)
    assert record["flags"] == {"mask_failed": 1, "no_lesion": 1, "no_skin": 1} and record["sources"] == {"fedd": 1}
    assert [entry["reason"] for entry in record["skipped"]] == [
        "mask by fedd not used: no_lesion",
        "mask by fedd not used: no_skin",
        "no mask by fedd: its features are gone.",
    ]


def test_a_large_lesion_is_flagged_and_used(tmp_path):
    archive, _ = predict(tmp_path, [np.where(truth(0) == SKIN, LESION, SKIN)])
    assert archive.rows[0]["has_mask"] and "lesion_over_half" in archive.rows[0]["flags"]


def test_specks_are_cleared_from_automatic_masks_only(tmp_path):
    picture, mask = photo(0, 128, lesion=0.03, marker=False)
    mask[3, 80] = LESION  # one pixel of 16,384
    Image.fromarray(picture).save(tmp_path / "p.png")
    np.save(tmp_path / "m.npy", mask)
    rows = [row_of("p", tmp_path / "p.png", None)]
    archive, _ = predict(tmp_path, [mask], rows, size=128)
    assert archive.rows[0]["flags"] == [] and decode_png(archive.read(archive.rows[0], "mask.png"))[3, 80] == SKIN
    spec = spec_of(
        "masks", {"size": 128}, rows=[row_of("p", tmp_path / "p.png", tmp_path / "m.npy")], cohort="c", batch="b"
    )
    assert run("masks", "--output", tmp_path / "h.tar", spec=spec) == 0
    human = Archive(tmp_path / "h.tar")
    assert human.rows[0]["flags"] == ["several_parts"]
    assert (decode_png(human.read(human.rows[0], "mask.png")) == mask).all()


def test_human_masks_may_take_precedence(tmp_path):
    rows = write_photos(tmp_path / "in", 3, SIZE, lesion=0.03)
    rows[1]["mask"] = None
    np.save(rows[2]["mask"], np.full((4, 4), 0.5))
    masks = [lesionless(0), truth(1), truth(2)]
    archive, oracle = predict(tmp_path, masks, rows, prefer_human=True)
    assert oracle.calls == [["000001", "000002"]]
    assert [row["mask_source"] for row in archive.rows] == ["human", "fedd", "fedd"]
    assert archive.rows[2]["flags"] == ["mask_unreadable"] and archive.rows[2]["has_mask"]
    archive, oracle = predict(tmp_path, masks, rows, name="auto")
    assert oracle.calls == [["000000", "000001", "000002"]] and not archive.rows[0]["has_mask"]


def healthy(archive, tmp_path, name="h"):
    images = [row["key"] for row in archive.rows]
    spec = spec_of(
        "healthy", {"method": "heal"}, cohort="c", batch="nevus.000", images=images, labels=labels_of(archive)
    )
    assert run("healthy", "--photos", archive.path, "--output", tmp_path / f"{name}.tar", spec=spec) == 0
    return Archive(tmp_path / f"{name}.tar")


def test_the_later_stages_go_on_without_the_photos_left_out(tmp_path):
    archive, _ = predict(tmp_path, [truth(0), lesionless(1), truth(2), "no features"])
    painted = healthy(archive, tmp_path)
    assert [row["key"] for row in painted.rows] == ["000000", "000002"]
    assert {entry["id"]: entry["reason"] for entry in painted.record["skipped"]} == {
        "000001": "its mask by fedd is not used (no_lesion)",
        "000003": "it has no mask (mask_failed)",
    }
    assert painted.rows[0]["mask_source"] == "fedd"
    pool = tmp_path / "pool.tar"
    spec = spec_of("canvases", cohort="c", verdicts={"000000": "keep", "000002": "keep"})
    assert run("canvases", "--healthy", painted.path, "--output", pool, spec=spec) == 0
    spec, composites = spec | {"canvas_cohort": "c", "labels": labels_of(archive)}, tmp_path / "composites.tar"
    spec |= {"settings": {"image_size": SIZE, "padding": 1}, "images": ["000001", "000002"]}
    assert run("lesion_mapped", "--photos", archive.path, "--canvases", pool, "--output", composites, spec=spec) == 0
    assert [row["donor"] for row in Archive(composites).rows] == ["000002"] * 2
    (left,) = Archive(composites).record["skipped"]
    reason = "the donor gives no lesion: its mask by fedd is not used (no_lesion): no composite was made"
    assert left == {"id": "000001", "reason": reason}
    roles = dict.fromkeys([row["key"] for row in archive.rows], "train")
    told = labels_by_id({"labels": labels_of(archive)})
    table, facts = build_index(roles, [archive.path], [pool, composites], labels=told)
    assert facts["counts"] == {"train": {"healthy": 2, "lesion_mapped": 2, "real": 4}}


def test_a_batch_of_which_nothing_can_be_used_is_valid_and_says_so(tmp_path, capsys):
    archive, _ = predict(tmp_path, [lesionless(0), skinless(1)])
    assert "no automatic mask of 2 photo(s) can be used (1 no_lesion, 1 no_skin)" in capsys.readouterr().err
    painted = healthy(archive, tmp_path)
    assert not painted.rows and len(painted.record["skipped"]) == 2
    told = labels_by_id({"labels": labels_of(archive)})
    build_index(dict.fromkeys(("000000", "000001"), "train"), [archive.path], [painted.path], labels=told)
    spec = spec_of("canvases", cohort="c", verdicts={})
    assert run("canvases", "--healthy", painted.path, "--output", tmp_path / "pool.tar", spec=spec) == 2
    said = capsys.readouterr().err
    assert "keeps no canvas of 0 healthy image(s)" in said and "2 photo(s) were not painted at all" in said
    assert "1 x its mask by fedd is not used (no_lesion)" in said and "another masks.source" in said
    assert not (tmp_path / "pool.tar").exists()


def test_the_review_page_shows_mask_source_flags_and_doubt(tmp_path):
    border = truth(0, ruler=False)
    border[20:30, :4] = LESION
    archive, _ = predict(tmp_path, [border, lesionless(1)])
    painted = healthy(archive, tmp_path)
    words = ["review", "--healthy", str(painted.path), "--photos", str(archive.path)]
    assert main([*words, "--output", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1])
    (card,) = data["cards"]
    assert [name for name, *_ in card["pictures"]] == ["original", "mask", "uncertainty", "region", "result"]
    assert card["mask"]["mask_source"] == "fedd" and "touches_border" in card["mask"]["flags"]
    assert card["mask"]["lesion_uncertainty"] == round(128 / 255, 4)
    assert data["left_out"] == [{"cohort": "c", "id": "000001", "reason": "its mask by fedd is not used (no_lesion)"}]


def test_masks_go_out_at_photo_size_and_come_back_as_human_ones(tmp_path, capsys):
    picture = Image.fromarray(photo(0, 96)[0]).resize((144, 96))
    (tmp_path / "photos").mkdir()
    rows = []
    for number in range(3):
        picture.save(tmp_path / "photos" / f"clinic {number}.png")
        rows.append(row_of(f"id{number}", tmp_path / "photos" / f"clinic {number}.png", None))
    archive, _ = predict(tmp_path, [truth(0), lesionless(1), "no"], rows, crop="square")
    assert main(["masks-export", "--masks", str(archive.path), "--output-dir", str(tmp_path / "out")]) == 0
    assert "2 masks and masks.csv; 1 photos have no mask" in capsys.readouterr().out
    lines = (tmp_path / "out" / "masks.csv").read_text().splitlines()
    assert lines[0] == "image_id,file,mask,source,used,flags" and lines[2].endswith(",fedd,false,no_lesion")
    with Image.open(tmp_path / "out" / "clinic 0.png") as written:
        assert written.mode == "P" and written.size == (144, 96)
    whole = read_mask(tmp_path / "out" / "clinic 0.png")
    assert (whole[:, :24] == 0).all() and (whole[:, 120:] == 0).all()
    for number in range(2):
        rows[number]["mask"] = str(tmp_path / "out" / f"clinic {number}.png")
    spec = spec_of("masks", {"size": SIZE, "crop": "square"}, rows=rows[:2], cohort="c", batch="b")
    assert run("masks", "--output", tmp_path / "again.tar", spec=spec) == 0
    again = Archive(tmp_path / "again.tar")
    assert (decode_png(again.read(again.rows[0], "mask.png")) == truth(0)).all()
    assert again.rows[1]["mask_source"] == "human" and again.rows[1]["flags"] == ["no_lesion"]
    assert main(["masks-export", "--masks", str(healthy(again, tmp_path).path), "--output-dir", str(tmp_path)]) == 2
    assert "is no masks archive" in capsys.readouterr().err


def test_an_automatic_source_needs_its_inputs(tmp_path, capsys):
    rows = write_photos(tmp_path / "in", 1, 32)
    spec = spec_of("masks", {"source": "fedd"}, rows=rows, cohort="c", batch="b")
    assert run("masks", "--output", tmp_path / "m.tar", spec=spec) == 2
    assert "needs --features and --segmenter" in capsys.readouterr().err
    with pytest.raises(UserError, match="Give the stage its predictor"):
        write_batch(spec, MasksSettings(source="fedd"), tmp_path / "m.tar")
