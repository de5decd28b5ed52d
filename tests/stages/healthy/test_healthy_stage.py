"""The healthy stage without a model, and with inpainters that fail."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cgddi.core.archive import Archive
from cgddi.core.heal import heal
from cgddi.core.images import LESION, MARKER, RULER, SKIN, decode_png
from cgddi.core.membrane import blend, match_border
from cgddi.core.seeds import seed_for
from cgddi.core.triage import judge, scores_of
from cgddi.job.store import MadeStore
from cgddi.stages.canvases.settings import TriageSettings
from cgddi.stages.healthy.region import halo, painted_region
from cgddi.stages.healthy.settings import HealthySettings
from cgddi.stages.healthy.stage import inpaint_batch
from PIL import Image

from tests.core.procedural import hole, skin
from tests.stages.lesion_mapped.world import photo, row_of, run, spec_of, write_samples

MODELLESS = {"method": "heal"}


def healthy_spec(images, settings=None, **keys):
    return spec_of("healthy", {**MODELLESS, **(settings or {})}, cohort="c", batch="b.000", images=list(images), **keys)


@pytest.fixture
def photos(tmp_path):
    samples = [
        (f"p{n}", *photo(n, 96, lesion=0.03), {"tone": tone}) for n, tone in enumerate(("light", "medium", "dark"))
    ]
    return write_samples(tmp_path / "masks.tar", samples)


def test_a_batch_is_healed_and_scored(photos, tmp_path):
    output = tmp_path / "healthy.tar"
    assert run("healthy", "--photos", photos, "--output", output, spec=healthy_spec(["p0", "p1", "p2"])) == 0
    archive = Archive(output)
    for row in archive.rows:
        pictures = {
            name: decode_png(archive.read(row, name)) for name in ("png", "before.png", "region.png", "mask.png")
        }
        assert set(row["members"]) == set(pictures)
        region = pictures["region.png"]
        assert (pictures["png"][region == 0] == pictures["before.png"][region == 0]).all()
        taken, mask = photo(int(row["key"][1]), 96, lesion=0.03)
        assert (pictures["before.png"] == taken).all()
        assert (region == painted_region(mask, 5, 2.0, True, halo(taken, mask))).all()
        healed = heal(taken, region, mask == SKIN)
        assert (pictures["png"] == healed.picture).all()
        scores = scores_of(taken, healed.picture, region, mask)
        made = {"member": "png", "pieces": healed.pieces, "smooth": 0.0, "triage": scores}
        assert row["candidates"] == {"heal": made}
        assert judge(scores, TriageSettings()).reasons == []  # and the photo as it was does not pass
        untouched = judge(scores_of(taken, taken, region, mask), TriageSettings()).reasons
        assert any("lesion still there" in reason for reason in untouched)
        assert (pictures["mask.png"] == np.where(np.isin(mask, (LESION, MARKER)), SKIN, mask)).all()
        known = (row["kind"], row["concept"], row["disease"], row["canvas"])
        assert known == ("healthy", "healthy", "nevus", row["key"])
        assert row["tone"] == ("light", "medium", "dark")[int(row["key"][1])] and row["malignant"] is None
        assert row["painted"] == pytest.approx((region > 0).mean(), abs=1e-6)


def test_as_published_no_halo_is_painted(photos, tmp_path):
    published = {"halo": False, "full_cover": False}
    run("healthy", "--photos", photos, "--output", tmp_path / "h.tar", spec=healthy_spec(["p0"], published))
    archive = Archive(tmp_path / "h.tar")
    mask = photo(0, 96, lesion=0.03)[1]
    region = decode_png(archive.read(archive.rows[0], "region.png"))
    assert (region == painted_region(mask, 5, 2.0, full_cover=False)).all()


def test_an_image_does_not_depend_on_its_batch(photos, tmp_path):
    for name, images in (("one", ["p1"]), ("all", ["p2", "p1", "p0"])):
        run("healthy", "--photos", photos, "--output", tmp_path / f"{name}.tar", spec=healthy_spec(images))
    one, every = Archive(tmp_path / "one.tar"), Archive(tmp_path / "all.tar")
    assert one.rows[0]["sha256"] == next(row["sha256"] for row in every.rows if row["key"] == "p1")


class Failing:
    """An inpainter that gives no picture the first `times` times it sees a photo, and grey after that."""

    def __init__(self, times: int):
        self.times, self.calls = times, 0

    def inpaint(self, photos, regions, seeds):
        self.calls += 1
        return [None if self.calls <= self.times else np.full_like(photo, 128) for photo in photos]


def test_a_black_picture_is_tried_again_with_a_recorded_seed(photos, tmp_path):
    settings = HealthySettings(method="diffusion")
    inpaint_batch(healthy_spec(["p0"]), settings, photos, tmp_path / "h.tar", lambda: Failing(3))
    archive = Archive(tmp_path / "h.tar")
    made = archive.rows[0]["candidates"]["diffusion"]
    assert made["failed_seeds"] == [seed_for(7, "healthy", "p0", attempt) for attempt in range(3)]
    assert made["seed"] == seed_for(7, "healthy", "p0", 3) and set(archive.rows[0]["candidates"]) == {"diffusion"}
    before, region = (decode_png(archive.read(archive.rows[0], part)) for part in ("before.png", "region.png"))
    expected = blend(before, match_border(before, np.full_like(before, 128), region), region)
    assert (decode_png(archive.read(archive.rows[0])) == expected).all()
    inpaint_batch(healthy_spec(["p0"]), settings, photos, tmp_path / "none.tar", lambda: Failing(4))
    record = Archive(tmp_path / "none.tar").record
    assert record["images"] == 0 and "NaN or black" in record["skipped"][0]["reason"]


def test_as_published_no_colour_is_matched(photos, tmp_path):
    settings = HealthySettings(method="diffusion", match_border=False)
    inpaint_batch(healthy_spec(["p0"]), settings, photos, tmp_path / "h.tar", lambda: Failing(0))
    archive = Archive(tmp_path / "h.tar")
    shown, before, region = (decode_png(archive.read(archive.rows[0], x)) for x in ("png", "before.png", "region.png"))
    assert (shown == blend(before, np.full_like(before, 128), region)).all()


def test_what_depends_on_who_else_failed_is_not_kept(photos, tmp_path):
    """A further attempt is made of those alone whose first one failed."""
    settings, cache = HealthySettings(method="diffusion"), tmp_path / "cache"
    for failures, made in ((1, 0), (0, 1)):
        kept = MadeStore(cache, "healthy", ["all of it"])
        inpaint_batch(healthy_spec(["p0"]), settings, photos, tmp_path / "h.tar", lambda n=failures: Failing(n), kept)
        assert (kept.computed, kept.reused) == (made, 0)


def test_where_the_model_fails_the_healed_picture_is_left(photos, tmp_path):
    inpaint_batch(healthy_spec(["p0"]), HealthySettings(), photos, tmp_path / "h.tar", lambda: Failing(4))
    (row,) = Archive(tmp_path / "h.tar").rows
    assert {name: made["member"] for name, made in row["candidates"].items()} == {"heal": "png"}


def test_unusable_photos_are_recorded_and_stop_no_other(tmp_path):
    good, mask = photo(1, 64, lesion=0.03)
    samples = [
        ("good", good, mask, {}),
        ("no_mask", good, None, {}),
        ("empty", good, np.full_like(mask, SKIN), {}),
        ("covered", good, np.full_like(mask, LESION), {}),
        ("skinless", good, np.where(mask == SKIN, 0, mask), {}),
    ]
    photos = write_samples(tmp_path / "masks.tar", samples)
    output = tmp_path / "h.tar"
    assert run("healthy", "--photos", photos, "--output", output, spec=healthy_spec([key for key, *_ in samples])) == 0
    archive = Archive(output)
    assert [row["key"] for row in archive.rows] == ["good"]
    reasons = {entry["id"]: entry["reason"] for entry in archive.record["skipped"]}
    assert "no mask" in reasons["no_mask"] and "no lesion" in reasons["empty"]
    assert "covers the whole image" in reasons["covered"] and "too little skin" in reasons["skinless"]


def test_a_lesion_at_the_border_is_painted(tmp_path):
    picture, mask = photo(1, 64, lesion=0.03, ruler=False)
    mask[20:40, :6] = LESION
    photos = write_samples(tmp_path / "masks.tar", [("edge", picture, mask, {"flags": ["touches_border"]})])
    assert run("healthy", "--photos", photos, "--output", tmp_path / "h.tar", spec=healthy_spec(["edge"])) == 0
    assert Archive(tmp_path / "h.tar").rows[0]["flags"] == ["touches_border"]


def test_odd_photos_of_a_clinic_are_each_recorded_and_stop_no_other(tmp_path):
    """From files to canvases: 12 MP, 150 px, grey, a lesion over the border, several lesions, hair over one, too little skin."""
    size, rows = 192, []
    plain = hole(3, size, 45)
    masks = {name: plain for name in ("12MP", "150px", "grey", "border", "several", "hair", "little_skin")}
    masks["border"] = np.full_like(plain, SKIN)
    above = plain[np.argwhere(plain == LESION)[:, 0].min() + 12 :]
    masks["border"][: len(above)] = above
    masks["several"] = np.where(np.roll(hole(5, size, 20), 60, 1) == LESION, LESION, plain)
    masks["little_skin"] = np.where(np.indices(plain.shape)[0] < 3, SKIN, np.where(plain == LESION, LESION, RULER))
    for number, (name, mask) in enumerate(masks.items()):
        picture = np.where((mask == LESION)[..., None], (110, 60, 50), skin(number, size, hairs=0)).astype(np.uint8)
        if name == "hair":
            picture[np.abs(np.subtract(*np.indices(plain.shape))) % 24 < 2] = 30
        photo, mask = Image.fromarray(picture), Image.fromarray(mask.astype(np.uint8))
        if name == "12MP":
            photo, mask = (each.resize((4000, 3000), Image.Resampling.NEAREST) for each in (photo, mask))
        if name == "150px":
            photo, mask = (each.resize((150, 150), Image.Resampling.NEAREST) for each in (photo, mask))
        (photo.convert("L") if name == "grey" else photo).save(tmp_path / f"{number}.jpg", quality=95)
        mask.save(tmp_path / f"{number}.png")
        rows.append(row_of(name, tmp_path / f"{number}.jpg", tmp_path / f"{number}.png"))
    spec = spec_of("masks", {"size": size}, rows=rows, cohort="c", batch="b.000")
    assert run("masks", "--output", tmp_path / "m.tar", spec=spec) == 0
    taken = {row["key"]: row for row in Archive(tmp_path / "m.tar").rows}
    flags = {name: row["flags"] for name, row in taken.items()}
    assert flags == {
        "12MP": [],
        "150px": ["enlarged"],
        "grey": ["converted_from_L"],
        "border": ["touches_border"],
        "several": ["several_parts"],
        "hair": [],
        "little_skin": [],
    }
    assert (taken["12MP"]["width"], taken["12MP"]["height"]) == (4000, 3000)
    labels = [{"image_id": name, "concept": "nevus", "tone": "light", "group": None} for name in masks]
    spec = healthy_spec(list(masks), labels=labels)
    assert run("healthy", "--photos", tmp_path / "m.tar", "--output", tmp_path / "h.tar", spec=spec) == 0
    archive = Archive(tmp_path / "h.tar")
    assert [row["key"] for row in archive.rows] == list(masks)[:-1]
    ((reason, left),) = [(entry["reason"], entry["id"]) for entry in archive.record["skipped"]]
    assert left == "little_skin" and reason.startswith("too little skin to go on: ")
    for row in archive.rows:
        before, after, mask = (decode_png(archive.read(row, name)) for name in ("before.png", "png", "region.png"))
        assert row["candidates"]["heal"]["smooth"] == 0 and before.shape == (size, size, 3)
        off, was = (
            np.abs(np.median(each[mask == 255], 0) - np.median(before[mask == 0], 0)) for each in (after, before)
        )
        assert off.max() < 12 < was.max(), f"{row['key']}: the place has the skin's colour"
        assert row["key"] != "grey" or np.ptp(after.astype(int), axis=-1).max() <= 1


def test_mistakes_end_with_a_message(photos, tmp_path, capsys):
    output = tmp_path / "h.tar"
    assert run("healthy", "--photos", photos, "--output", output, spec=healthy_spec(["gone"])) == 2
    assert "lacks image(s) gone" in capsys.readouterr().err
    assert (
        run("healthy", "--photos", photos, "--output", output, spec=healthy_spec(["p0"], {"method": "diffusion"})) == 2
    )
    assert "model.source" in capsys.readouterr().err
    assert run("healthy", "--photos", photos, "--output", output, spec=healthy_spec(["p0"], {"stepps": 3})) == 2
    assert "stepps" in capsys.readouterr().err
    assert not output.exists()


def test_the_metrics_say_how_many(photos, tmp_path):
    words = ("healthy", "--photos", photos, "--output", tmp_path / "h.tar", "--metrics", tmp_path / "m.jsonl")
    assert run(*words, spec=healthy_spec(["p0", "p2"])) == 0
    assert json.loads((tmp_path / "m.jsonl").read_text())["images"] == 2


class Grey:
    """An inpainter that notes the sizes of the photos of each call."""

    def __init__(self):
        self.calls = []

    def inpaint(self, photos, regions, seeds):
        self.calls.append([photo.shape[:2] for photo in photos])
        return [np.full_like(photo, 128) for photo in photos]


def test_photos_of_one_size_share_a_call_and_what_is_kept_is_for_a_group_of_its_size(tmp_path):
    """A result may differ by rounding with the number of photos in its call, so that a group of another size takes none of it."""
    samples = [(f"p{n}", *photo(n, side, lesion=0.03), {}) for n, side in enumerate((64, 64, 96, 64, 64, 64))]
    photos, settings = write_samples(tmp_path / "m.tar", samples), HealthySettings(method="diffusion", batch_size=2)

    def paint(images):
        kept, grey = MadeStore(tmp_path / "cache", "healthy", ["all of it"]), Grey()
        inpaint_batch(healthy_spec(images), settings, photos, tmp_path / "h.tar", lambda: grey, kept)
        return grey.calls, kept.computed, kept.reused

    assert paint(["p5"]) == ([[(64, 64)]], 1, 0)
    sizes = [[(64, 64)] * 2, [(96, 96)], [(64, 64)] * 2, [(64, 64)]]
    assert paint([f"p{n}" for n in range(6)]) == (sizes[:3], 5, 1)
    assert paint([f"p{n}" for n in (0, 1, 3, 5)]) == ([[(64, 64)] * 2], 1, 3)
