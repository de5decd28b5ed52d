"""A small world whose results are written by hand: 18 photos of 3 diseases, and a run that Snakemake takes for finished.

`finish` writes what the stages would: files, and records with the planned specs. It runs in seconds, so that a test can change one
thing and ask Snakemake, `status`, `cost` and `why` about it.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import yaml
from cgddi.core.archive import file_sha256, write_record
from cgddi.core.images import encode_png
from cgddi.watch.dag import Job, ask_snakemake

from tests.workflow.dryrun import counts, in_process

CONFIG = ("--configfile", "config.yaml")
CONCEPTS = {"melanoma": True, "nevus": False, "acne": False}
TONES = ("light", "medium", "dark")
POOLED = {"index": 1, "leakage": 1, "audit": 3, "classify": 1, "fairness": 1, "published": 1, "report": 1}
"""Jobs that stand on all images of a split."""
VALUES = {
    "results": "results",
    "images": "images.csv",
    "diseases": "diseases.csv",
    "generator_scope": "all",
    "splits": {"main": {"method": "stratified", "seed": 1, "test": 0.4}},
    "runs": {"methods": ["baseline"], "regimes": ["synthetic"], "seeds": [0]},
}


def row(name: str, k: int, cohort: str = "here", malignant: bool = False, mask: bool = True) -> dict[str, str]:
    """A row of the image sheet, and its photo and mask."""
    image = f"{name}{k}"
    for folder, suffix in (("photos", "png"), ("masks", "npy")):
        path = Path(folder, f"{image}.{suffix}")
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            content = np.random.default_rng([len(name), k]).integers(0, 2, (8, 8), np.uint8)
            if suffix == "npy":
                np.save(path, content * 3 + 1)  # lesion and skin
            else:
                path.write_bytes(encode_png(np.repeat(content[..., None] * 255, 3, 2)))
    return {
        "image_id": image,
        "file": f"photos/{image}.png",
        "cohort": cohort,
        "disease": name,
        "skin_tone": TONES[k % 3],
        "malignant": str(malignant),
        "mask": f"masks/{image}.npy" if mask else "",
    }


def write_sheet(rows: list[dict[str, str]]) -> None:
    """Write the image sheet of the working directory."""
    with open("images.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def sheet() -> list[dict[str, str]]:
    """The rows of the image sheet."""
    with open("images.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def set_config(**changes: object) -> None:
    """Write config.yaml: the small world's, with sections changed key by key."""
    values = dict(VALUES)
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    Path("config.yaml").write_text(yaml.safe_dump(values))


def write_world() -> None:
    """Write sheets, photos and config into the working directory."""
    write_sheet([row(name, k, malignant=malignant) for name, malignant in CONCEPTS.items() for k in range(6)])
    names = (*CONCEPTS, "wart")
    Path("diseases.csv").write_text("raw,concept,slug,token\n" + "".join(f"{n},{n},{n},<{n}>\n" for n in names))
    set_config()


def jobs() -> list[Job]:
    """The jobs of the working directory's configuration."""
    return ask_snakemake(CONFIG[1:])[1]


def make(job: Job) -> None:
    """Write a job's files as its stage would: the record last, with the hashes of what was read and of what stands beside it."""
    beside = [path for path in map(Path, job.outputs) if path.suffix != ".json"]
    for path in beside:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{job.name}: {path.name}\n")
    groups = [[files] if isinstance(files, str) else files for files in job.spec.get("inputs", {}).values()]
    read = [f"results/{file}" for files in groups for file in files]
    for record in (path for path in map(Path, job.outputs) if path.suffix == ".json"):
        write_record(record, {"spec": job.spec, "inputs": {file: file_sha256(file) for file in read}}, beside)
    for path in (job.log, job.benchmark):
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text("x\n")


def finish() -> None:
    """Leave the workflow as a finished run does."""
    for job in jobs():
        make(job)
    run_snakemake("--touch", "--forceall")


def run_snakemake(*arguments: str) -> str:
    """What Snakemake prints, run in this process with the small world's config."""
    return in_process(Path.cwd(), *CONFIG, "--cores", "1", *arguments)


def planned_by_snakemake() -> dict[str, int]:
    """Rule -> number of jobs that `snakemake -n` would run, `all` left out."""
    return counts(Path.cwd(), *CONFIG)


def later(path: str | os.PathLike, seconds: float = 60) -> None:
    """Give a file a newer time."""
    time = os.stat(path).st_mtime + seconds
    os.utime(path, (time, time))
