"""The check of samples: what fails is drawn again with a seed of its own, nothing is drawn twice, and what is short is counted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cgddi.core.archive import Archive
from cgddi.stages.semantic import sample, sampler
from cgddi.stages.semantic.draws import SampleSpec

from tests.diffusion import tiny

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

    def job(name, cache="cache", redraws=2, **limits):
        seeds.clear()
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"limits": {**LOOSE, **limits}}))
        spec = tiny.spec_for("semantic", world.model, world.images, **tiny.SEMANTIC, redraws=redraws)
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


def test_nothing_is_drawn_twice_whatever_the_limits(run):
    loose, drawn = run("loose")
    assert len(loose.rows) == len(drawn) == 9 and all(row["used"] for row in loose.rows)
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


def test_limits_that_are_none_are_refused(run):
    with pytest.raises(Exception, match="holds no limits"):
        run("bad", strangeness=0, novelty=3)
