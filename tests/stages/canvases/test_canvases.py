"""Which healthy images become canvases: the triage proposes, a person decides, and the record holds every verdict."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.errors import UserError
from cgddi.core.images import decode_png, encode_png
from cgddi.stages.canvases.settings import CanvasesSettings
from cgddi.stages.canvases.stage import pool_canvases

from tests.stages.lesion_mapped.world import FAULTLESS, candidate, photo, run, spec_of, write_samples

STRANGE = {**FAULTLESS, "artefacts": 0.2}
IMAGES = {"good0": FAULTLESS, "good1": FAULTLESS, "bad0": STRANGE, "bad1": STRANGE, "good2": FAULTLESS}


def healthy(path, images, tones=("light", "dark", "dark", "medium", "light")):
    samples = [
        (
            key,
            *photo(number, 32, lesion=0, marker=False),
            {"kind": "healthy", "tone": tone, "canvas": key, "candidates": candidate(scores)},
        )
        for number, ((key, scores), tone) in enumerate(zip(images.items(), tones, strict=False))
    ]
    return write_samples(path, samples)


def pool(tmp_path, archives, verdicts=None, **triage):
    spec = spec_of("canvases", {"triage": triage}, cohort="c", verdicts=verdicts or {})
    assert run("canvases", "--healthy", *archives, "--output", tmp_path / "pool.tar", spec=spec) == 0
    return Archive(tmp_path / "pool.tar")


def test_a_persons_verdict_goes_before_the_triages(tmp_path, capsys):
    source = healthy(tmp_path / "h.tar", IMAGES)
    canvases = pool(tmp_path, [source], {"good1": "discard", "bad1": "keep", "good2": "keep", "gone": "keep"})
    assert [(row["key"], row["kept_by"]) for row in canvases.rows] == [
        ("good0", "triage"),
        ("bad1", "review"),
        ("good2", "review"),
    ]
    record, why = canvases.record, ["artefacts: 20% of the place in no colour of the skin around it"]
    assert record["kept"] == {"light": 2, "medium": 1, "dark": 0} and record["discarded"] == 2
    assert record["skipped"] == [
        {"id": "good1", "reason": "discarded by review"},
        {"id": "bad0", "reason": f"discarded by triage: {why[0]}"},
    ]
    verdict = {"method": "heal", "verdict": "keep", "by": "triage", "proposed": "keep", "faults": []}
    assert record["verdicts"] == {
        "good0": verdict,
        "good1": {**verdict, "verdict": "discard", "by": "review"},
        "bad0": {**verdict, "verdict": "discard", "proposed": "discard", "faults": why},
        "bad1": {**verdict, "by": "review", "proposed": "discard", "faults": why},
        "good2": {**verdict, "by": "review"},
    }
    assert record["verdicts_without_image"] == ["gone"]
    assert "no canvas of tone dark is kept" in capsys.readouterr().err
    archive = Archive(source)
    for row in canvases.rows:
        before = next(each for each in archive.rows if each["key"] == row["key"])
        assert set(row["members"]) == {"png", "mask.png"}
        assert all(canvases.read(row, part) == archive.read(before, part) for part in row["members"])
        unchanged = set(before) - {"members", "candidates"}
        assert {name: row[name] for name in unchanged} == {name: before[name] for name in unchanged}
        assert row["method"] == "heal" and row["triage"] == before["candidates"]["heal"]["triage"]


def test_of_two_pictures_the_triage_picks_one_and_the_record_says_which(tmp_path):
    """The faultless one; of two faultless the one further from the thresholds; of two with faults the one that is less so."""
    worse = {**FAULTLESS, "stain": 2.0}
    pairs = {
        "a": (STRANGE, worse),
        "b": (worse, FAULTLESS),
        "c": (FAULTLESS, worse),
        "d": ({**STRANGE, "stain": 19.0}, STRANGE),
    }
    pictures = {key: (photo(n, 32)[0], photo(n + 50, 32)) for n, key in enumerate(pairs)}
    with ArchiveWriter(tmp_path / "h.tar", spec_of("healthy")) as archive:
        for key, (drawn, healed) in pairs.items():
            first, (second, mask) = pictures[key]
            members = {"png": first, "heal.png": second, "mask.png": mask.astype(np.uint8)}
            candidates = {"diffusion": {"member": "png", "seed": 3, "triage": drawn}}
            candidates["heal"] = {"member": "heal.png", "pieces": 2, "triage": healed}
            row = {"id": key, "tone": "light", "candidates": candidates}
            archive.add(key, {name: encode_png(member) for name, member in members.items()}, row)
    canvases = pool(tmp_path, [tmp_path / "h.tar"])
    chosen = {"a": "heal", "b": "heal", "c": "diffusion", "d": "heal"}
    assert {key: verdict["method"] for key, verdict in canvases.record["verdicts"].items()} == chosen
    assert [row["key"] for row in canvases.rows] == ["a", "b", "c"] and canvases.record["discarded"] == 1
    for row in canvases.rows:
        healed = chosen[row["key"]] == "heal"
        assert (
            decode_png(canvases.read(row)) == (pictures[row["key"]][1][0] if healed else pictures[row["key"]][0])
        ).all()
        assert row["method"] == chosen[row["key"]] and row.get("pieces") == (2 if healed else None)
        assert row["triage"] == pairs[row["key"]][healed]


def test_thresholds_decide_and_change_nothing_else(tmp_path):
    source = healthy(tmp_path / "h.tar", IMAGES)
    strict = {**FAULTLESS, "texture_4": 0.9}
    other = healthy(tmp_path / "o.tar", {"late": strict})
    assert [row["key"] for row in pool(tmp_path, [source, other]).rows] == ["good0", "good1", "good2", "late"]
    assert [row["key"] for row in pool(tmp_path, [other, source], artefacts=0.2).rows] == ["late", *IMAGES]
    assert "late" not in [row["key"] for row in pool(tmp_path, [source, other], texture=(0.95, 2)).rows]


def test_an_empty_pool_is_an_error_with_counts_and_remedy(tmp_path):
    bad = healthy(tmp_path / "h.tar", {"a": STRANGE, "b": {**STRANGE, "artefacts": 0.3}, "c": FAULTLESS})
    with pytest.raises(
        UserError, match="keeps no canvas of 3 healthy image.*2 x discarded by triage, 1 x discarded by review"
    ):
        pool_canvases(
            spec_of("canvases", cohort="c", verdicts={"c": "discard"}), CanvasesSettings(), [bad], tmp_path / "c.tar"
        )
    assert not (tmp_path / "c.tar").exists()


@pytest.mark.parametrize(
    ("times", "verdicts", "words"), [(2, {}, "in two healthy archives"), (1, {"good0": "maybe"}, "keep or discard")]
)
def test_mistakes_are_named(tmp_path, times, verdicts, words):
    source = healthy(tmp_path / "h.tar", IMAGES)
    with pytest.raises(UserError, match=words):
        pool_canvases(
            spec_of("canvases", cohort="c", verdicts=verdicts), CanvasesSettings(), [source] * times, tmp_path / "c.tar"
        )
