"""The shrunken toy world, from photos to the report: what a run leaves behind."""

import csv
import json
import re
import subprocess
import sys
import tarfile

import numpy as np
import pandas as pd
import pytest
import yaml
from cgddi.core.archive import Archive, file_sha256
from cgddi.core.images import decode_png

from tests.workflow.conftest import RUN
from tests.workflow.paper_scale import cgddi, snakemake

PAGES = ("index.html", "real-or-made.html")


@pytest.fixture(scope="module")
def results(finished):
    return finished / "results/toy"


def roles(results):
    found = {}
    for path in (results / "splits/main").glob("*.csv"):
        with open(path, newline="") as handle:
            found.update((row["image_id"], row["role"]) for row in csv.DictReader(handle))
    return found


def archives(results, stage):
    return [Archive(path) for path in sorted((results / stage).rglob("*.tar"))]


def test_every_stage_made_images_with_records(results):
    for stage in ("masks", "healthy", "canvases", "lesion_mapped", "semantic"):
        found = archives(results, stage)
        assert found and sum(len(a.rows) for a in found), stage
        for archive in found:
            assert archive.record["spec"]["stage"] == stage
            assert archive.record["images"] == len(archive.rows)
            assert {"settings", "seed", "revision"} <= set(archive.record["spec"])
            for row in archive.rows[:2]:
                assert decode_png(archive.read(row)).shape == (64, 64, 3)


def test_healthy_changes_nothing_outside_its_region(results):
    for archive in archives(results, "healthy"):
        for row in archive.rows:
            before, after, region = (
                decode_png(archive.read(row, part)) for part in ("before.png", "png", "region.png")
            )
            assert (before[region == 0] == after[region == 0]).all()


def test_composites_come_from_their_donor_and_canvas(results):
    canvases = {r["image_id"]: r for a in archives(results, "canvases") for r in a.rows}
    (pool,) = archives(results, "canvases")
    for archive in archives(results, "lesion_mapped"):
        for row in archive.rows:
            assert row["donor"] in archive.record["spec"]["images"] and row["canvas"] in canvases
            assert row["key"] == f"{row['donor']}/{row['canvas']}"
            assert row["tone"] == canvases[row["canvas"]]["tone"]
        row = archive.rows[0]
        canvas = decode_png(pool.read(canvases[row["canvas"]])).astype(int)
        changed = np.abs(decode_png(archive.read(row)).astype(int) - canvas).max(axis=2) > 0
        lesion = decode_png(archive.read(row, "mask.png")) == 1
        assert changed.any() and not changed.all()
        assert lesion.any() and (changed & lesion).any()


def test_generators_and_training_rows_touch_no_held_out_image(results):
    role = roles(results)
    index = pd.read_parquet(results / "index/main.parquet")
    training = index[index["role"] == "train"]
    for column in ("donor", "canvas"):
        assert {role[i] for i in training[column].dropna()} == {"train"}
    for path in (results / "lora").rglob("record.json"):
        record = json.loads(path.read_text())
        used = record["training_images"] + record["prior_images"]
        assert used and {role[i] for i in used} == {"train"}
    assert json.loads((results / "audit/main/leakage.json").read_text())["clean"] is True
    assert {"real", "healthy", "lesion_mapped", "semantic"} == set(training["kind"])


def test_adapters_load_in_plain_diffusers_and_change_the_picture(finished, results):
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(finished / "config/toy/model")
    pipeline.set_progress_bar_config(disable=True)
    path = sorted((results / "lora/main").iterdir())[0]
    record = json.loads((path / "record.json").read_text())
    token = record["spec"]["concept"]["token"]
    prompt = f"An image of {token} on a dark-toned individual"

    def draw():
        return np.asarray(
            pipeline(prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
        ).astype(int)

    pipeline.load_textual_inversion(results / "embedding/main" / path.name / "learned_embeds.safetensors", token=token)
    before = draw()
    pipeline.load_lora_weights(path)
    assert np.abs(draw() - before).max() > 0


def test_classifiers_predict_every_test_photo_once(finished, results):
    with open(finished / "data/toy/images.csv", newline="") as handle:
        test = sorted(row["image_id"] for row in csv.DictReader(handle) if row["cohort"] == "toy-test")
    for regime in ("real", "synthetic", "synthetic_real"):
        frame = pd.read_csv(results / f"classify/main/{regime}/baseline/0/predictions.csv", dtype={"image_id": str})
        assert sorted(frame["image_id"]) == test
        assert frame["probability"].between(0, 1).all()


def test_fairness_compares_the_regimes_with_counts(results):
    frame = pd.read_csv(results / "fairness/metrics.csv")
    assert set(frame["regime"]) == {"real", "synthetic", "synthetic_real"}
    assert {"accuracy", "pqd", "dpm", "eom"} <= set(frame["metric"])
    table = (results / "fairness/table.md").read_text()
    assert "Counts" in table and "12 (6 benign, 6 malignant)" in table


def test_the_report_is_one_page_with_pictures_of_every_sampled_concept(results):
    page = (results / "report/index.html").read_text()
    slugs = {path.stem for path in (results / "semantic").rglob("*.tar")}
    assert slugs and all(f"<h3>{slug} " in page for slug in slugs)
    made = results / "report/pictures"
    named = {p: set(re.findall(r"pictures/(\w+\.webp)", (results / "report" / p).read_text())) for p in PAGES}
    sheets = json.loads(re.search(r'<script id="sheets" type="application/json">(.*?)</script>', page, re.S)[1])[
        "sheets"
    ]
    cells = [cell for kinds in sheets.values() for tones in kinds.values() for cell in tones.values()]
    named["sheets"] = {f"{name}.webp" for cell in cells for name, *_ in cell}
    assert len(named["sheets"]) > 20 and set.union(*named.values()) == {file.name for file in made.iterdir()}
    assert all(file.read_bytes()[8:12] == b"WEBP" for file in made.iterdir())
    others = set(re.findall(r'(?:src|href)="((?!data:|#|pictures/|tables/)[^"]*)"', page))
    assert {"real-or-made.html"} <= others <= {"real-or-made.html", "../review/index.html", "../published/index.html"}


def test_a_job_runs_by_itself_on_files_and_gives_the_same_bytes(finished, results, tmp_path):
    """Any stage can be repeated outside Snakemake from the record beside its result."""
    path = sorted((results / "lesion_mapped").rglob("*.tar"))[0]
    record = json.loads(path.with_suffix(".json").read_text())
    photos, canvases = (next(p for p in record["inputs"] if f"/{stage}/" in p) for stage in ("masks", "canvases"))
    spec = str(path.with_suffix(".json"))
    cgddi(
        finished,
        "lesion_mapped",
        "--spec",
        spec,
        "--photos",
        photos,
        "--canvases",
        canvases,
        "--output",
        str(tmp_path / "a.tar"),
    )
    assert file_sha256(tmp_path / "a.tar") == file_sha256(path)


def test_a_sampling_job_repeats_to_the_same_bytes(finished, results, tmp_path):
    path = sorted((results / "semantic").rglob("*.tar"))[0]
    concept = path.stem
    arguments = (
        *("semantic", "--spec", str(path.with_suffix(".json")), "--canvases", "results/toy/canvases/toy.jsonl"),
        *("--split", "results/toy/splits/main/toy.csv", "--threads", "1"),
        *("--embedding", f"results/toy/embedding/main/{concept}/learned_embeds.safetensors"),
        *("--lora", f"results/toy/lora/main/{concept}/pytorch_lora_weights.safetensors"),
        *("--output", str(tmp_path / "a.tar"), "--cache", str(tmp_path / "cache")),
    )
    cgddi(finished, *arguments)
    assert file_sha256(tmp_path / "a.tar") == file_sha256(path)


def test_nothing_is_written_outside_results_logs_and_cache(finished):
    made = {path.name for path in finished.iterdir()}
    assert made == {"config", "config.yaml", "data", "results", ".cache", ".snakemake"}
    assert not list(finished.rglob("*.tmp"))


def test_finished_jobs_leave_no_state_and_their_curves_in_the_logs(results):
    assert not [path for path in (results / ".state").rglob("*") if path.is_file()]
    for stage in ("embedding", "lora"):
        for folder in (results / stage / "main").iterdir():
            assert (folder / "metrics.jsonl").read_text().count('"loss"')
            assert list((results / f"logs/{stage}/main/{folder.name}.tensorboard").glob("events.out.*"))


def test_status_says_done(finished):
    text = cgddi(finished, "status", "--configfile", "config.yaml")
    assert "done" in text and "missing" not in text and "stale" not in text


def test_export_writes_a_data_set_and_a_private_card(copy):
    """Its readers: tests/stages/export."""
    import pyarrow.parquet as pq

    snakemake(copy, *RUN, "--cores", "1", "export")
    folder = copy / "results/toy/export"
    head = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    kinds = ["healthy", "lesion_mapped", "semantic"]
    assert [c["config_name"] for c in head["configs"]] == ["default", *kinds]
    assert "Private" in (folder / "README.md").read_text()
    index = pd.read_parquet(copy / "results/toy/index/main.parquet")
    for kind in kinds:
        rows = [row for path in (folder / "data" / kind).glob("*.parquet") for row in pq.read_table(path).to_pylist()]
        assert sorted(row["id"] for row in rows) == sorted(index["id"][index["kind"] == kind])
        assert {row["prompt"] is None for row in rows} == {kind != "semantic"}
        assert {row["mask"] is None for row in rows} == {kind == "semantic"}
        # This run checks no samples (`semantic.check`).
        assert {bool(row["scores"]) for row in rows} == {kind != "semantic"}
    shards = sorted((folder / "webdataset").rglob("*.tar"))
    with tarfile.open(shards[0]) as tar:
        assert tar.getnames()[:3] == [f"healthy-train-0000000.{ending}" for ending in ("json", "mask.png", "png")]
    adapters = list((folder / "adapters").rglob("pytorch_lora_weights.safetensors"))
    assert adapters and all("load_lora_weights" in (path.parent / "README.md").read_text() for path in adapters)


def test_a_deleted_archive_is_made_again(copy):
    path = sorted((copy / "results/toy/lesion_mapped").rglob("*.tar"))[0]
    before = file_sha256(path)
    path.unlink()
    snakemake(copy, *RUN, "--cores", "1", str(path.relative_to(copy)))
    assert file_sha256(path) == before


def test_a_users_mistake_shows_no_traceback(finished):
    command = ["--configfile", "config.yaml", "--config", "only_concepts=[nosuch]", "-n"]
    done = snakemake(finished, *command, check=False)
    text = done.stdout + done.stderr
    assert done.returncode and "no such concept" in text and "Traceback" not in text
    done = subprocess.run([sys.executable, "-m", "cgddi.cli", "report", "--spec", "{"], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_the_report_shows_the_baseline_on_the_same_photos(results):
    archive = Archive(results / "audit/healthy.tar")
    assert len(archive.rows) >= 3 and {row["tone"] for row in archive.rows} == {"light", "medium", "dark"}
    assert {row["verdict"] for row in archive.rows} <= {"triage: keep", "triage: discard"}
    for row in archive.rows:
        before, ours, baseline = (decode_png(archive.read(row, part)) for part in ("before.png", "png", "baseline.png"))
        assert (baseline != before).any() and (baseline != ours).any() == (row["method"] == "diffusion")
    comparison = {row["method"]: row["photos"] for row in archive.record["comparison"]}
    runs = sum(comparison.get(f"run: {method}", 0) for method in ("diffusion", "heal"))
    assert runs == comparison["baseline: heal"] == len(archive.rows)
    assert "baseline: heal" in (results / "report/index.html").read_text()


def test_every_gpu_job_left_its_rate_and_the_report_compares_plan_and_fact(finished, results):
    """Of each stage that takes a GPU as many jobs are recorded as were planned; the launch kept a prediction."""
    text = cgddi(finished, "cost", "--configfile", "config.yaml", "--json")
    lines = {line["stage"]: line for line in map(json.loads, text.splitlines())}
    assert {"healthy", "embedding", "lora", "semantic", "audit", "classify"} <= set(lines)
    assert all(line["measured"] == line["jobs"] and line["left"] == 0 for line in lines.values()), lines
    page = (results / "report/index.html").read_text()
    assert 'id="plan"' in page and page.count("default rate (no job had finished)") == len(lines)
    (launch, *_) = map(json.loads, (results / "logs/plan.jsonl").read_text().splitlines())
    assert [stage["jobs"] for stage in launch["stages"]] == [line["jobs"] for line in lines.values()]
