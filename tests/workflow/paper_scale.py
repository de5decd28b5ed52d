"""A configuration at the paper's scale: DDI's shape, with tiny invented photos and masks of the true formats."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import yaml
from cgddi.cli import main
from cgddi.ingest.diseases import read_diseases

ROOT = Path(__file__).resolve().parents[2]


def snakemake(
    folder: Path, *arguments: str, check: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run this project's workflow in a working directory, with some more in its environment."""
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), "-s", str(ROOT / "Snakefile"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, **(env or {})})
    if check and done.returncode:
        raise AssertionError(f"{' '.join(arguments)} failed:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
    return done


def cgddi(folder: Path, *arguments: str) -> str:
    """What one `cgddi` command prints, run in this process: a process of its own is seconds of imports."""
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        status = main(list(arguments))
    assert status == 0, f"cgddi {' '.join(arguments)} failed:\n{said.getvalue()}"
    return said.getvalue()


def paper_scale(folder: Path) -> Path:
    """Write a DDI-shaped data set, ingest it, and return a config: the shipped one, reading this sheet."""
    from tests.ingest.ddi_shaped import write_ddi_shaped

    write_ddi_shaped(folder / "ddi", photos=True)
    cgddi(
        folder,
        *("ingest", "ddi", "--metadata", "ddi/ddi_metadata.csv", "--images", "ddi/images", "--masks", "ddi/masks"),
        *("--output", "images.csv"),
    )
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text()) | {"images": "images.csv"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def multiply(folder: Path, config: Path, count: int) -> Path:
    """Write the sheets of `count` times the diseases and images of a paper-scale config; return their config.

    Each further set has its own image ids, raw names and concepts, and links to the files of the first.
    """
    values = yaml.safe_load(config.read_text())
    diseases, _ = read_diseases(values["diseases"])
    with open(folder / values["images"], newline="") as handle:
        rows = list(csv.DictReader(handle))
    with open(folder / f"images{count}.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        for k in range(count):
            writer.writerows(
                {**_linked(folder, row, k), "image_id": f"{row['image_id']}-{k}", "disease": f"{row['disease']} {k}"}
                for row in rows
            )
    with open(folder / f"diseases{count}.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["raw", "concept"])
        for k in range(count):
            writer.writerows([f"{raw} {k}", f"{concept.name} {k}"] for raw, concept in diseases.items())
    values |= {"images": f"images{count}.csv", "diseases": f"diseases{count}.csv"}
    path = folder / f"config{count}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _linked(folder: Path, row: dict[str, str], k: int | str) -> dict[str, str]:
    """A row with links of its own to its files: two rows of one file are refused."""
    names = {}
    for column in ("file", "mask"):
        if row[column]:
            path = Path(row[column])
            names[column] = str(path.with_name(f"{path.stem}-{k}{path.suffix}"))
            (folder / names[column]).unlink(missing_ok=True)
            os.link(folder / path, folder / names[column])
    return row | names


def outputs(folder: Path, config: Path) -> list[Path]:
    """Every file the workflow would make."""
    table = snakemake(folder, "--configfile", str(config), "--summary").stdout.splitlines()
    return [folder / line.split("\t")[0] for line in table[1:] if "\t" in line]


def finish(folder: Path, config: Path) -> None:
    """Leave the workflow as finished without running it: empty outputs, and Snakemake's own records of them."""
    for path in outputs(folder, config):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    snakemake(folder, "--configfile", str(config), "--touch", "--cores", "1", "-q")


def add_disease(folder: Path) -> None:
    """Append three masked photos of a disease to the sheet, as a cohort of their own."""
    with open(folder / "images.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    masked = [row for row in rows if row["mask"]][:3]
    for number, row in enumerate(masked):
        rows.append(
            _linked(folder, row, "new")
            | {"image_id": f"new{number}", "cohort": "ddi-2", "disease": "acne-cystic", "group": ""}
        )
    with open(folder / "images.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
