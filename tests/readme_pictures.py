"""Draws the README's pictures: `python -m tests.readme_pictures results/toy`, after `make demo`.

docs/pictures/report.webp is what a person sees who opens the toy world's report (needs Chromium), plan.webp the rules that
Snakemake names and what they hand on, heal.webp lesions on procedural skin and what `healthy.method: heal` leaves of them.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from cgddi.core.heal import heal
from cgddi.core.images import SKIN
from cgddi.core.source import ROOT
from cgddi.stages.healthy.region import halo, painted_region
from matplotlib.figure import Figure
from PIL import Image

from tests.core.procedural import lesion, skin
from tests.stages import chromium

PICTURES = ROOT / "docs/pictures"
LIMIT = 300_000
"""Bytes of all together."""


def report(results: Path) -> Image.Image:
    """The first screen of a report."""
    with tempfile.TemporaryDirectory() as folder:
        page = chromium.Chromium(chromium.find(), Path(folder))
        try:
            page.resize(1200, 850)
            page.open((results / "report/index.html").resolve())
            page.screenshot(Path(folder) / "page.png")
        finally:
            page.close()
        seen = Image.open(Path(folder) / "page.png").convert("RGB")
    return seen.resize((900, 638), Image.Resampling.LANCZOS)


def rules(config: str) -> tuple[list[str], set[tuple[str, str]]]:
    """Rules of a plan and (from, to) between them, as `snakemake --rulegraph` tells; edges that others imply are left out."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--configfile", config, "--rulegraph"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r"^\s*(\d+)\[label = \"(\w+)\"", text, re.M))
    edges = {(names[a], names[b]) for a, b in re.findall(r"^\s*(\d+) -> (\d+)", text, re.M) if a != b}
    edges = {edge for edge in edges if "all" not in edge}
    after = {name: {b for a, b in edges if a == name} for name in names.values()}

    def reaches(a: str, b: str) -> bool:
        return b in after[a] or any(reaches(between, b) for between in after[a])

    kept = {(a, b) for a, b in edges if not any(reaches(between, b) for between in after[a] - {b})}
    return sorted({name for edge in kept for name in edge}), kept


def plan(names: list[str], edges: set[tuple[str, str]]) -> Image.Image:
    """Rules from left to right, each as far right as the longest way to it."""
    before = {name: [a for a, b in edges if b == name] for name in names}

    def column(name: str) -> int:
        return 1 + max(map(column, before[name]), default=-1)

    columns: dict[int, list[str]] = {}
    for name in names:
        columns.setdefault(column(name), []).append(name)
    place: dict[str, tuple[float, float]] = {}
    for number in sorted(columns):
        height = {n: np.mean([place[a][1] for a in before[n]] or [0.0]) for n in columns[number]}
        ordered = sorted(columns[number], key=lambda name: (height[name], name))
        for row, name in enumerate(ordered):
            place[name] = (number * 2.0, row - (len(ordered) - 1) / 2)
    figure = Figure(figsize=(10, 3.6), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for a, b in sorted(edges):
        arrow = {"arrowstyle": "-|>", "color": "#8a8f98", "shrinkA": 22, "shrinkB": 22, "lw": 1}
        axes.annotate("", place[b], place[a], arrowprops=arrow)
    for name, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.45", "fc": "#eaf1fb", "ec": "#33557f"}
        axes.text(x, y, name.replace("_", "\n", 1), ha="center", va="center", fontsize=8.5, bbox=box)
    xs, ys = zip(*place.values(), strict=True)
    axes.set_xlim(min(xs) - 1, max(xs) + 1)
    axes.set_ylim(min(ys) - 0.7, max(ys) + 0.7)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return Image.open(drawn).convert("RGB")


def healed(side: int = 240, gap: int = 6) -> Image.Image:
    """Procedural photos of three tones, with a lesion and healed."""
    page = Image.new("RGB", (3 * 2 * side + 5 * gap, side), "white")
    for number, tone in enumerate(("light", "medium", "dark")):
        photo, mask, _ = lesion(skin(20 + number, tone=tone), seed=number, radius=70, redness=6)
        region = painted_region(mask, more=halo(photo, mask))
        after = heal(photo, region, mask == SKIN).picture
        for k, picture in enumerate((photo, after)):
            small = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
            page.paste(small, ((2 * number + k) * (side + gap), 0))
    return page


def main(results: str) -> None:
    """Write the pictures and say how large they are."""
    drawn = {"report": report(Path(results)), "plan": plan(*rules("config/toy/config.yaml")), "heal": healed()}
    for name, picture in drawn.items():
        picture.save(PICTURES / f"{name}.webp", quality=80, method=6)
    sizes = {path.name: path.stat().st_size for path in sorted(PICTURES.glob("*.webp"))}
    print(sizes, sum(sizes.values()))
    assert sum(sizes.values()) < LIMIT


if __name__ == "__main__":
    main(*sys.argv[1:])
