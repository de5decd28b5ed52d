"""The report at DDI's size as a person sees it in a browser: from a file, offline, wide and narrow, light and dark, by keyboard."""

from __future__ import annotations

import json

import pytest
from cgddi.cli import main

from tests.stages.report.large import CONCEPTS, write_run


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    spec = folder / "report.json"
    changed = {"lora.rank": [16, 8]}
    spec.write_text(json.dumps({"stage": "report", "seed": 1, "settings": {}, "changed": changed}))
    files = write_run(folder / "run")
    # the audits' folder names their split
    (folder / "main").mkdir()
    (folder / "run/leakage.json").rename(folder / "main/leakage.json")
    files[files.index("--audits") + 1] = str(folder / "main/leakage.json")
    assert main(["report", "--spec", str(spec), *files, "--output", str(folder / "out/index.html")]) == 0
    return folder / "out/index.html"


def test_a_page_of_65_concepts_stays_below_three_megabytes(page):
    """L6: 150 to 500 MB before. Its pictures lie beside it, each drawn when its sheet is opened."""
    text = page.read_text()
    assert text.count('class="concept"') == CONCEPTS
    assert page.stat().st_size < 3e6, f"{page.stat().st_size / 1e6:.2f} MB"


def test_the_first_screen_has_the_answer_the_run_and_the_audits(page, browser):
    browser.resize(1280, 900)
    browser.open(page)
    seen = """[...document.querySelectorAll('.answer li, .differences tbody tr, dt, .audits li')]
        .filter(n => n.checkVisibility() && n.getBoundingClientRect().bottom <= innerHeight)
        .map(n => n.innerText.trim()).join('\\n')"""
    text = browser.evaluate(seen)
    assert "raised balanced accuracy by 5.0 points (+1.0 to +9.0)" in text
    assert "raised accuracy on dark skin by 5.0 points" in text and "raised EOM" in text
    for words in (
        "accuracy, dark",
        "photos, split main",
        "base model",
        "work",
        "config",
        "PASS Leakage, split main",
        "FAIL Samples",
    ):
        assert words in text, words


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_scrolls_sideways_and_text_stands_out(page, browser, width, dark):
    browser.resize(width, 800, dark)
    browser.open(page)
    browser.evaluate(
        "document.querySelectorAll('details').forEach((d, n) => { if (n < 12 || !d.matches('.concept')) d.open = true; })"
    )
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.faint() == []


def test_it_asks_for_nothing_elsewhere_and_every_picture_has_words(page, browser):
    browser.open(page)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.wait("document.images.length > 3000")
    asked = browser.evaluate(
        "performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('file:'))"
    )
    assert asked == []
    assert browser.evaluate("[...document.querySelectorAll('main img')].every(i => i.alt.trim())")
    assert browser.evaluate("[...document.querySelectorAll('main img')].every(i => i.loading === 'lazy')")
    assert browser.evaluate("[...document.querySelectorAll('svg')].every(i => i.getAttribute('aria-label'))")


def test_a_sheet_shows_each_kind_by_tone_and_pictures_open_large_by_keyboard(page, browser):
    browser.resize(1280, 900)
    browser.open(page)
    first = "document.querySelector('details.concept')"
    names = browser.evaluate(f"[...{first}.querySelectorAll('h4')].map(n => n.textContent)")
    assert names[0].startswith("real photos") and names[-1].endswith("failed the check") and len(names) == 5
    assert (
        browser.evaluate(f"[...{first}.querySelectorAll('h5')].slice(0, 3).map(n => n.textContent).join()")
        == "light,medium,dark"
    )
    assert browser.evaluate(f"{first}.querySelectorAll('img').length") == 5 * 3 * 4
    assert "no lesion: colour difference 2.1" in browser.evaluate(f"{first}.innerText")
    browser.evaluate(f"[...{first}.querySelectorAll('.failed a')][0].focus()")
    browser.call(
        "Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
    )
    shown = "document.querySelector('dialog').innerText"
    said = browser.evaluate(shown)
    for words in (
        "prompt",
        "An image of <long-name-of-disease-00>",
        "seed",
        "23058430092136939",
        "presence",
        "2.123",
        "canvas",
        "as the oddest real photo",  # each score is explained where it stands
        "less is darker",
        "1 is a copy",
    ):
        assert words in said, (words, said)
    browser.press("ArrowRight")
    assert browser.evaluate(shown) != said
    browser.press("ArrowLeft")
    assert browser.evaluate(shown) == said
    browser.evaluate("document.querySelector('dialog').close()")
    assert browser.evaluate("document.activeElement.matches('.failed a')"), "back where it was"


def test_a_table_sorts_by_value_and_its_csv_lies_beside(page, browser):
    browser.open(page)
    table = "document.querySelector('#fairness ~ .scroll table')"
    column = f"[...{table}.tBodies[0].rows].map(r => parseFloat(r.cells[2].innerText))"
    assert "higher is better" in browser.evaluate(f"{table}.tHead.rows[0].cells[2].title")
    before = browser.evaluate(column)
    browser.evaluate(f"{table}.tHead.rows[0].cells[2].querySelector('button').click()")
    assert browser.evaluate(column) == sorted(before, reverse=True) != before
    browser.evaluate(f"{table}.tHead.rows[0].cells[2].querySelector('button').click()")
    assert browser.evaluate(column) == sorted(before)
    assert browser.evaluate(f"{table}.tHead.rows[0].cells[2].ariaSort") == "ascending"
    link = browser.evaluate(f"{table}.closest('.scroll').nextElementSibling.querySelector('a').getAttribute('href')")
    assert (page.parent / link).is_file()
    bars = browser.evaluate(f"{table}.tBodies[0].rows[0].cells[2].style.getPropertyValue('--v')")
    assert abs(float(bars) - min(before)) < 1


def test_a_copy_without_its_folder_says_where_the_pictures_are(page, browser, tmp_path):
    alone = tmp_path / "index.html"
    alone.write_text(page.read_text())
    browser.open(alone)
    browser.evaluate("document.querySelector('details.concept').scrollIntoView()")
    browser.wait("document.getElementById('alone').checkVisibility()")


def test_a_large_picture_fits_a_phone(page, browser):
    browser.resize(360, 760)
    browser.open(page)
    browser.evaluate("document.querySelector('.concept figure a').click()")
    browser.wait("document.querySelector('dialog img').complete && document.querySelector('dialog').open")
    assert browser.evaluate("(d => d.scrollWidth <= d.clientWidth)(document.querySelector('dialog'))")
