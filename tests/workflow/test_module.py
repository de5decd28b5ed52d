"""The workflow used from elsewhere: as a module of another one, from the catalog, in a folder of an odd name."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.watch.conftest import finished, world  # noqa: F401 (fixtures)
from tests.watch.world import VALUES
from tests.workflow.dryrun import counts
from tests.workflow.paper_scale import ROOT, snakemake

PARENT = """
module cgddi:
    snakefile: {snakefile}
    config: {config!r}

use rule * from cgddi as cgddi_*

rule own:
    input: "results/splits/main/here.csv"
    output: "own.txt"
    shell: "echo ${{{{MPLCONFIGDIR:-none}}}} > {{output}}; cat {{input}} >> {{output}}"

default_target_rule = "own"
"""


def run(folder, *arguments, env=None, check=True):
    """Run the Snakefile of a folder."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    # As where this project is not installed: its package is found by the Snakefile alone.
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **(env or {})})
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def project(folder, world, snakefile):  # noqa: F811
    """An empty project that has photos and a sheet, and uses the workflow as a module."""
    folder.mkdir()
    for name in ("photos", "masks", "images.csv", "diseases.csv"):
        (folder / name).symlink_to(world / name)
    (folder / "Snakefile").write_text(PARENT.format(snakefile=snakefile, config=VALUES))
    return folder


def test_as_a_module_it_plans_the_same_and_runs_this_clones_code(world, tmp_path):  # noqa: F811
    """P17: from an empty folder, with the code of the clone named, whichever is installed; the parent's rules stay its own."""
    clone = tmp_path / "clone"
    skipped = shutil.ignore_patterns(".git", ".venv", "results", "data", ".snakemake", "tests", "docs", "benchmarks")
    shutil.copytree(ROOT, clone, ignore=skipped)
    splits = clone / "workflow/cgddi/plan/splits.py"
    splits.write_text(
        splits.read_text()
        .replace('["image_id", "role"]', '["image_id", "role_of_this_clone"]')
        .replace('"role": role', '"role_of_this_clone": role')
    )
    folder = project(tmp_path / "parent", world, repr(str(clone / "Snakefile")))
    run(folder, "own")
    text = (folder / "own.txt").read_text()
    assert text.startswith("none\nimage_id,role_of_this_clone\n"), (
        "the parent's shell is as it was, the job's code is the clone's"
    )
    assert {p.name for p in folder.iterdir()} == {
        *("Snakefile", "own.txt", "results", ".snakemake", "photos", "masks", "images.csv", "diseases.csv")
    }
    again = run(folder, "-n", "own")
    assert "Nothing to be done" in again, "with the default triggers"
    (folder / "results/splits").rename(folder / "gone")
    table = dict(re.findall(r"^cgddi_(\w+) +(\d+)$", run(folder, "-n", "cgddi_all"), re.M))
    plain = counts(folder, "--configfile", str(world / "config.yaml"))
    assert {rule: int(number) for rule, number in table.items() if rule != "all"} == plain and plain[
        "lesion_mapped"
    ] == 3


def test_the_catalogs_snakefile_is_this_workflow(world):  # noqa: F811
    """`workflow/Snakefile`, where the workflow catalog and snakedeploy look."""
    assert len((ROOT / "workflow/Snakefile").read_text().strip().splitlines()) == 1
    assert counts(world, "-s", str(ROOT / "workflow/Snakefile"), "--configfile", "config.yaml") == {}


def test_where_single_files_are_fetched_the_package_to_install_is_named(world, tmp_path):  # noqa: F811
    """As snakedeploy writes it: Snakemake fetches files of a repository one by one, here from a local one that git is told of."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    repository = tmp_path / "repository"
    shutil.copytree(
        ROOT,
        repository,
        ignore=lambda folder, names: [
            n for n in names if n not in ("Snakefile", "rules", "workflow") and Path(folder) == ROOT
        ],
    )
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "x"], ["tag", "v1"]):
        subprocess.run([*git, *words], cwd=repository, check=True)
    (tmp_path / "gitconfig").write_text(f'[url "file://{repository}"]\n\tinsteadOf = https://github.com/lab/cgddi\n')
    source = 'github("lab/cgddi", path="workflow/Snakefile", tag="v1")'
    folder = project(tmp_path / "parent", world, source)
    site = tmp_path / "site"  # a `cgddi` that is not there, before the one installed here
    (site / "cgddi").mkdir(parents=True)
    (site / "cgddi/__init__.py").write_text("raise ModuleNotFoundError('cgddi')")
    env = {
        "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(site),
    }
    text = run(folder, "-n", env=env, check=False)
    assert "pip install 'git+https://github.com/lab/cgddi@v1'" in text and "Traceback" not in text
    text = run(folder, "-n", "cgddi_all", env=env | {"PYTHONPATH": str(ROOT / "workflow")})
    assert "cgddi_lesion_mapped" in text, "with the package installed, it plans"


def test_a_folder_of_an_odd_name(world, tmp_path):  # noqa: F811
    """P20: quotes, a dollar and a space in the working folder's name, and in the clone's."""
    for name in ("it's $HOME & co", "x"):
        folder = tmp_path / name
        shutil.copytree(world, folder)
        shutil.rmtree(folder / "results/splits")
    clone = tmp_path / "clo'ne $x"
    os.symlink(ROOT, clone)
    folder = tmp_path / "it's $HOME & co"
    snakemake(
        folder,
        "--cores",
        "1",
        "--configfile",
        "config.yaml",
        "-s",
        str(clone / "Snakefile"),
        "results/splits/main/here.csv",
    )
    assert len((folder / "results/splits/main/here.csv").read_text().splitlines()) == 19


@pytest.mark.parametrize("count", [3000])
def test_a_job_that_reads_thousands_of_files_finds_them_in_its_spec(tmp_path, monkeypatch, count):
    """More than a command line holds."""
    from cgddi.job.command import stage_parser
    from cgddi.plan.content import Contents
    from cgddi.plan.specs import SpecFiles

    monkeypatch.chdir(tmp_path)
    names = [f"masks/{'x' * 200}/{'y' * 100}{k}.jsonl" for k in range(count)]
    files = SpecFiles("results", Contents(Path("results/.plan/digests.json")), main=True)
    path = files.path(
        "index", "main", {"stage": "index", "inputs": {"photos": names, "table": "index/a b.parquet"}}, None
    )
    parser = stage_parser("index", None)
    for option, number in (("--photos", "+"), ("--table", None), ("--other", "*")):
        parser.add_argument(option, nargs=number)
    options = parser.parse_args(["--spec", path])
    assert options.photos == [f"results/{name}" for name in names] and sum(map(len, names)) > 900_000
    assert options.table == "results/index/a b.parquet" and options.other is None
    assert parser.parse_args(["--spec", path, "--photos", "own"]).photos == ["own"]
