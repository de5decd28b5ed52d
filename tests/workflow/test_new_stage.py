"""A new stage touches the five places that docs/architecture.md names, and no other: here is one, added to a copy of the code."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.workflow.paper_scale import ROOT, paper_scale

SETTINGS = '''
from pydantic import Field
from cgddi.core.settings import Settings

REVISION = 1


class CountingSettings(Settings):
    """How photos are counted."""

    by: str = Field("mask_source", description="column of the manifest")
'''
COMMAND = '''
"""Count the photos of a cohort."""
import json
from collections import Counter

from cgddi.core.archive import Archive, record_for, write_atomic
from cgddi.job.command import stage_parser
from cgddi.job.spec import settings_of
from cgddi.stages.counting.settings import CountingSettings


def main(argv):
    parser = stage_parser("counting", __doc__)
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--output", required=True)
    args = parser.parse_args(argv)
    by = settings_of(CountingSettings, args.spec).by
    found = Counter(row[by] for path in args.photos for row in Archive(path).rows)
    write_atomic(args.output, json.dumps({"spec": args.spec.planned, "counts": found}))
'''
RULE = """
rule counting:
    input:
        unpack(inputs("counting")),
    output:
        **PATHS.outputs("counting"),
    params:
        cgddi=command,
    shell:
        "{params.cgddi} counting --spec {input.spec:q} --output {output.counts:q}"
"""
PATH = 'RESULTS = {\n    "counting": Result("counting/{cohort}", {"counts": ".json"}, "counts"),\n'
JOB = """
    def _counting(self, cohort: str) -> Job:
        return Job(self.spec("counting", cohort=cohort), {"photos": self.all_photos([cohort])})

    def _healthy("""


@pytest.mark.slow
def test_a_stage_is_added_in_five_places(tmp_path):
    clone = tmp_path / "clone"
    clone.mkdir()
    for part in ("Snakefile", "rules", "envs", "profiles", "workflow"):
        source = ROOT / part
        skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, clone / part, ignore=skip) if source.is_dir() else shutil.copy(source, clone / part)
    code = clone / "workflow/cgddi"

    def change(path, old, new):
        assert path.read_text().count(old) == 1, (path, old)
        path.write_text(path.read_text().replace(old, new))

    (code / "stages/counting").mkdir()  # 1: its folder
    (code / "stages/counting/__init__.py").write_text('"""Counting."""\n')
    (code / "stages/counting/settings.py").write_text(SETTINGS)
    (code / "stages/counting/command.py").write_text(COMMAND)
    (clone / "rules/counting.smk").write_text(RULE)  # 2: its rule
    change(
        code / "plan/config.py",
        "    healthy: Healthy",
        "    counting: CountingSettings = CountingSettings()\n    healthy: Healthy",
    )  # 3
    change(
        code / "plan/config.py",
        "from cgddi.stages.embedding",
        "from cgddi.stages.counting.settings import CountingSettings\nfrom cgddi.stages.embedding",
    )
    change(code / "plan/paths.py", "RESULTS = {\n", PATH)  # 4: where its results lie
    change(code / "plan/image_jobs.py", "\n    def _healthy(", JOB)  # 5: what its jobs are made from

    folder = tmp_path / "run"
    folder.mkdir()
    config = paper_scale(folder)
    header, *rows = (folder / "images.csv").read_text().splitlines()
    rows = [row for row in rows if ",melanoma," in row]
    (folder / "images.csv").write_text("\n".join([header, *rows]) + "\n")
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"counting": {"by": "has_mask"}}))
    target = "results/ddi/counting/ddi.json"
    command = [sys.executable, "-m", "snakemake", "-s", str(clone / "Snakefile"), "--configfile", "config.yaml"]

    def run(*more):
        done = subprocess.run([*command, *more], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert re.search(r"^masks +\d+$", run("-n", "--cores", "1", "--", target), re.M)
    run("--cores", "2", "--until", "masks", "--", target)
    run("--cores", "1", "--", target)
    found = json.loads((folder / target).read_text())
    assert sum(found["counts"].values()) == len(rows) > 5 and found["spec"]["settings"] == {"by": "has_mask"}
    assert "Nothing to be done" in run("-n", "--cores", "1", "--", target)
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"counting": {"by": "mask_source"}}))
    assert re.search(r"^counting +1\ntotal +1$", run("-n", "--cores", "1", "--", target), re.M), "and no other job"
    help_text = subprocess.run(
        [sys.executable, "-m", "cgddi.cli", "--help"], env={"PYTHONPATH": str(clone / "workflow")}, capture_output=True
    )
    assert b"counting       count the photos of a cohort" in help_text.stdout
