"""The check of samples: what fails is drawn again with a seed of its own, nothing is drawn twice, and what is short is counted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from cgddi.core import judges
from cgddi.core.archive import Archive
from cgddi.core.colour import skin_angle
from cgddi.core.images import RULER, TONES, encode_png
from cgddi.diffusion.data import read_canvases
from cgddi.diffusion.weights import read_tensors, write_tensors
from cgddi.stages.report.pictures import MEANING
from cgddi.stages.semantic import sample, sampler
from cgddi.stages.semantic.check import Checker
from cgddi.stages.semantic.draws import SampleSpec

from tests.diffusion import tiny
from tests.stages.semantic.test_recipe import seed_of

LOOSE = {"presence": 0, "angle": dict.fromkeys(("light", "medium", "dark"), (-180, 180)), "traits": {}, "strangeness": 0,
         "likeness": 2}  # fmt: skip


@pytest.fixture
def run(world, tmp_path, monkeypatch):
    """Run one job with limits; gives the archive, and the seeds that were drawn."""
    real, seeds = sampler.Sampler.draw, []

    def counted(self, prompts, these, *rest):
        seeds.extend(these)
        return real(self, prompts, these, *rest)

    monkeypatch.setattr(sampler.Sampler, "draw", counted)

    def job(name, cache="cache", redraws=2, check=True, **limits):
        seeds.clear()
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"limits": {**LOOSE, **limits}}))
        spec = tiny.spec_for("semantic", world.model, world.images, **tiny.SEMANTIC, redraws=redraws, check=check)
        output = tmp_path / name / "a.tar"
        inputs = (
            [world.root / "canvases.tar"],
            None,
            world.embedding,
            world.lora,
            output,
            file,
            [world.root / "masks.tar"],
        )
        sample.sample_concept(sample.SemanticJob(spec, *inputs), tmp_path / cache)
        return Archive(output), list(seeds)

    return job


def median_presence(archive):
    return float(np.median([row["scores"]["presence"] for row in archive.rows]))


def test_nothing_is_drawn_twice_whatever_the_limits(run, world):
    loose, drawn = run("loose")
    assert len(loose.rows) == len(drawn) == 9 and all(row["used"] for row in loose.rows)
    assert {row["scores"]["nearest"] for row in loose.rows} <= set(world.images), "a photo that the adapter learnt from"
    unchecked, none = run("unchecked", check=False, presence=1e6)
    assert not none and not any("used" in row for row in unchecked.rows) and "check" not in unchecked.record
    limit = median_presence(loose)
    strict, further = run("strict", presence=limit)
    failed = [row["key"] for row in loose.rows if row["scores"]["presence"] < limit]
    assert failed and not set(further) & set(drawn)
    assert len(further) == len([row for row in strict.rows if "-r" in row["key"]]) >= len(failed)
    again, none = run("again")
    assert not none and again.manifest_path.read_bytes() == loose.manifest_path.read_bytes()
    back, none = run("back", presence=limit)
    assert not none and back.path.read_bytes() == strict.path.read_bytes()
    afresh, all_of_them = run("afresh", cache="other", presence=limit)
    assert sorted(all_of_them) == sorted(drawn + further)
    assert afresh.path.read_bytes() == strict.path.read_bytes() and afresh.rows == strict.rows


def test_what_stays_short_is_counted_and_not_used(run):
    archive, seeds = run("none", presence=1e6)
    assert len(seeds) == len(set(seeds)) == 27
    assert not any(row["used"] for row in archive.rows)
    assert {reason for row in archive.rows for reason in row["faults"]} == {"no lesion"}
    counts = archive.record["check"]["dark"]
    expected = {"wanted": 3, "passed at first": 0, "drawn": 9, "passed": 0, "short": 3, "reasons": {"no lesion": 9}}
    assert counts == expected


def test_a_first_draw_that_passes_ends_its_redraws(run):
    archive, _ = run("half", presence=median_presence(run("loose", cache="first")[0]))
    slots = {}
    for row in archive.rows:
        slots.setdefault(row["key"].partition("-r")[0], []).append(row["used"])
    assert len(slots) == 9
    for used in slots.values():
        assert used.count(True) <= 1 and True not in used[:-1]
        assert used[-1] or len(used) == 3


def test_further_draws_have_seeds_of_their_own():
    first = SampleSpec("c-dark-0", "c", "dark", 0, 5)
    draws = [first, *(first.again(n) for n in range(1, 9))]
    assert len({draw.seed for draw in draws}) == len({draw.key for draw in draws}) == 9
    assert draws[2].key == "c-dark-0-r2" and draws[2].canvas == "c" and draws[2].attempt == 2
    assert draws[2].seed == seed_of(5, "again", 2), "none that a black image is drawn again with"


def test_a_sample_is_judged_where_its_canvas_has_skin_and_by_the_photos_that_were_learnt_from(tmp_path):
    """Scores by hand: p003 and p005 are copied; the one is the canvas's own photo, the other was not learnt from."""
    images = tiny.make_photos(tmp_path / "masks.tar")
    tiny.make_canvases(tmp_path / "canvases.tar", prefix="p")
    (tmp_path / "limits.json").write_text(json.dumps({"limits": LOOSE}))
    (canvas,) = (c for c in read_canvases([tmp_path / "canvases.tar"], None) if c.id == "p003")
    mask = canvas.mask.copy()
    mask[:, 20:] = RULER
    learnt = ["p000", "p001", "p003", "p004"]
    checker = Checker(
        tmp_path / "limits.json", [tmp_path / "masks.tar"], learnt, [replace(canvas, mask=mask)], tiny.SIZE
    )
    pixels = {name: tiny.photo(n, TONES[n % 3])[0] for n, name in enumerate(images)}
    thumbnails = {name: judges.thumbnail(pixels[name]) for name in learnt if name != "p003"}
    for copied in ("p003", "p005"):
        picture = pixels[copied].copy()
        if copied == "p003":
            picture[:, 20:] = (20, 20, 220)  # where the canvas shows a ruler
        found = checker.look(SampleSpec("k", "p003", "dark", 0, 5), encode_png(picture)).scores
        part = mask != RULER
        presence = judges.presence(judges.view(picture, part), judges.contrasts(judges.view(canvas.pixels, part)))
        alike = {
            name: float(judges.likeness(judges.thumbnail(picture), thumbnail[None])[0])
            for name, thumbnail in thumbnails.items()
        }
        nearest = max(alike, key=alike.get)
        assert found["presence"] == pytest.approx(presence, abs=1e-3) and found["presence"] > 5
        assert found["angle"] == pytest.approx(skin_angle(picture, part), abs=1e-3)
        assert (found["nearest"], found["likeness"]) == (nearest, pytest.approx(alike[nearest], abs=1e-3))
        assert found.keys() == MEANING.keys(), "the report says of each what it is"


def test_what_was_drawn_is_found_again_by_all_that_decides_it_and_by_nothing_else(world, tmp_path, monkeypatch):
    class Asked(Exception):
        pass

    def store(cache, stage, made_from, device):
        raise Asked(json.dumps(made_from, default=str))

    monkeypatch.setattr(sample, "MadeStore", store)
    tensors, facts = read_tensors(world.lora)
    write_tensors(tmp_path / "other.safetensors", {name: 2 * value for name, value in tensors.items()}, facts)

    def key(lora=world.lora, revision=3, **settings):
        spec = tiny.spec_for("semantic", world.model, world.images, **{**tiny.SEMANTIC, **settings})
        job = sample.SemanticJob(
            spec | {"revision": revision},
            [world.root / "canvases.tar"],
            None,
            world.embedding,
            lora,
            tmp_path / "a.tar",
        )
        with pytest.raises(Asked) as asked:
            sample.sample_concept(job)
        return str(asked.value)

    others = ({"strength": 0.5}, {"guidance": 2.0}, {"prompt": "{token} {tone}"}, {"negative_prompt": "ruler"})
    others = (*others, {"steps": 5}, {"sampler": "ddim"}, {"revision": 4}, {"lora": tmp_path / "other.safetensors"})
    assert len({key(), *(key(**other) for other in others)}) == 1 + len(others)
    same = ({"repeats": 3}, {"per_tone": 1}, {"max_canvases": 2}, {"canvas_tones": "same"}, {"redraws": 0})
    assert {key(), *(key(**other) for other in same)} == {key()}


def test_limits_that_are_none_are_refused(run):
    with pytest.raises(Exception, match="holds no limits"):
        run("bad", strangeness=0, novelty=3)
