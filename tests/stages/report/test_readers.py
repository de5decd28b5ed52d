"""Real or made: the page in a browser, and what its answers come to."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.errors import InvalidInput
from cgddi.core.images import TONES, encode_png
from cgddi.core.pictures import PictureFolder
from cgddi.stages.report.readers import COLUMNS, discernment, read_answers, write_quiz
from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.stages.chromium import find


@pytest.fixture
def index(tmp_path):
    """Nine pictures of each kind and tone, the made ones larger; of dark skin no real ones."""
    path, rng = tmp_path / "pictures.tar", np.random.default_rng(0)
    with ArchiveWriter(path, {"stage": "test"}) as archive:
        for kind in ("real", "healthy", "lesion_mapped", "semantic"):
            for tone in TONES[:2] if kind == "real" else TONES:
                for n in range(9):
                    pixels = rng.integers(0, 256, (20 if kind == "real" else 30,) * 2 + (3,), np.uint8)
                    row = {"id": f"{kind}/c/{tone}{n}", "kind": kind, "tone": tone, "role": "train"}
                    archive.add(f"{kind}{tone}{n}", {"png": encode_png(pixels)}, row)
    rows = [{**r, "archive": str(path), "start": r["members"]["png"][0], "size": r["members"]["png"][1]}
            for r in Archive(path).rows]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_page_asks_for_as_many_real_as_made_pictures_of_one_size(index, tmp_path):
    folder, page = PictureFolder(tmp_path / "index.html"), tmp_path / "real-or-made.html"
    assert write_quiz(index, folder, page) == 2 * (12 + 9), "no more real photos than there are, no tone without"
    text = page.read_text()
    data = json.loads(re.search(r"const DATA = (.*);\n", text)[1])
    kinds = pd.DataFrame(data["pictures"]).groupby(["tone", "kind"]).size()
    assert kinds["light"].to_dict() == {"healthy": 4, "lesion_mapped": 4, "real": 9, "semantic": 4}
    assert "dark" not in kinds and "http" not in text
    sizes = {Image.open(tmp_path / each["source"]).size for each in data["pictures"]}
    assert sizes == {(512, 512)}
    answers = [each["kind"] != "real" for each in data["pictures"]]
    assert np.abs(np.diff(answers)).sum() > 5, "mixed"
    assert write_quiz(index.iloc[:0], folder, page) == 0


def test_in_a_browser_keys_answer_and_the_csv_is_what_the_report_reads(index, tmp_path):
    """Two answers, one taken back, then all: what the page would export is read."""
    if not (binary := find()):
        pytest.skip("no Chromium here, and it cannot be installed (needs root on Debian: apt-get install chromium)")
    write_quiz(index, PictureFolder(tmp_path / "index.html"), tmp_path / "page.html")
    driver = """<script>addEventListener("load", () => {
      const press = key => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      document.getElementById("reader").value = 'A "B", C';
      press("Enter"); press("1"); press("Backspace");
      const first = document.getElementById("place").textContent;
      for (const picture of DATA.pictures) press(picture.kind === "real" ? "1" : "4");
      press("3");
      const out = document.createElement("pre");
      out.id = "out"; out.textContent = first + "\\n" + table() + document.getElementById("end").hidden;
      document.body.append(out);
    });</script></body>"""
    page = tmp_path / "driven.html"
    page.write_text((tmp_path / "page.html").read_text().replace("</body>", driver))
    command = [binary, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    out = html.unescape(re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1])
    first, _, rest = out.partition("\n")
    text, _, hidden = rest.rpartition("\n")
    assert first == "1 of 42" and hidden == "false", "the end is shown"
    file = tmp_path / "answers.csv"
    file.write_text(text + "\n")
    rows = read_answers([file])
    assert len(rows) == 42 and {row["reader"] for row in rows} == {'A "B", C'}
    whole = next(row for row in discernment(rows) if row["kind"] == row["tone"] == "all")
    assert (whole["made"], whole["real"], whole["readers"], whole["auc"]) == (24, 18, 1, 1.0) and whole["low"] < 0.95


@pytest.mark.parametrize("dark", [False, True])
def test_every_word_stands_out(index, tmp_path, browser, dark):
    write_quiz(index, PictureFolder(tmp_path / "index.html"), tmp_path / "page.html")
    browser.resize(800, 900, dark)
    browser.open(tmp_path / "page.html")
    assert browser.faint() == []
    browser.press("Enter")
    assert browser.evaluate("document.getElementById('judging').checkVisibility()") and browser.faint() == []


def answered(reader, answers):
    """Rows of a csv: (kind, tone, answer) by picture."""
    return [
        {
            "reader": reader,
            "picture": f"p{n}",
            "id": f"x/{n}",
            "kind": kind,
            "tone": tone,
            "answer": str(value),
            "seconds": "1",
        }
        for n, (kind, tone, value) in enumerate(answers)
    ]


def test_discernment_is_the_area_under_each_readers_curve(tmp_path):
    rng = np.random.default_rng(1)
    facts = [(kind, tone) for kind in ("real", "real", "semantic", "healthy") for tone in TONES for _ in range(12)]
    readers = {}
    for reader, skill in (("a", 1.0), ("b", 0.3)):
        readers[reader] = [
            (kind, tone, int(np.clip(np.rint(2.5 + skill * (kind == "semantic") + rng.normal()), 1, 4)))
            for kind, tone in facts
        ]
    rows = [row for reader, answers in readers.items() for row in answered(reader, answers)]
    found = {(row["kind"], row["tone"]): row for row in discernment(rows)}
    for tone in ("all", "dark"):
        areas = []
        for answers in readers.values():
            mine = [
                (kind != "real", value)
                for kind, where, value in answers
                if kind in ("real", "semantic") and tone in ("all", where)
            ]
            areas.append(roc_auc_score(*zip(*mine, strict=True)))
        row = found["sample", tone]
        assert row["auc"] == pytest.approx(np.mean(areas), abs=6e-4) and row["readers"] == 2
        assert row["low"] < row["auc"] < row["high"]
    assert found["healed canvas", "all"]["low"] < 0.5 < found["healed canvas", "all"]["high"]
    assert ("transplant", "all") not in found
    changed = rows + answered("b", readers["a"])
    again = {(row["kind"], row["tone"]): row["auc"] for row in discernment(changed)}
    assert again["sample", "all"] > found["sample", "all"]["auc"], "a reader's last answer counts"
    one_sided = discernment([row for row in rows if row["kind"] != "real"])
    assert all(row["auc"] is None and row["readers"] == 0 for row in one_sided)


def test_files_that_are_no_answers_are_named_at_once(tmp_path):
    good, other, odd = (tmp_path / name for name in ("good.csv", "other.csv", "odd.csv"))
    for path, rows in ((good, answered("", [("real", "dark", 2)])), (odd, answered("x", [("real", "dark", 7)]))):
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(text.getvalue())
    other.write_text("a,b\n1,2\n")
    assert read_answers([good])[0]["reader"] == str(good)
    with pytest.raises(InvalidInput) as caught:
        read_answers([good, other, odd, tmp_path / "none.csv"])
    assert [problem.source for problem in caught.value.problems] == [str(other), str(odd), str(tmp_path / "none.csv")]
