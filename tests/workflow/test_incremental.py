"""Change one thing after a finished run, and compare the exact set of jobs that would run."""

import csv
import shutil

import yaml
from cgddi.core.archive import Archive

from tests.workflow.conftest import RUN, merge
from tests.workflow.dryrun import counts, messages
from tests.workflow.paper_scale import cgddi

POOLED = {"index": 1, "leakage": 1, "audit": 3, "classify": 3, "fairness": 1, "published": 1, "report": 1}
"""Jobs that pool everything, and so run whenever anything is added."""


def change(folder, changes):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(merge(yaml.safe_load(path.read_text()), changes)))


def sheet(folder):
    with open(folder / "data/toy/images.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def write_sheet(folder, rows):
    with open(folder / "data/toy/images.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_nothing_changed(copy):
    assert counts(copy, *RUN) == {}


def test_a_new_disease_pays_only_for_its_own_jobs(copy):
    """Six photos of a disease that is not in the toy set, appended as a cohort of their own."""
    cgddi(
        copy,
        *("ingest", "ddi", "--metadata", "data/toy/extra/ddi_metadata.csv", "--images", "data/toy/extra/images"),
        *(
            "--masks",
            "data/toy/extra/masks",
            "--diseases",
            "config/toy/diseases.csv",
            "--append",
            "--prefix",
            "new-",
            "--output",
            "data/toy/images.csv",
        ),
    )
    new = [row for row in sheet(copy) if row["cohort"] not in ("toy", "toy-test")]
    assert len({row["cohort"] for row in new}) == 1
    cohort = new[0]["cohort"]
    found, texts = counts(copy, *RUN), messages(copy, *RUN)
    own = ("masks of", "split main of", "healthy skin for", "canvases of")
    assert all(cohort in text for text in texts if text.startswith(own))
    mapped = {text.partition(", batch ")[::2] for text in texts if text.startswith("lesions of")}
    (batch,) = {rest.partition(",")[0] for _, rest in mapped}
    assert mapped == {
        (f"lesions of {cohort}", f"{batch}, onto the canvases of {canvases}") for canvases in ("toy", cohort)
    }
    generated = {text for text in texts if text.startswith(("token of", "adapter of", "samples of"))}
    assert len(generated) == 4 and len({text.split()[2] for text in generated}) == 1
    rest = {"masks", "healthy", "review", "canvases", "audit_pictures", "lesion_mapped", "embedding", "lora"}
    rest |= {"semantic", "split", "canvas_split"}
    assert {rule: n for rule, n in found.items() if rule not in rest} == POOLED


def test_what_snakemake_has_forgotten_is_found_right_by_its_records(copy):
    """Every result of every stage: records name all files, with the plan's spec and true hashes."""
    shutil.rmtree(copy / ".snakemake")
    said = cgddi(copy, "repair", "--configfile", "config.yaml")
    assert "results are right" in said and "cannot be judged" not in said and "descend" not in said, said
    assert counts(copy, *RUN) == {}


def test_a_fresh_copy_with_new_times_reruns_nothing(finished, tmp_path):
    """Copied without keeping the times, as a sync tool or a checkout does."""
    folder = tmp_path / "fresh"
    shutil.copytree(finished, folder, copy_function=shutil.copyfile)
    assert counts(folder, *RUN) == {}


def test_a_review_reruns_what_depends_on_it(copy):
    """As the page exports it (tests/stages/canvases/test_review.py) where a person discards one image."""
    image = Archive(copy / "results/toy/canvases/toy.tar").rows[0]["image_id"]
    (copy / "review.csv").write_text(f"image_id,cohort,verdict,note\n{image},toy,discard,\n")
    change(copy, {"review": "review.csv"})
    found = counts(copy, *RUN)
    batches = len(list((copy / "results/toy/lesion_mapped/toy/toy").glob("*.tar")))
    adapters = len(list((copy / "results/toy/lora/main").iterdir()))
    samples = len(list((copy / "results/toy/semantic/main/toy").glob("*.tar")))
    pictures = {"canvases": 1, "review": 1, "audit_pictures": 1}
    assert found == {**pictures, "lesion_mapped": batches, "lora": adapters, "semantic": samples} | POOLED
