"""The plan of the shipped DDI configuration on a DDI-shaped sheet."""

import pytest
import yaml

from tests.workflow.dryrun import counts
from tests.workflow.job_counts import noted
from tests.workflow.paper_scale import paper_scale, snakemake


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    return folder, paper_scale(folder)


def test_job_counts(world):
    folder, config = world
    found = counts(folder, "--configfile", str(config))
    assert found == noted()["ddi"]
    assert sum(found.values()) <= 800


def test_paper_preset_plans_all_concepts_too(world):
    folder, config = world
    from tests.workflow.paper_scale import ROOT

    paper = yaml.safe_load((ROOT / "config/paper/base.yaml").read_text()) | {"images": "images.csv"}
    (folder / "paper.yaml").write_text(yaml.safe_dump(paper))
    found = counts(folder, "--configfile", "paper.yaml")
    assert found == noted()["paper"] and (found["embedding"], found["lora"], found["semantic"]) == (65, 65, 40)


def test_one_image_per_job(world):
    folder, config = world
    found = counts(folder, "--configfile", str(config), "--config", "images_per_job=1")
    assert (found["masks"], found["healthy"], found["lesion_mapped"]) == (656, 334, 334)


@pytest.mark.slow
def test_study_and_automatic_masks_add_few_jobs(world):
    """The paper's subsets on the shipped sheet; as its masks are invented, malignancy is left as it falls."""
    folder, config = world
    (folder / "model").mkdir(exist_ok=True)
    changes = {"models": {"fedd": {"source": "./model"}}, "fedd": {"study": True, "subsets": {"balance": "tone"}}}
    (folder / "study.yaml").write_text(yaml.safe_dump(changes))
    found = counts(folder, "--configfile", str(config), "study.yaml")
    fedd = {rule: n for rule, n in found.items() if rule.startswith("fedd")}
    assert fedd == {
        "fedd_features": 21,
        "fedd_segmenter": 12,
        "fedd_probe": 84,
        "fedd_baseline": 20,
        "fedd_classifier": 20,
        "fedd_tables": 1,
    }
    assert sum(found.values()) <= 1000 and found["masks"] == 100
    (folder / "fill.yaml").write_text(yaml.safe_dump({"masks": {"source": "fedd", "prefer_human": True}}))
    found = counts(folder, "--configfile", str(config), "study.yaml", "fill.yaml")
    assert (found["fedd_masks"], found["lesion_mapped"], found["healthy"]) == (67, 67, 67)
    assert 21 < found["fedd_features"] <= 21 + 67 and "masks" not in found


def test_a_study_that_cannot_be_made_is_refused_without_traceback(world):
    folder, config = world
    done = snakemake(folder, "-n", "--configfile", str(config), "--", "fedd", check=False)
    text = done.stdout + done.stderr
    assert done.returncode and "cgddi fedd convert" in text and "photos of light skin" in text
    assert "Traceback" not in text


def test_one_disease_for_a_smoke_test(world):
    folder, config = world
    found = counts(folder, "--configfile", str(config), "--config", 'only_concepts=["melanoma"]')
    assert (found["embedding"], found["lora"], found["lesion_mapped"]) == (1, 1, 1)


def test_unknown_keys_and_bad_values_are_reported_together_without_traceback(world):
    folder, config = world
    values = yaml.safe_load(config.read_text())
    values["lora"]["rnak"] = 4
    values["seed"] = "x"
    (folder / "bad.yaml").write_text(yaml.safe_dump(values))
    done = snakemake(folder, "-n", "--configfile", "bad.yaml", check=False)
    text = done.stdout + done.stderr
    assert done.returncode and "lora.rnak" in text and "seed" in text and "2 problem(s)" in text
    assert "Traceback" not in text


def test_bad_sheet_rows_stop_the_plan(world):
    folder, config = world
    lines = (folder / "images.csv").read_text().splitlines()
    lines[3] = lines[3].replace(",ddi,", ",DDI;rm -rf,")
    (folder / "bad.csv").write_text("\n".join(lines) + "\n")
    done = snakemake(folder, "-n", "--configfile", str(config), "--config", "images=bad.csv", check=False)
    text = done.stdout + done.stderr
    assert done.returncode and "row 4" in text and "cohort" in text and "Traceback" not in text


def test_lint_finds_nothing(world):
    folder, config = world
    assert "Congratulations" in snakemake(folder, "--lint", "--configfile", str(config)).stderr
