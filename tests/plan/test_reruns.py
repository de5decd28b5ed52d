"""What makes finished jobs run again and what does not, each set of jobs computed by hand; more of them in
tests/watch/test_agreement.py. The world has 18 photos of 3 diseases, 6 of each, all masked and in one cohort."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cgddi.core.errors import UserError
from cgddi.core.source import ROOT
from cgddi.plan.config import load_config
from cgddi.plan.jobs import Plan

from tests.plan import walk
from tests.watch.world import (
    POOLED,
    finish,
    jobs,
    make,
    planned_by_snakemake,
    row,
    run_snakemake,
    set_config,
    sheet,
    write_sheet,
)
from tests.workflow.dryrun import counts
from tests.workflow.paper_scale import snakemake

ADAPTERS = {"lora": 3, "semantic": 3} | POOLED
CANVASES = {"review": 1, "calibration": 1, "canvases": 1, "audit_pictures": 1, "lesion_mapped": 3} | ADAPTERS


def older(path):
    """Give a file an old time, as unzip and rsync -a do."""
    os.utime(path, (1e9, 1e9))


# ---- order, names, places: no content


@pytest.mark.parametrize(
    "order", [lambda row: row["disease"], lambda row: row["malignant"], None], ids=["disease", "malignant", "reversed"]
)
def test_the_order_of_rows_is_no_content(world, order):
    """P2."""
    write_sheet(sorted(sheet(), key=order) if order else sheet()[::-1])
    assert planned_by_snakemake() == {}


def test_nothing_of_a_plan_depends_on_the_order_of_rows(world):
    """P2, for cohorts too: two of one size, and a published split."""
    rows = [*sheet(), *(row("wart", k, "there") for k in range(18))]
    set_config(splits={"main": {"method": "published", "seed": 3}}, generator_scope="split")
    write_sheet(rows)
    first = Plan(load_config("config.yaml"))
    write_sheet(rows[::-1])
    second = Plan(load_config("config.yaml"))
    assert first.canvas_cohorts == second.canvas_cohorts == ["here", "there"]
    assert first.roles == second.roles and list(first.roles["main"]) == list(second.roles["main"])
    assert first.digest == second.digest and walk.jobs(first) == walk.jobs(second)


def test_the_largest_cohort_is_first_unless_the_config_names_another(world):
    """Its canvases give every adapter's prior images, so that neither a smaller cohort nor the order of rows displaces it."""
    write_sheet([*(row("wart", k, "aa") | {"image_id": f"a{k}"} for k in range(6)), *sheet()])
    assert Plan(load_config("config.yaml")).canvas_cohorts == ["here", "aa"]
    set_config(first_cohort="aa")
    plan = Plan(load_config("config.yaml"))
    assert plan.canvas_cohorts == ["aa", "here"]
    assert plan.job("lora", scope="all", concept="nevus").inputs["canvases"] == ["results/canvases/aa.jsonl"]
    set_config(first_cohort="nosuch")
    with pytest.raises(UserError, match="first_cohort: no photo of this cohort"):
        Plan(load_config("config.yaml"))


def test_a_renamed_photo_folder_is_no_content(world):
    """P8."""
    os.rename("photos", "pictures")
    write_sheet([row | {"file": row["file"].replace("photos", "pictures")} for row in sheet()])
    assert planned_by_snakemake() == {}


def test_a_spreadsheet_that_takes_zeros_from_ids_changes_nothing(world):
    names = {row["image_id"]: f"{k:06d}" for k, row in enumerate(sheet())}
    write_sheet([row | {"image_id": names[row["image_id"]]} for row in sheet()])
    before = Plan(load_config("config.yaml")).photos
    write_sheet([row | {"image_id": str(int(row["image_id"]))} for row in sheet()])
    after = Plan(load_config("config.yaml")).photos
    assert [photo.image_id for photo in before] == [photo.image_id for photo in after] == sorted(names.values())
    shutil.copy(sheet()[0]["file"], "photos/another.png")
    write_sheet([*sheet(), sheet()[0] | {"image_id": "000001", "file": "photos/another.png", "mask": ""}])
    ids = {photo.image_id for photo in Plan(load_config("config.yaml")).photos}
    assert {"1", "000001"} <= ids, "two photos keep their names where they are not unique otherwise"


def hub_folder(folder: Path, commit: str, changed: bool = False) -> Path:
    """A folder as `hf download --local-dir` leaves it."""
    content, config = walk.weights(1), b'{"_class_name": "StableDiffusionPipeline"}'
    for name, data, etag in (
        ("unet/model.safetensors", content, hashlib.sha256(content).hexdigest()),
        ("model_index.json", config, hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest()),
    ):
        note = folder / ".cache/huggingface/download" / f"{name}.metadata"
        for path, text in ((folder / name, data), (note, f"{commit}\n{etag}\n1700000000.0\n".encode())):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
    if changed:
        (folder / "unet/model.safetensors").write_bytes(walk.weights(2))
        older(folder / "unet/model.safetensors")
    return folder


def model_of(**base):
    set_config(models={"base": base})
    return Plan(load_config("config.yaml")).job("embedding", scope="all", concept="nevus").spec["model"]


def test_a_downloaded_model_is_the_hubs_and_a_changed_one_is_not(world):
    """P7, P8."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    named = model_of(source="owner/model", revision=commit)
    assert (
        model_of(source=str(hub_folder(Path("download"), commit)))
        == named
        == {"source": f"commit:{commit}", "variant": None}
    )
    snapshot = Path("hub/models--owner--model/snapshots") / commit
    for name in ("unet/model.safetensors", "model_index.json"):
        note = (Path("download/.cache/huggingface/download") / f"{name}.metadata").read_text().split()[1]
        blob = Path("hub/models--owner--model/blobs") / note
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"download/{name}", blob)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob.resolve())
    assert model_of(source=str(snapshot)) == named
    swapped = model_of(source=str(hub_folder(Path("swapped"), commit, changed=True)))
    assert swapped["source"].startswith("folder:")
    assert model_of(source="owner/model", revision="v1") == {"source": "owner/model", "revision": "v1", "variant": None}


def test_a_model_is_what_its_folder_holds(world):
    """P7: weights swapped in place for others of the same size, with an older time. P8: named by another path."""
    Path("model").mkdir()
    for name, content in (("config.json", b"{}"), ("unet.safetensors", walk.weights(1))):
        Path("model", name).write_bytes(content)
    first = model_of(source="./model")
    assert model_of(source=str(Path("model").absolute())) == first
    os.rename("model", "weights")
    assert model_of(source="weights") == first
    Path("weights/unet.safetensors").write_bytes(walk.weights(2))
    older("weights/unet.safetensors")
    assert model_of(source="weights") != first


def large_weights(path, last):
    """A whole safetensors file of 68 MB, most of it a hole in the file."""
    size = 17 << 22
    header = json.dumps({"weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with open(path, "wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(8 + len(header) + size)
        out.seek(-1, os.SEEK_END)
        out.write(last)


@pytest.mark.parametrize("time", ["older", "the same"])
def test_large_weights_swapped_in_place(world, time):
    """P7: a model whose UNet is too large for Snakemake to look into, replaced by one of the same size, with an older time or, as
    `rsync -a` may leave it, that of before."""
    unet = Path("model/unet/diffusion_pytorch_model.safetensors")
    unet.parent.mkdir(parents=True)
    Path("model/model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    large_weights(unet, b"1")
    set_config(models={"base": {"source": "model"}})
    finish()
    assert planned_by_snakemake() == {}
    before = unet.stat()
    large_weights(unet.with_suffix(".new"), b"2")
    os.replace(unet.with_suffix(".new"), unet)
    os.utime(unet, ns=(before.st_atime_ns, 10**18 if time == "older" else before.st_mtime_ns))
    assert unet.stat().st_size == before.st_size > 64 << 20
    assert planned_by_snakemake() == {"embedding": 3} | ADAPTERS
    large_weights(unet, b"1")
    assert planned_by_snakemake() == {}


def test_a_file_named_in_the_settings_counts_by_content(world):
    Path("own.safetensors").write_bytes(walk.weights(1))
    set_config(audit={"features": {"weights": "own.safetensors"}})
    first = Plan(load_config("config.yaml"))
    spec = first.job("audit", split="main", kind="quality").spec
    assert spec["settings"]["features"]["weights"].startswith("sha256:")
    assert first.contents.places[spec["settings"]["features"]["weights"]] == "own.safetensors"
    os.rename("own.safetensors", "renamed.safetensors")
    set_config(audit={"features": {"weights": "renamed.safetensors"}})
    assert Plan(load_config("config.yaml")).job("audit", split="main", kind="quality").spec == spec


def test_results_that_moved_are_the_same_and_changes_are_still_seen(world):
    """P6."""
    Path("elsewhere").mkdir()
    os.rename("results", "elsewhere/run")
    set_config(results="elsewhere/run")
    assert planned_by_snakemake() == {}
    set_config(results="elsewhere/run", lora={"rank": 3})
    assert planned_by_snakemake() == ADAPTERS


# ---- content


def test_a_mask_replaced_by_one_with_an_older_time(world):
    """P7."""
    np.save("masks/nevus0.npy", 1 - np.load("masks/nevus0.npy"))
    older("masks/nevus0.npy")
    assert planned_by_snakemake() == {"masks": 1, "healthy": 1, "embedding": 1} | CANVASES


def test_a_photo_replaced_by_one_with_an_older_time(world):
    """P7."""
    shutil.copy("photos/acne1.png", "photos/nevus0.png")
    older("photos/nevus0.png")
    assert planned_by_snakemake() == {"masks": 1, "healthy": 1, "embedding": 1} | CANVASES


# ---- a run's records, with and without Snakemake's own memory


def test_a_change_is_seen_without_snakemakes_memory(world):
    """P4."""
    shutil.rmtree(".snakemake")
    assert planned_by_snakemake() == {}
    set_config(lora={"rank": 3})
    assert planned_by_snakemake() == ADAPTERS


def test_a_result_that_ended_unwatched_is_made_again_with_the_others(world):
    """P3: Snakemake was killed while one token was made; it ended, and no metadata tells of it."""
    shutil.rmtree(".snakemake")
    Path(".snakemake").mkdir()
    set_config(embedding={"learning_rate": 0.5})
    assert planned_by_snakemake() == {"embedding": 3} | ADAPTERS


def test_a_result_made_from_a_later_spec_is_made_again(world):
    """The hole: made with a new value by a run of which Snakemake knows nothing, then back to the old value."""
    set_config(embedding={"learning_rate": 0.5})
    for job in jobs():
        if job.rule in ("embedding", *ADAPTERS):
            make(job)
    shutil.rmtree(".snakemake")
    set_config()
    assert planned_by_snakemake() == {"embedding": 3} | ADAPTERS


def test_pages_have_records_that_close_the_hole(world):
    """The report and the review page too: made with another title, then back to the old one without Snakemake's memory."""
    assert {"report", "review"} <= {job.rule for job in jobs() if job.made_from.endswith(f"{job.rule}/record.json")}
    set_config(report={"title": "another"})
    for job in jobs():
        if job.rule == "report":
            make(job)
    shutil.rmtree(".snakemake")
    set_config()
    assert planned_by_snakemake() == {"report": 1}


def test_back_to_the_old_value_is_nothing(world):
    set_config(lora={"rank": 3})
    assert planned_by_snakemake() == ADAPTERS
    set_config()
    assert planned_by_snakemake() == {}


def test_default_triggers_give_the_same(world):
    """As a workflow has them that uses this one as a module: it cannot set the triggers of its parent."""
    every = ("--rerun-triggers", "mtime", "params", "input", "software-env", "code")
    folder = Path.cwd()
    found = counts(folder, "--configfile", "config.yaml", *every)
    assert found == {}
    set_config(lora={"rank": 3}, cache="other")
    assert counts(folder, "--configfile", "config.yaml", *every) == ADAPTERS


def test_a_reworded_rule_reruns_nothing(world, tmp_path):
    """P1, for what stands in the rules: an upgrade that formats a command anew, or asks for other resources."""
    clone = tmp_path / "clone"
    for part in ("Snakefile", "rules", "profiles"):
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(
            ROOT / part, clone.mkdir(exist_ok=True) or clone / part
        )
    (clone / "workflow").symlink_to(ROOT / "workflow")
    for path in (clone / "rules").glob("*.smk"):
        text = path.read_text().replace("--threads {threads}", "--threads  {threads}").replace("gb(24)", "gb(25)")
        path.write_text(text.replace("threads: 4", "threads: 3"))
    assert counts(Path.cwd(), "--snakefile", str(clone / "Snakefile"), "--configfile", "config.yaml") == {}


# ---- only what a target needs


def test_regimes_without_samples_need_no_generator(world):
    """P14."""
    shutil.rmtree("results")
    set_config(runs={"methods": ["baseline"], "regimes": ["real", "healthy_mapped"], "seeds": [0]})
    found = planned_by_snakemake()
    assert not {"embedding", "lora", "semantic"} & set(found) and found["lesion_mapped"] == 3
    set_config(runs={"methods": ["baseline"], "regimes": ["real"], "seeds": [0]})
    assert "lesion_mapped" not in planned_by_snakemake()


def test_a_scale_makes_the_transplants_again_that_use_it(world):
    """Donor and canvas must both have one; a donor is a canvas too, and the job is that of its batch."""
    scales = {"nevus1": "0.05", "melanoma2": "0.1"}
    write_sheet([row | {"mm_per_px": scales.get(row["image_id"], "")} for row in sheet()])
    assert planned_by_snakemake() == {"lesion_mapped": 2} | POOLED
    plan = Plan(load_config("config.yaml"))
    spec = plan.job("lesion_mapped", canvas_cohort="here", cohort="here", batch="nevus.000").spec
    assert spec["mm_per_px"] == {"nevus1": 0.05, "melanoma2": 0.1}
    other = plan.job("lesion_mapped", canvas_cohort="here", cohort="here", batch="acne.000").spec
    assert "mm_per_px" not in other and other["images"] == [f"acne{k}" for k in range(6)]


def test_a_cohort_that_cannot_be_tested_is_refused_where_it_is_tested(world):
    """P16: no malignant photo."""
    write_sheet([row | {"malignant": "False"} for row in sheet()])
    shutil.rmtree("results")
    found = counts(Path.cwd(), "--configfile", "config.yaml", "--until", "healthy")
    assert found == {"masks": 3, "healthy": 3}
    done = snakemake(Path.cwd(), "-n", "--configfile", "config.yaml", check=False)
    text = done.stdout + done.stderr
    assert done.returncode and "splits.main: the split has no malignant test photo" in text and "Traceback" not in text


def test_a_run_for_some_concepts_has_results_of_its_own(world):
    """P15: it says so, uses nothing of the whole run and spoils nothing."""
    before = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*") if path.is_file()}
    set_config(only_concepts=["melanoma"])
    text = run_snakemake("-n")
    assert "results of its own in results/only-melanoma" in text
    found = planned_by_snakemake()
    assert (found["masks"], found["healthy"], found["lesion_mapped"], found["lora"]) == (3, 1, 1, 1)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    set_config()
    assert planned_by_snakemake() == {}


# ---- code


def test_words_in_the_code_run_nothing_again_and_a_revision_its_stage(world, tmp_path):
    """P1: a key's description, an option's help, an error's text, a comment; then REVISION; then the report's template (P12)."""
    tree = tmp_path / "tree"
    skipped = shutil.ignore_patterns(".git", ".venv", "results", "data", ".snakemake", "tests", "docs", "benchmarks")
    shutil.copytree(ROOT, tree, ignore=skipped)
    run = ("-s", str(tree / "Snakefile"), "--configfile", "config.yaml")

    def edit(path, old, new):
        text = (tree / "workflow/cgddi" / path).read_text()
        assert old in text
        (tree / "workflow/cgddi" / path).write_text(text.replace(old, new, 1))

    edit("stages/lora/settings.py", 'description="', 'description="another word; ')
    edit("core/errors.py", "problem(s) in the input", "mistake(s) in the input")
    edit("job/command.py", 'help="', 'help="another word; ')
    edit("stages/lora/settings.py", "REVISION = 1", "REVISION = 1  # a comment")
    assert counts(world, *run) == {}
    edit("stages/lora/settings.py", "REVISION = 1", "REVISION = 2")
    assert counts(world, *run) == ADAPTERS
    edit("stages/lora/settings.py", "REVISION = 2", "REVISION = 1")
    for part in ("methods.html", "style.css", "script.js"):
        page = tree / "workflow/cgddi/stages/report/templates" / part
        page.write_text(page.read_text() + "\n")
        assert counts(world, *run) == {"report": 1}
