"""Samples: independent of order and company, whole after a kill, redrawn when black."""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.errors import UserError
from cgddi.core.images import TONES, decode_png, encode_png
from cgddi.diffusion import sample as sampler
from cgddi.diffusion.data import read_photos
from cgddi.stages.semantic import sample
from cgddi.stages.semantic.settings import SemanticSettings

from tests.diffusion import tiny
from tests.stages.semantic.test_recipe import seed_of


def draw(world, output, cache=None, canvases=None, **settings):
    spec = tiny.spec_for("semantic", world.model, world.images, **{**tiny.SEMANTIC, **settings})
    canvases = canvases or [world.root / "canvases.tar"]
    count = sample.sample_concept(sample.SemanticJob(spec, canvases, None, world.embedding, world.lora, output), cache)
    archive = Archive(output)
    assert len(archive.rows) == count
    return {row["key"]: decode_png(archive.read(row)) for row in archive.rows}


def test_more_canvases_change_no_image(world, tmp_path):
    few = draw(world, tmp_path / "few.tar", max_canvases=None, per_tone=None)
    tiny.make_canvases(tmp_path / "more.tar", 2, prefix="a")
    more = draw(
        world, tmp_path / "more2.tar", canvases=[tmp_path / "more.tar", world.root / "canvases.tar"], max_canvases=None
    )
    assert len(few) == 18 and len(more) == 24 and set(few) < set(more)
    assert all(np.array_equal(few[key], more[key]) for key in few), "other company and another place in the batch"


def test_another_batch_size_changes_an_image_by_rounding_only(world, tmp_path):
    four = draw(world, tmp_path / "a.tar", batch=4)
    seven = draw(world, tmp_path / "b.tar", batch=7)
    assert all(np.abs(four[key].astype(int) - seven[key].astype(int)).max() <= 1 for key in four)


@pytest.mark.parametrize(("how", "at"), [("kill", 2), ("term", 1), ("term", 3)])
def test_a_job_killed_at_any_batch_goes_on_where_it_was(world, tmp_path, monkeypatch, at, how):
    """9 images in batches of 4 are 3 draws; none that ended is made again."""
    draw(world, tmp_path / "whole.tar")
    calls, real = [], sampler.Sampler.draw

    def counted(self, *args):
        calls.append(1)
        if len(calls) == at and how == "kill":
            raise KeyboardInterrupt
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args)

    monkeypatch.setattr(sampler.Sampler, "draw", counted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        draw(world, tmp_path / "killed.tar", tmp_path / "cache")
    assert not (tmp_path / "killed.tar").exists()
    draw(world, tmp_path / "killed.tar", tmp_path / "cache")
    assert len(calls) == {"term": 3, "kill": 4}[how]
    for end in (".tar", ".jsonl", ".json"):
        assert (tmp_path / f"killed{end}").read_bytes() == (tmp_path / f"whole{end}").read_bytes()


def correct_one(source, target):
    """A copy of an archive of canvases, one pixel of one of them changed; gives the hash of that one."""
    archive = Archive(source)
    with ArchiveWriter(target, {"stage": "canvases"}) as out:
        for number, row in enumerate(archive.rows):
            members = {suffix: archive.read(row, suffix) for suffix in row["members"]}
            if number == 2:
                pixels = decode_png(members["png"]).copy()
                pixels[0, 0] ^= 1
                members["png"] = encode_png(pixels)
            out.add(row["key"], members, {k: v for k, v in row.items() if k not in ("key", "members", "sha256")})
    return Archive(target).rows[2]["sha256"]


def test_a_corrected_canvas_and_more_repeats_draw_what_they_add_alone(world, tmp_path):
    """P10: to the same bytes as without the store. 18 images on 6 canvases, of which one is another then."""
    every = {"max_canvases": None, "per_tone": None}
    draw(world, tmp_path / "a.tar", tmp_path / "cache", **every)
    canvases = tmp_path / "canvases.tar"
    changed = correct_one(world.root / "canvases.tar", canvases)
    drawn, real = [], sample.MadeStore.put

    def put(self, files, facts, item=None):
        if self.folder is not None and self.folder.name == "semantic":
            drawn.append(item)
        return real(self, files, facts, item)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample.MadeStore, "put", put)
        draw(world, tmp_path / "b.tar", tmp_path / "cache", canvases=[canvases], **every)
        assert len(drawn) == 3 and {item[0] for item in drawn} == {changed}
        draw(world, tmp_path / "plain.tar", None, canvases=[canvases], **every)
        drawn.clear()
        draw(world, tmp_path / "c.tar", tmp_path / "cache", canvases=[canvases], **every | {"repeats": 2})
        assert len(drawn) == 18
    for end in (".tar", ".jsonl", ".json"):
        assert (tmp_path / f"b{end}").read_bytes() == (tmp_path / f"plain{end}").read_bytes()


def test_black_images_are_drawn_again_and_recorded(world, tmp_path, monkeypatch):
    real, calls = sampler.Sampler.draw, []

    def first_is_black(self, *args):
        images = real(self, *args).clone()
        if not calls:
            images[1] = 0
        calls.append(args[1])
        return images

    monkeypatch.setattr(sampler.Sampler, "draw", first_is_black)
    draw(world, tmp_path / "a.tar")
    archive = Archive(tmp_path / "a.tar")
    ((key, seed),) = archive.record["redrawn"].items()
    row = archive.rows[1]
    assert row["key"] == key and row["seed"] == seed and calls[1] == [seed] and decode_png(archive.read(row)).max() > 2
    first = seed_of(7, "semantic", "nevus", row["canvas"], row["tone"], 0)
    assert calls[0][1] == first and seed == seed_of(first, "redraw", 1)


def test_images_that_stay_black_stop_the_job(world, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sampler.Sampler, "draw", lambda self, p, seeds, *_: torch.zeros(len(seeds), 32, 32, 3, dtype=torch.uint8)
    )
    with pytest.raises(UserError, match="stay black after 2 redraws: c000-light-0"):
        draw(world, tmp_path / "a.tar", retries=2, max_canvases=None)
    assert not (tmp_path / "a.tar").exists()


def test_not_a_number_latents_decode_to_a_blank_that_is_caught(world):
    from cgddi.diffusion.backbone import load

    backbone = load({"source": str(world.model)}, torch.device("cpu"))
    image = backbone.decode(torch.full((1, 4, 16, 16), torch.nan))[0]
    assert sampler.is_blank(image)
    assert not sampler.is_blank(torch.randint(0, 255, (8, 8, 3), dtype=torch.uint8))


def test_one_broken_number_in_a_draw_is_caught_and_redrawn(world, tmp_path, monkeypatch):
    """One infinite number in one image's first prediction: that image alone is drawn again, and the seed recorded."""
    from cgddi.diffusion.backbone import Backbone

    real, calls = Backbone.denoise, []

    def broken(self, *args):
        found = real(self, *args)
        if not calls:
            found = found.clone()
            found[5, 0, 3, 3] = torch.inf  # of 4 unconditional and 4 conditional predictions: the second image's
        calls.append(1)
        return found

    monkeypatch.setattr(Backbone, "denoise", broken)
    draw(world, tmp_path / "a.tar")
    archive = Archive(tmp_path / "a.tar")
    assert list(archive.record["redrawn"]) == [archive.rows[1]["key"]]
    assert archive.record["redrawn"][archive.rows[1]["key"]] == archive.rows[1]["seed"]


def test_the_default_solver_is_five_times_nearer_to_the_exact_picture_than_another_seed():
    """The quality check behind 20 steps of DPM-Solver++ (on the toy world's own model): distances in grey levels."""
    from pathlib import Path

    from cgddi.diffusion.backbone import load

    model = Path(__file__).parents[3] / "config/toy/model"
    backbone, size, default = load({"source": str(model)}, torch.device("cpu")), 64, SemanticSettings()
    canvas = np.full((1, size, size, 3), (150, 110, 90), np.uint8)
    mean, std = backbone.encode_images(canvas)
    prompts = backbone.encode_prompts(["An image of lesion on a dark-toned individual"])

    def images(steps, seeds):
        how = sampler.SampleSettings(default.sampler, steps, default.strength, default.guidance)
        drawer = sampler.Sampler(backbone, how, size, 1, backbone.empty_negative(""))
        return drawer.draw(prompts, seeds, mean, std).float()

    exact = images(60, [1])
    error = float((images(default.steps, [1]) - exact).abs().mean())
    another = float((images(60, [3]) - exact).abs().mean())
    assert error < another / 5, (error, another)


def test_caps_keep_tones_even_and_existing_draws(world):
    canvases = read_photos([world.root / "canvases.tar"])
    chosen = sample.choose_canvases(canvases, 3, 7, "nevus")
    assert sorted(p.tone for p in chosen) == sorted(TONES)
    settings = SemanticSettings(repeats=2, per_tone=5)
    some = sample.draws(canvases, settings, 7, "nevus")
    assert [sum(d.tone == tone for d in some) for tone in TONES] == [5, 5, 5]
    every = {d.key: d.seed for d in sample.draws(canvases, SemanticSettings(repeats=3), 7, "nevus")}
    assert all(every[d.key] == d.seed for d in some)
    assert len(set(every.values())) == len(every) == 6 * 3 * 3


def test_canvases_of_the_same_tone_alone(world):
    canvases = read_photos([world.root / "canvases.tar"])
    tone_of = {photo.id: photo.tone for photo in canvases}
    chosen = sample.draws(canvases, SemanticSettings(repeats=1, canvas_tones="same"), 7, "nevus")
    assert len(chosen) == len(canvases) and all(tone_of[d.canvas] == d.tone for d in chosen)
    every = {d.key: d.seed for d in sample.draws(canvases, SemanticSettings(repeats=1), 7, "nevus")}
    assert all(every[d.key] == d.seed for d in chosen)


@pytest.mark.parametrize(("limit", "tones"), [(3, (1, 1, 1)), (6, (3, 2, 1)), (9, (6, 2, 1)), (99, (20, 2, 1))])
def test_a_limit_keeps_tones_as_even_as_they_can_be(limit, tones):
    counts = dict(zip(TONES, (20, 2, 1), strict=True))
    canvases = [SimpleNamespace(id=f"{tone}{k}", tone=tone) for tone in TONES for k in range(counts[tone])]
    chosen = sample.choose_canvases(canvases, limit, 7, "nevus")
    assert tuple(sum(p.tone == tone for p in chosen) for tone in TONES) == tones
    assert sample.choose_canvases(canvases, 3, 7, "melanoma") != sample.choose_canvases(canvases, 3, 7, "nevus")


def test_no_training_canvas_is_an_error(world, tmp_path):
    split = tmp_path / "split.csv"
    split.write_text("image_id,role\n" + "".join(f"{name},test\n" for name in world.canvases))
    spec = tiny.spec_for("semantic", world.model, world.images, **tiny.SEMANTIC)
    with pytest.raises(UserError, match="no canvas of role train"):
        sample.sample_concept(
            sample.SemanticJob(
                spec, [world.root / "canvases.tar"], split, world.embedding, world.lora, tmp_path / "a.tar"
            )
        )


def test_the_record_repeats_the_lineage(world, tmp_path):
    draw(world, tmp_path / "a.tar")
    trained = json.loads((world.root / "lora/record.json").read_text())
    record = Archive(tmp_path / "a.tar").record
    assert (
        record["generator_images"] == trained["training_images"] and record["prior_images"] == trained["prior_images"]
    )
