"""The review page in a real browser, and what its csv changes in the next run."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from cgddi.cli import main
from cgddi.core.archive import Archive
from cgddi.core.errors import InvalidInput
from cgddi.stages.canvases.review import write_page
from cgddi.stages.canvases.verdicts import read_review, verdicts_of

from tests.stages.lesion_mapped.world import photo, run, spec_of, write_samples


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """Two cohorts: four images of three tones, and one of another disease."""
    folder = tmp_path_factory.mktemp("review")
    paths = []
    for cohort, tones, disease in (
        ("c", ("light", "medium", "dark", "light"), "nevus"),
        ("other", ("dark",), "wart </script>"),
    ):
        samples = [
            (
                f"{cohort}{number}",
                *photo(number, 64, tone, lesion=0.03),
                {"tone": tone, "cohort": cohort, "concept": disease},
            )
            for number, tone in enumerate(tones)
        ]
        photos = write_samples(folder / f"{cohort}.masks.tar", samples)
        spec = spec_of("healthy", {"method": "heal"}, cohort=cohort, batch="b", images=[key for key, *_ in samples])
        paths.append(folder / f"{cohort}.tar")
        assert run("healthy", "--photos", photos, "--output", paths[-1], spec=spec) == 0
        pool = folder / f"{cohort}.canvases.tar"
        assert run("canvases", "--healthy", paths[-1], "--output", pool, spec=spec_of("canvases", cohort=cohort)) == 0
    return paths


def canvases_of(healthy):
    return [path.with_suffix(".canvases.tar") for path in healthy]


def test_the_page_asks_for_nothing_but_the_pictures_beside_it(healthy, tmp_path):
    page = tmp_path / "review.html"
    assert write_page(healthy, page, canvases=canvases_of(healthy)) == 5
    text = page.read_text()
    assert not re.search(r"(src|href)=[\"']", text) and "http" not in text
    named = {source for card in cards_of(page).values() for _, source, *_ in card["pictures"]}
    assert named == {f"pictures/{file.name}" for file in (tmp_path / "pictures").iterdir()} and len(named) == 15
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "pictures").iterdir()}
    write_page(healthy, page, canvases=canvases_of(healthy))
    assert page.read_text() == text
    assert written == {file: file.stat().st_mtime_ns for file in (tmp_path / "pictures").iterdir()}


def cards_of(page):
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.S)[1]
    return {card["image_id"]: card for card in json.loads(data)["cards"]}


def test_the_page_shows_the_verdicts_that_the_canvases_stage_made(healthy, tmp_path):
    strict = spec_of(
        "canvases",
        {"triage": {"stain": 0, "seam": 0, "border_step": 0, "lesion_contrast": 0}},
        cohort="c",
        verdicts={"c0": "keep"},
    )
    assert run("canvases", "--healthy", healthy[0], "--output", tmp_path / "pool.tar", spec=strict) == 0
    verdicts = Archive(tmp_path / "pool.tar").record["verdicts"]
    write_page(healthy, tmp_path / "r.html", canvases=[tmp_path / "pool.tar"])
    cards = cards_of(tmp_path / "r.html")
    assert cards["other0"]["triage"] is None  # its cohort's canvases were not given
    for image, verdict in verdicts.items():
        assert cards[image]["triage"] == {"verdict": verdict["proposed"], "reasons": verdict["faults"]}
    assert {verdict["proposed"] for verdict in verdicts.values()} == {"discard"} and verdicts["c0"]["verdict"] == "keep"


def test_keys_decide_and_the_exported_csv_steers_the_next_run(healthy, tmp_path, browser):
    page = tmp_path / "review.html"
    assert main(["review", "--healthy", *map(str, healthy), "--output", str(page)]) == 0
    browser.open(page)
    assert browser.evaluate("document.querySelectorAll('.card').length") == 5
    for key in ("k", "d", "n", "d", "p", "p"):  # c0 kept, c1 discarded, c2 passed over, c3 discarded, and back to c2
        browser.press(key)
    assert browser.evaluate("document.querySelector('.card.current').dataset.id") == "c/c2"
    for key in (
        "d",
        "c",
        "k",
        "ArrowLeft",
        "c",
        "d",
    ):  # c2 discarded; c3 cleared, kept, come back to, cleared, discarded
        browser.press(key)
    browser.evaluate(
        "const n = document.querySelector('[data-id=\"c/c1\"] input'); n.value = 'blurred, \"odd\"'; "
        "n.dispatchEvent(new Event('input')); n.dispatchEvent(new Event('change'))"
    )
    assert "4 of 5 decided" in browser.evaluate("document.getElementById('count').textContent")
    browser.press("e")
    exported = browser.downloaded("review.csv")
    assert exported.read_text().splitlines() == [
        "image_id,cohort,verdict,note",
        "c0,c,keep,",
        'c1,c,discard,"blurred, ""odd"""',
        "c2,c,discard,",
        "c3,c,discard,",
    ]
    verdicts = verdicts_of(read_review(exported))
    assert verdicts == {"c": {"c0": "keep", "c1": "discard", "c2": "discard", "c3": "discard"}}
    pools = []
    for given in ({}, verdicts["c"]):
        pools.append(tmp_path / f"pool{len(pools)}.tar")
        spec = spec_of("canvases", cohort="c", verdicts=given)
        assert run("canvases", "--healthy", healthy[0], "--output", pools[-1], spec=spec) == 0
    assert [len(Archive(pool).rows) for pool in pools] == [4, 1]


def test_filters_and_accepting_proposals(healthy, tmp_path, browser):
    page = tmp_path / "review.html"
    write_page(healthy, page, canvases=canvases_of(healthy))
    browser.open(page)
    shown = "[...document.querySelectorAll('.card')].map(c => c.dataset.id).join(' ')"
    choose = (
        "(() => {{ const s = document.getElementById('{}'); s.value = '{}'; s.dispatchEvent(new Event('change')); }})()"
    )
    browser.evaluate(choose.format("tone", "light"))
    assert browser.evaluate(shown) == "c/c0 c/c3"
    browser.evaluate(choose.format("disease", "wart </script>"))
    assert browser.evaluate(shown) == ""
    browser.evaluate(choose.format("tone", ""))
    assert browser.evaluate(shown) == "other/other0"
    browser.evaluate("document.getElementById('accept').click()")
    browser.evaluate(choose.format("disease", ""))
    browser.evaluate(choose.format("verdict", "open"))
    assert browser.evaluate(shown) == "c/c0 c/c1 c/c2 c/c3"
    browser.open(page)  # the browser keeps what was decided
    assert "1 of 5 decided" in browser.evaluate("document.getElementById('count').textContent")


def test_an_earlier_review_is_shown_as_decided(healthy, tmp_path, browser):
    csv = tmp_path / "review.csv"
    csv.write_text('image_id,cohort,verdict,note\nc1,c,discard,"a, b"\n')
    page = tmp_path / "review.html"
    assert main(["review", "--healthy", *map(str, healthy), "--output", str(page), "--verdicts", str(csv)]) == 0
    browser.open(page)
    browser.evaluate("document.getElementById('export').click()")
    assert browser.downloaded("review.csv").read_text() == csv.read_text()
    assert read_review(csv)[0]["note"] == "a, b"


COUNT = "document.getElementById('count').textContent"
SHOWN = "[...document.querySelectorAll('.card')].map(c => c.dataset.id).join(' ')"


def exported(browser):
    (browser.downloads / "review.csv").unlink(missing_ok=True)
    browser.evaluate("document.getElementById('export').click()")
    return browser.downloaded("review.csv").read_text().splitlines()[1:]


def test_what_was_decided_stays_when_a_cohort_comes_and_is_exported_with_the_earlier_csv(healthy, tmp_path, browser):
    """L7: verdicts of a csv, of this browser, notes alone; also of images that the page does not show."""
    page = tmp_path / "review.html"
    write_page(healthy[:1], page, canvases=canvases_of(healthy)[:1])
    browser.open(page)
    browser.press("k")
    browser.evaluate(
        "const n = document.querySelector('[data-id=\"c/c1\"] input'); n.focus(); n.value = 'ask Ana'; "
        "n.dispatchEvent(new Event('input')); n.dispatchEvent(new Event('change'))"
    )
    assert exported(browser) == ["c0,c,keep,", "c1,c,,ask Ana"], "a note without a verdict is kept"
    rows = [
        {"image_id": image, "cohort": cohort, "verdict": verdict, "note": note}
        for image, cohort, verdict, note in (
            (
                "c0",
                "c",
                "discard",
                "second look",
            ),  # said elsewhere: the csv holds, and the page says what the browser had
            ("c2", "c", "keep", ""),
            ("gone", "older", "discard", "of another page"),
        )
    ]
    write_page(healthy, page, canvases=canvases_of(healthy), review=rows)
    browser.open(page)
    assert browser.evaluate(COUNT) == "5 shown, 2 of 5 decided; 1 of images that are not here are exported too"
    everything = ["c0,c,discard,second look", "c1,c,,ask Ana", "c2,c,keep,", "gone,older,discard,of another page"]
    assert exported(browser) == everything
    odd = browser.evaluate("document.querySelector('[data-id=\"c/c0\"] .odd').textContent")
    assert odd == "review.csv says so; in this browser it was: keep "
    browser.press("k")  # changed here after the csv: stays though the page is made with the old csv again
    browser.open(page)
    assert exported(browser)[0] == "c0,c,keep,second look"
    csv = tmp_path / "all.csv"
    csv.write_text("image_id,cohort,verdict,note\n" + "\n".join(everything) + "\n")
    assert [row["verdict"] for row in read_review(csv)] == ["discard", "", "keep", "discard"]
    assert verdicts_of(read_review(csv)) == {"c": {"c0": "discard", "c2": "keep"}, "older": {"gone": "discard"}}


def test_what_another_tab_decided_meanwhile_stays(healthy, tmp_path, browser):
    page = tmp_path / "review.html"
    write_page(healthy[:1], page, canvases=canvases_of(healthy)[:1])
    browser.open(page)
    browser.evaluate("""localStorage.setItem("cgddi-review", '{"theirs": {"verdict": "keep", "note": ""}}')""")
    browser.press("d")
    kept = json.loads(browser.evaluate("localStorage.getItem('cgddi-review')"))
    assert (
        len(kept) == 2
        and kept.pop("theirs")["verdict"] == "keep"
        and [v["verdict"] for v in kept.values()] == ["discard"]
    )


def test_another_reviewers_csv_fills_what_is_open(healthy, tmp_path, browser):
    page = tmp_path / "review.html"
    write_page(healthy, page, canvases=canvases_of(healthy))
    browser.open(page)
    browser.press("d")
    browser.press("k")
    text = (
        'image_id,cohort,verdict,note\r\nc0,c,keep,theirs\r\nc1,c,,a note\r\nc3,c,discard,"a, ""b""\nc"\r\n'
        "z,far,keep,\r\nz2,far,keep,\r\n"
    )
    for _ in range(2):  # once more adds nothing
        browser.evaluate(f"merge({json.dumps(text)})")
    browser.evaluate("merge('image_id,cohort,verdict,note\\nz2,far,discard,no')")
    assert "\n".join(exported(browser)) == (
        'c0,c,discard,keep elsewhere: theirs\nc1,c,keep,a note\nc3,c,discard,"a, ""b""\nc"\nz,far,keep,\n'
        "z2,far,keep,discard elsewhere: no"
    )
    browser.evaluate(f"undo(); merge({json.dumps(text)})")
    assert browser.evaluate(COUNT).endswith("; 3 added to, 1 judged otherwise there: see their notes")


def test_the_last_action_is_undone_as_one(healthy, tmp_path, browser):
    page = tmp_path / "review.html"
    write_page(healthy, page, canvases=canvases_of(healthy))
    browser.open(page)
    browser.press("d")
    browser.evaluate("document.getElementById('accept').click()")
    assert len(exported(browser)) == 5
    browser.press("u")
    assert exported(browser) == ["c0,c,discard,"]
    browser.press("u")
    assert exported(browser) == [] and browser.evaluate("document.getElementById('undo').disabled")
    assert browser.evaluate("document.querySelector('.card.current').dataset.id") == "c/c0"


def test_doubtful_images_come_first_and_pictures_open_full_size(healthy, tmp_path, browser):
    page = tmp_path / "review.html"
    write_page(healthy, page, canvases=canvases_of(healthy))
    shares = {f"{card['cohort']}/{key}": card["share"] for key, card in cards_of(page).items()}
    browser.open(page)
    browser.evaluate(
        "const o = document.getElementById('order'); o.value = 'doubt'; o.dispatchEvent(new Event('change'))"
    )
    assert browser.evaluate(SHOWN).split() == sorted(shares, key=lambda card: abs(np.log(shares[card])))
    browser.press("z")
    assert browser.evaluate("document.querySelector('dialog').open")
    browser.wait("document.querySelector('dialog img').naturalWidth === 64")
    assert browser.evaluate("document.querySelector('dialog img').clientWidth") > 300
    assert "result" in browser.evaluate("document.querySelector('dialog img').alt")
    browser.press("ArrowLeft")
    assert "region" in browser.evaluate("document.querySelector('dialog img').alt")
    browser.press("k")
    first, second, *_ = browser.evaluate(SHOWN).split()
    said = browser.evaluate("document.querySelector('dialog img').alt")
    assert said == f"region of {second.split('/')[1]}", "the next image, the same kind of picture"
    assert exported(browser) == [",".join([*reversed(first.split("/")), "keep", ""])]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_sideways_scroll_every_picture_has_words_and_they_stand_out(healthy, tmp_path, browser, width, dark):
    page = tmp_path / "review.html"
    write_page(healthy, page, canvases=canvases_of(healthy))
    browser.resize(width, 800, dark)
    browser.open(page)
    for key in "kd":
        browser.press(key)
    assert browser.faint() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.images].every(i => i.closest('dialog') || i.alt)")


def test_masks_are_shown_and_filtered_by_flag_and_source(tmp_path, browser):
    rows = [{"mask_source": "fedd", "flags": ["several_parts"], "uncertainty": 0.12}, {"mask_source": "human"}]
    samples = [(f"m{number}", *photo(number, 64, lesion=0.03), row) for number, row in enumerate(rows)]
    bare = {"mask_source": None, "flags": ["mask_failed"], "why_no_mask": "it has no mask (mask_failed)"}
    photos = write_samples(tmp_path / "masks.tar", [*samples, ("bare", photo(3, 64)[0], None, bare)])
    spec = spec_of("healthy", {"method": "heal"}, cohort="c", batch="b", images=["m0", "m1", "bare"])
    assert run("healthy", "--photos", photos, "--output", tmp_path / "h.tar", spec=spec) == 0
    write_page([tmp_path / "h.tar"], tmp_path / "review.html", [photos])
    browser.open(tmp_path / "review.html")
    shown = "[...document.querySelectorAll('.card')].map(c => c.dataset.id).join(' ')"
    choose = "(() => {{ const s = document.getElementById('mask'); s.value = '{}'; s.dispatchEvent(new Event('change')); }})()"
    assert browser.evaluate("[...document.getElementById('mask').options].map(o => o.value).join('|')") == (
        "|several_parts|source fedd|source human"
    )
    browser.evaluate(choose.format("source human"))
    assert browser.evaluate(shown) == "c/m1"
    browser.evaluate(choose.format("several_parts"))
    assert browser.evaluate(shown) == "c/m0"
    assert browser.evaluate("document.querySelector('.mask').textContent") == (
        "Mask: fedd, uncertainty 12 %; several_parts"
    )
    assert browser.evaluate("[...document.querySelectorAll('.card img')].map(i => i.alt).join()").startswith(
        "original of m0,mask of m0,region of m0"
    )
    left = browser.evaluate("document.getElementById('left').textContent")
    assert left == "1 photo gave no imagec/bare: it has no mask (mask_failed)"


def test_every_mistake_in_a_review_is_reported_at_once(tmp_path):
    path = tmp_path / "review.csv"
    path.write_text(
        "image_id,cohort,verdict,note\nz,c,,only a note\na,c,maybe,\na,c,keep,\n,c,keep,\nb,c,keep,x,y\nc,c,discard,\n"
    )
    with pytest.raises(InvalidInput) as error:
        read_review(path)
    assert [problem.row for problem in error.value.problems] == [3, 4, 5, 6]
    path.write_text("image_id,verdict\na,keep\n")
    with pytest.raises(InvalidInput, match="They must be image_id, cohort, verdict, note"):
        read_review(path)
    with pytest.raises(InvalidInput, match="Export it again"):
        read_review(tmp_path / "gone.csv")
