"""The report page: it shows what other stages wrote, and leaves out what nobody wrote."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from cgddi.cli import main
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.images import TONES, encode_png
from cgddi.core.pictures import PictureFolder
from cgddi.stages.index.table import build_index, read_roles
from cgddi.stages.report import page as page_module
from cgddi.stages.report import tables
from cgddi.stages.report.pictures import KINDS, sheets
from PIL import Image

from tests.stages.audit.test_pictures import audit, write_later, write_masks
from tests.stages.index.world import make_world


def run(folder, command, spec, *args):
    path = folder / f"{command.split()[0]}.spec.json"
    path.write_text(json.dumps({"stage": command.split()[0], "seed": 1, **spec}))
    assert main([*command.split(), "--spec", str(path), *map(str, args)]) == 0


def show(folder, csvs, pngs):
    """What lies beside a summary: tables and plots; one table without rows."""
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"cohort": "clinic"}))
    (folder / "table.md").write_text("| a | b |\n|---|---|\n| U-Net† | 0.70 (published 0.78‡) |\n", encoding="utf-8")
    for name in csvs:
        (folder / f"{name}.csv").write_text("\n" if name == "paired" else f"metric,value\n{name} of it,0.12345\n")
    for name in pngs:
        (folder / f"{name}.png").write_bytes(encode_png(np.zeros((8, 8), np.uint8)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What a page shows, made by the audits' own command where it is no picture or table; options of `cgddi report`."""
    folder = tmp_path_factory.mktemp("report")
    world = make_world(folder / "world", per_cell=7)
    synthetic = [*world.healthy, *world.mapped[:3], *world.semantic[:1]]
    index = build_index(read_roles([world.split]), world.photos, synthetic)[0]
    index.to_parquet(folder / "main.parquet")
    (folder / "main.json").write_text(json.dumps({"dropped": {"<b>held out</b>": 3}}))
    settings = {"settings": {"features": {"weights": "pixels"}}}
    (folder / "audit/main").mkdir(parents=True)
    for kind in ("leakage", "tone", "quality", "memorisation"):
        place = ("--index", folder / "main.parquet", "--photos", *world.photos)
        if kind == "leakage":
            settings["settings"]["near_duplicates"] = "report"
        run(folder, f"audit {kind}", settings, *place, "--output", folder / f"audit/main/{kind}.json")
    show(folder / "fairness", page_module.FAIRNESS_TABLES, page_module.FAIRNESS_PLOTS)
    manifest, human = write_masks(folder)
    canvases, mapped = write_later(folder)
    audit(folder, "masks", human=human, photos=[manifest], canvases=canvases, mapped=mapped)
    show(folder / "fedd/tables", page_module.STUDY_TABLES, page_module.STUDY_PLOTS)
    sheet = folder / "lora/main/nevus/samples.png"
    sheet.parent.mkdir(parents=True)
    sheet.write_bytes(encode_png(np.zeros((8, 8), np.uint8)))
    (folder / "review").mkdir()
    (folder / "review/index.html").write_text("review")
    logs = folder / "logs"
    logs.mkdir()
    return folder, {
        "logs": [logs],
        "summary": [folder / "fairness/summary.json"],
        "audits": sorted((folder / "audit/main").glob("*.json")),
        "index": [folder / "main.parquet"],
        "samples": [sheet],
        "review": [folder / "review/index.html"],
        "masks": [folder / "masks.jsonl"],
        "fedd": [folder / "fedd/tables/summary.json"],
    }


def page(folder, files, **without):
    args = [item for name, paths in files.items() if name not in without for item in (f"--{name}", *paths)]
    (folder / "out").mkdir(exist_ok=True)
    run(folder, "report", {"settings": {"title": "A <title>"}}, *args, "--output", folder / "out/index.html")
    return (folder / "out/index.html").read_text()


def sheets_of(text):
    """The sheets' data: split/concept -> kind -> tone -> pictures, and the names of their facts."""
    data = json.loads(re.search(r'<script id="sheets" type="application/json">(.*?)</script>', text, re.S)[1])
    return data["sheets"], data["facts"]


def test_the_page_shows_fairness_concepts_audits_and_counts(files):
    folder, options = files
    text = page(folder, options)
    assert "<title>A &lt;title&gt;</title>" in text and "<b>held out</b>" not in text, "names are no markup"
    fairness = text[text.index('<h2 id="fairness">') : text.index('<h2 id="concepts">')]
    assert fairness.count('src="pictures/') == 3
    assert "<td>by_tone of it</td>" in fairness and '<td style="--v:12">0.123</td>' in fairness and "U-Net†" in fairness
    assert "By rarity of the disease" in fairness and "Regimes compared" not in fairness, "nothing to pair"
    assert "answers nothing about what synthetic images change" in text, "said where nothing is compared"
    assert 'href="../review/index.html"' in text
    drawn, facts = sheets_of(text)
    sheet = drawn["main/nevus"]
    assert len(sheet["real"]["light"]) == len(sheet["healthy"]["light"]) == 4, "of five"
    photos = [
        {dict(zip(facts, each[-1], strict=False))["id"].rpartition("/")[2] for each in sheet[kind]["light"]}
        for kind in ("real", "healthy")
    ]
    assert len(photos[0] & photos[1]) == 4, "the canvases healed from the photos that are shown"
    assert list(sheet) == list(KINDS) and list(sheet["real"]) == list(TONES), "in the order of the page"
    assert sheet["semantic"] and list(drawn) == ["main/nevus"], "nothing made, no sheet"
    assert {caption for cell in sheet["lesion_mapped"].values() for *_, caption, _ in cell} and "nel0" in str(
        sheet["lesion_mapped"]
    )
    (sample, *_) = (each for cell in sheet["semantic"].values() for each in cell)
    known = dict(zip(facts, sample[-1], strict=False))
    assert known["id"].startswith("semantic/toy/nevus") and known["generator"] == "toy/nevus" and known["canvas"]
    assert "main / nevus</figcaption>" in text
    audits = text[text.index('<h2 id="audits">') : text.index('<h2 id="counts">')]
    for name in ("Leakage gate", "Tone asked for", "Quality against held-out real photos", "Memorisation: "):
        assert name in audits
    index = pd.read_parquet(folder / "main.parquet")
    counted = text[text.index('<h2 id="counts">') :]
    assert f"<td>{(index['role'] == 'test').sum()}</td>" in counted
    assert "<td>&lt;b&gt;held out&lt;/b&gt;</td><td>3</td>" in counted, "what was left out"


def test_every_table_lies_beside_the_page_as_csv_and_no_other(files):
    folder, options = files
    (folder / "out/tables").mkdir(parents=True, exist_ok=True)
    (folder / "out/tables/old.csv").write_text("of an earlier page")
    text = page(folder, options)
    named = re.findall(r'href="tables/([^"]+)"', text)
    assert len(named) == len(set(named)) == text.count('<table class="data') > 10
    assert set(named) == {file.name for file in (folder / "out/tables").iterdir()}
    assert (folder / "out/tables/by_tone.csv").read_text() == "metric,value\nby_tone of it,0.12345\n", "with all digits"
    checklist = pd.read_csv(folder / "out/tables/clear-derm.csv")
    assert len(checklist) == 25 and (checklist["this run"] == "not recorded").sum() >= 10
    assert "test" in checklist.set_index("item").loc["Sample sizes", "this run"]


def test_the_page_shows_the_study_and_the_masks(files):
    folder, options = files
    text = page(folder, options)
    part = text[text.index('<h2 id="fedd">') : text.index('<h2 id="audits">')]
    assert part.count('src="pictures/') == 7 + 3 * 4 * 3
    assert "The FEDD study on cohort clinic" in part and "<br>(published 0.78‡)" in part
    assert (
        "13 photos; 3 photo(s) the segmenter learnt from are left out; 1 without a used automatic mask (dark 1)" in part
    )
    assert "1 human mask(s) cannot be read" in part and "1 donor(s) gave no lesion" in part
    assert re.search(r"<td>dark</td>\s*<td>6</td>\s*<td>5</td>\s*<td>1</td>", part)
    assert "<th>light (n=4)</th>" in part and "1.00 [no interval]" in part
    assert re.search(r"<td>ruler</td>\s*<td>undefined</td>", part)


def test_what_nobody_wrote_has_no_section(files):
    folder, options = files
    text = page(folder, options, masks=None, fedd=None, review=None)
    assert 'id="fedd"' not in text and "#fedd" not in text and "Review page" not in text and 'id="healthy"' not in text
    only = page(folder, options, masks=None)
    assert "The FEDD study" in only and "Automatic masks" not in only


def test_pictures_lie_beside_the_page_and_none_that_it_does_not_name(files):
    folder, options = files
    old = folder / "out/pictures/0123456789abcdef.webp"
    old.parent.mkdir(parents=True, exist_ok=True)
    old.write_bytes(b"of an earlier page")
    text = page(folder, options)
    named = set(re.findall(r'(?:src|href)="pictures/([^"]+)"', text))
    named |= {
        f"{name}.webp"
        for kinds in sheets_of(text)[0].values()
        for cells in kinds.values()
        for cell in cells.values()
        for name, *_ in cell
    }
    quiz = (folder / "out/real-or-made.html").read_text()
    named |= set(re.findall(r'"source": "pictures/([^"]+)"', quiz))
    assert named == {file.name for file in old.parent.iterdir()} and "data:image" not in text
    with Image.open(old.parent / min(named)) as picture:
        assert picture.format == "WEBP"
    before = {file: file.stat().st_mtime_ns for file in old.parent.iterdir()}
    page(folder, options)
    assert before == {file: file.stat().st_mtime_ns for file in old.parent.iterdir()}, "nothing is written twice"


def test_failed_samples_are_shown_with_the_reason(tmp_path):
    samples = tmp_path / "samples.tar"
    with ArchiveWriter(samples, {"stage": "semantic"}) as archive:
        for number, faults in enumerate(({}, {"no lesion": "colour difference 2.1, real lesions have <6.0>"})):
            row = {"id": f"semantic/main/c/wart/{number}", "kind": "semantic", "concept": "wart", "tone": "dark"}
            row |= {
                "used": not faults,
                "faults": faults,
                "scores": {"presence": 2.1},
                "seed": 77 + number,
                "canvas": "k",
            }
            archive.add(str(number), {"png": encode_png(np.full((8, 8, 3), 50 * number, np.uint8))}, row)
    (passed, _) = Archive(samples).rows
    index = pd.DataFrame(
        [{**passed, "role": "train", "archive": str(samples), "start": passed["members"]["png"][0],
          "size": passed["members"]["png"][1], "image_id": None, "donor": None}]
    )  # fmt: skip
    folder = PictureFolder(tmp_path / "index.html")
    sheet = sheets(index, [samples], folder)["wart"]
    (good,), (bad,) = sheet["semantic"]["dark"], sheet["failed"]["dark"]
    assert good.caption == "0" and good.facts["seed"] == "77" and good.source != bad.source
    assert bad.caption == "colour difference 2.1, real lesions have <6.0>" and bad.facts["presence"] == 2.1
    only_failed = sheets(index.iloc[:0], [samples], folder)
    assert only_failed["wart"]["failed"]["dark"] == [bad], "also where none passed"


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def prediction(when, hours, measured):
    stages = [
        {"stage": stage, "jobs": 2, "unit": "steps", "rate": 1.0, "measured": n, "hours": h}
        for stage, h, n in zip(("lora", "semantic", "audit"), hours, measured, strict=True)
    ]
    return {"when": f"2026-01-0{when}T10:00:00+00:00", "device": "A100" if any(measured) else None, "stages": stages}


def test_the_prediction_that_is_judged_is_the_first_from_recorded_rates():
    guess, part, whole = (
        prediction(1, (1, 1, 1), (0, 0, 0)),
        prediction(2, (2, 2, 2), (1, 0, 0)),
        prediction(3, (3, 3, 3), (4, 4, 1)),
    )
    choose = tables.choose
    assert choose([guess, part, whole, prediction(4, (4, 4, 4), (9, 9, 9))]) is whole
    late = {**whole, "stages": [{**stage, "left": 0} for stage in whole["stages"]]}
    assert choose([late, guess, late]) is guess and choose([late]) is None
    assert choose([guess, part]) is part and choose([guess]) is guess and choose([]) is None


def test_plan_and_fact_counts_every_attempt_and_names_default_rates(tmp_path):
    write(tmp_path / "plan.jsonl", [prediction(2, (2.0, 1.0, 0.5), (3, 0, 0))])
    line = {"device": "A100", "seconds": 3600, "stage": "lora"}
    write(tmp_path / "lora/a.metrics.jsonl", [{"loss": 1.0, "step": 4}, {**line, "steps": 5}, {**line, "steps": 10}])
    write(tmp_path / "lora/b.metrics.jsonl", [{**line, "steps": 10}])
    line["stage"] = "audit"
    write(tmp_path / "audit/main/tone.metrics.jsonl", [{**line, "kind": "tone"}])
    write(tmp_path / "audit/main/quality.metrics.jsonl", [{**line, "kind": "quality", "seconds": 900}])
    sentence, table = tables.plan_and_fact(tmp_path)
    assert sentence == "Predicted on 2026-01-02 10:00 UTC, rates recorded on A100."
    rows = {name: cells for name, *cells in table.itertuples(index=False)}
    assert rows["lora"] == [2, 3, 2, 3, "3 finished job(s)", 1.5]
    assert rows["semantic"] == [2, 0, 1, 0, tables.DEFAULT_RATE, 0]
    assert rows["audit"][3] == 0.25, "only the audit that takes a GPU"
    assert rows["together"] == [6, 4, 3.5, 3.25, "", 0.93]
    used = tables.usage(tmp_path).set_index("stage")
    assert used.loc["lora", ["jobs", "steps"]].tolist() == [2, 20] and used.loc["lora", "steps / s"] == round(
        20 / 7200, 2
    )
    assert tables.plan_and_fact(tmp_path / "lora") is None and tables.usage(tmp_path / "none").empty


def test_rates_and_counts_of_a_gpu_stage(tmp_path):
    line = {"device": "A100", "stage": "lora", "peak_device_bytes": 7e9, "utilisation": 0.5, "steps": 90}
    write(tmp_path / "lora/a.metrics.jsonl", [{**line, "seconds": 10}])
    write(tmp_path / "lora/b.metrics.jsonl", [{**line, "seconds": 50, "peak_device_bytes": 9e9, "utilisation": 0.7}])
    row = tables.usage(tmp_path).iloc[0]
    assert (row["jobs"], row["minutes"], row["longest job, s"], row["steps / s"]) == (2, 1.0, 50, 3)
    assert (row["peak device memory, GB"], row["device at work, %"]) == (9, 60) and "images" not in row


def test_tones_stand_in_their_order():
    found = {"cuts": [41, 10], "measure": "x", "by_kind": {"real": {}}}
    for tone in sorted(TONES):
        found["by_kind"]["real"][tone] = {"images": 1, "agreement": 1.0, "measured": dict.fromkeys(TONES, 0)}
    _, table = tables.AUDITS["tone"](found)
    assert list(table["tone"]) == list(TONES)
