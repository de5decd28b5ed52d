"""Snakemake's own report: not empty, each table and plot with a caption, in categories."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from cgddi.plan.paths import RESULTS

from tests.watch.conftest import finished, world  # noqa: F401 (fixtures)
from tests.watch.world import run_snakemake
from tests.workflow.paper_scale import ROOT


def marked(text):
    """Rule -> outputs that `rules/common.smk` marks for the report."""
    table = text[text.index("SHOWN = {") : text.index("def shown(name)")]
    rules = re.findall(r'^    "(\w+)": \{(.*?)\}', table, re.M | re.S)
    return {rule: re.findall(r'"(\w+)": \(', outputs) for rule, outputs in rules}


@pytest.fixture(scope="module")
def shown():
    return marked((ROOT / "rules/common.smk").read_text())


def test_every_table_and_plot_is_marked_with_a_caption(shown):
    text = (ROOT / "rules/common.smk").read_text()
    captions = re.findall(r'\("(\w+)", "[A-Z]', text)
    assert {f"{name}.rst" for name in captions} == {path.name for path in (ROOT / "rules/captions").iterdir()}
    for rule in ("fairness", "ladder"):
        files = RESULTS[rule].files
        assert set(shown[rule]) >= {name for name, end in files.items() if end.endswith((".csv", ".png"))}
    assert shown["report"] == ["page"]


def test_the_report_holds_them_in_categories(world):  # noqa: F811
    run_snakemake("--report", "report.zip")
    with zipfile.ZipFile("report.zip") as archive:
        names = {Path(name).name for name in archive.namelist() if "/data/raw/" in name}
        assert {
            "index.html",
            "metrics.csv",
            "paired.csv",
            "by_tone.csv",
            "roc.png",
            "metrics.png",
            "calibration.png",
        } <= names
        (page,) = [name for name in archive.namelist() if name.endswith("/report.html")]
        text = archive.read(page).decode()
    for words in (
        "Fairness",
        "Report",
        "Published",
        "Regimes compared",
        "first minus second",
        "ROC curves by skin tone",
    ):
        assert words in text, words
