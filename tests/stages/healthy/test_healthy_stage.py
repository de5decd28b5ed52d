"""The healthy stage and the pool of canvases, with the classical painter and with painters that fail."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from cgddi.core.archive import Archive
from cgddi.core.errors import UserError
from cgddi.core.images import LESION, MARKER, RULER, SKIN, decode_png
from cgddi.core.seeds import seed_for
from cgddi.core.triage import judge
from cgddi.stages.canvases.settings import CanvasesSettings
from cgddi.stages.canvases.stage import pool_canvases
from cgddi.stages.healthy.biharmonic import BiharmonicPainter
from cgddi.stages.healthy.settings import HealthySettings, TriageSettings
from cgddi.stages.healthy.stage import paint_batch
from cgddi.stages.lesion_mapped.stage import load_sized
from PIL import Image

from tests.stages.lesion_mapped.world import photo, run, spec_of, write_samples

CLASSICAL = {"method": "biharmonic"}


def healthy_spec(images, settings=None, **keys):
    return spec_of("healthy", {**CLASSICAL, **(settings or {})}, cohort="c", batch="b.000", images=list(images), **keys)


@pytest.fixture
def photos(tmp_path):
    samples = [
        (f"p{n}", *photo(n, 96, lesion=0.03), {"tone": tone}) for n, tone in enumerate(("light", "medium", "dark"))
    ]
    return write_samples(tmp_path / "masks.tar", samples)


def test_a_batch_is_painted_and_pooled(photos, tmp_path):
    output, pool = tmp_path / "healthy.tar", tmp_path / "canvases.tar"
    assert run("healthy", "--photos", photos, "--output", output, spec=healthy_spec(["p0", "p1", "p2"])) == 0
    archive = Archive(output)
    for row in archive.rows:
        pictures = {
            name: decode_png(archive.read(row, name)) for name in ("png", "before.png", "region.png", "mask.png")
        }
        outside = pictures["region.png"] == 0
        assert (pictures["png"][outside] == pictures["before.png"][outside]).all()
        assert not np.isin(pictures["mask.png"], (LESION, MARKER)).any()
        assert row["seed"] == seed_for(7, "healthy", row["key"], 0)
        assert (row["kind"], row["concept"], row["disease"], row["canvas"]) == (
            "healthy",
            "healthy",
            "nevus",
            row["key"],
        )
    verdicts = {"p1": "discard", "p7": "keep"}
    spec = spec_of("canvases", {"sizes": [48]}, cohort="c", verdicts=verdicts)
    assert run("canvases", "--healthy", output, "--output", pool, spec=spec) == 0
    canvases = Archive(pool)
    assert [row["key"] for row in canvases.rows] == ["p0", "p2"]
    assert canvases.record["kept"] == {"light": 1, "medium": 0, "dark": 1}
    assert canvases.record["skipped"] == [{"id": "p1", "reason": "discarded by review"}]
    assert canvases.record["verdicts_without_image"] == ["p7"]
    small, classes = load_sized(canvases, canvases.rows[0], 48)
    with Image.open(io.BytesIO(canvases.read(canvases.rows[0]))) as whole:
        assert (small == np.asarray(whole.resize((48, 48), Image.Resampling.LANCZOS))).all()
    assert "48.npy" in canvases.rows[0]["members"] and classes.shape == (48, 48) and (classes == RULER).any()
    assert canvases.read(canvases.rows[0]) == archive.read(archive.rows[0])


def test_an_image_does_not_depend_on_its_batch(photos, tmp_path):
    for name, images in (("one", ["p1"]), ("all", ["p2", "p1", "p0"])):
        run("healthy", "--photos", photos, "--output", tmp_path / f"{name}.tar", spec=healthy_spec(images))
    one, every = Archive(tmp_path / "one.tar"), Archive(tmp_path / "all.tar")
    assert one.rows[0]["sha256"] == next(row["sha256"] for row in every.rows if row["key"] == "p1")


class Failing:
    """A painter that gives no picture the first `times` times it sees a photo."""

    name = "failing"

    def __init__(self, times: int):
        self.times, self.calls = times, 0

    def paint(self, photos, regions, skins, seeds):
        self.calls += 1
        if self.calls <= self.times:
            return [None] * len(photos)
        return BiharmonicPainter().paint(photos, regions, skins, seeds)


def test_a_black_picture_is_tried_again_with_a_recorded_seed(photos, tmp_path):
    settings = HealthySettings(method="biharmonic", retries=2)
    paint_batch(healthy_spec(["p0"]), settings, photos, tmp_path / "h.tar", lambda: Failing(2))
    row = Archive(tmp_path / "h.tar").rows[0]
    assert row["failed_seeds"] == [seed_for(7, "healthy", "p0", 0), seed_for(7, "healthy", "p0", 0, "retry", 1)]
    assert row["seed"] == seed_for(7, "healthy", "p0", 0, "retry", 2)
    paint_batch(healthy_spec(["p0"]), settings, photos, tmp_path / "none.tar", lambda: Failing(3))
    record = Archive(tmp_path / "none.tar").record
    assert record["images"] == 0 and "NaN or black" in record["skipped"][0]["reason"]


class Worse:
    """A painter whose picture is the photo itself for even seeds, and clean for odd ones."""

    name = "worse"

    def paint(self, photos, regions, skins, seeds):
        clean = BiharmonicPainter().paint(photos, regions, skins, seeds)
        return [before if seed % 2 == 0 else good for before, good, seed in zip(photos, clean, seeds, strict=True)]


def test_the_best_candidate_is_kept(photos, tmp_path):
    settings = HealthySettings(method="biharmonic", candidates=8, batch_size=3)
    paint_batch(healthy_spec(["p0", "p1"]), settings, photos, tmp_path / "h.tar", Worse)
    for row in Archive(tmp_path / "h.tar").rows:
        assert judge(row["triage"], TriageSettings()) == []
        assert row["seed"] == seed_for(7, "healthy", row["key"], row["candidate"]) and row["seed"] % 2 == 1


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


def test_an_empty_pool_is_an_error(photos, tmp_path):
    run("healthy", "--photos", photos, "--output", tmp_path / "h.tar", spec=healthy_spec(["p0"]))
    spec = spec_of("canvases", cohort="c", verdicts={"p0": "discard"})
    with pytest.raises(UserError, match="keeps no canvas of 1 healthy image"):
        pool_canvases(spec, CanvasesSettings(), [tmp_path / "h.tar"], tmp_path / "c.tar")
    assert not (tmp_path / "c.tar").exists()
    with pytest.raises(UserError, match="keep or discard"):
        pool_canvases(
            {**spec, "verdicts": {"p0": "maybe"}}, CanvasesSettings(), [tmp_path / "h.tar"], tmp_path / "c.tar"
        )


def test_the_metrics_say_how_many(photos, tmp_path):
    words = ("healthy", "--photos", photos, "--output", tmp_path / "h.tar", "--metrics", tmp_path / "m.jsonl")
    assert run(*words, spec=healthy_spec(["p0", "p2"])) == 0
    assert json.loads((tmp_path / "m.jsonl").read_text())["images"] == 2
