"""Two people, one checkout: what one may not write is said before the start, with its owner."""

import json
import os
import pwd
import re
import shutil
import subprocess

import pytest
from cgddi.plan.sharing import umask_warnings, unwritable

from tests.users import ROOT, interpreter, of_user, open_folder


def as_nobody(function):
    """What a function returns for another user than root, of no group of its own."""
    read, write = os.pipe()
    if not (child := os.fork()):
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.write(write, json.dumps(function()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)


@pytest.fixture
def open_path():
    """A folder that all users reach."""
    with open_folder() as folder:
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_what_another_user_made_and_did_not_share(open_path, monkeypatch):
    tmp_path = open_path
    monkeypatch.chdir(tmp_path)
    for folder in ("results/lora/main", "results/masks", "cache/made", ".snakemake/metadata"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in (".", "results", "results/masks", "cache", "cache/made", ".snakemake", ".snakemake/metadata"):
        (tmp_path / folder).chmod(0o777)

    def look():
        return list(map(str, unwritable("results", "cache")))

    me = pwd.getpwuid(0).pw_name
    found = as_nobody(look)
    assert (
        len(found) == 1
        and f"results/lora: belongs to {me}, and you may not read and write it. Have {me} run" in found[0]
    )
    (tmp_path / "results/lora").chmod(0o777)
    assert as_nobody(look) == [] and unwritable("results", "cache") == []
    (tmp_path / "results").chmod(0o755)
    assert [text.split(":")[0] for text in as_nobody(look)] == ["results"]


def test_folders_to_be_made_are_looked_for_above(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    (problem,) = unwritable("new/results", "new/cache")
    assert problem.source == str(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.slow
def test_another_user_is_refused_or_goes_on(finished, open_path):
    """A finished run of root's, seen by nobody: refused before the start while closed; once shared, its results are known to be
    right, also those that only their owner may date, and a changed setting makes its own jobs again."""
    project = open_path / "project"
    shutil.copytree(finished, project, symlinks=True)
    shutil.rmtree(project / ".snakemake")
    python, _ = interpreter()
    nobody = of_user(65534, 65534, open_path / "home", 0o002)
    (open_path / "bin").mkdir()
    (open_path / "bin/squeue").write_text("#!/bin/sh\necho Could not establish a configuration source >&2; exit 1\n")
    (open_path / "bin/squeue").chmod(0o755)  # a test cluster may come and go meanwhile
    nobody["env"]["PATH"] = f"{open_path / 'bin'}:{nobody['env']['PATH']}"

    def run(*words):
        done = subprocess.run([python, "-m", *words], cwd=project, capture_output=True, text=True, **nobody)
        return done.returncode, done.stdout + done.stderr

    def snakemake(*words):
        return run("snakemake", "-s", str(ROOT / "Snakefile"), "--configfile", "config.yaml", "--cores", "1", *words)

    def share(mode):
        subprocess.run(["chmod", "-R", mode, str(project)], check=True)

    share("a+rX,go-w")
    code, text = snakemake("--forcerun", "report")
    assert code and "belongs to root, and you may not read and write it. Have root run `chgrp -R GROUP" in text, text
    assert "Traceback" not in text
    (project / ".snakemake").mkdir(mode=0o777)
    (project / ".snakemake").chmod(0o777)
    code, text = snakemake("-n")
    assert code == 0, "whoever may only read may ask what would run"
    for code, text in (snakemake("--forcerun", "report"), run("cgddi.cli", "check", "--configfile", "config.yaml")):
        assert code and "results: belongs to root" in text and "Traceback" not in text, text
    share("go+rwX")
    code, text = run("cgddi.cli", "repair", "--configfile", "config.yaml")
    assert code == 0, text
    count = int(text.split(" results are right")[0].rpartition(" ")[2])
    table = [line.split("\t") for line in snakemake("--summary")[1].splitlines() if line.startswith("results/")]
    assert count == len({log for _, _, _, log, *_ in table}) > 20  # a job's results are one
    assert f"{count} of which Snakemake did not know" in text and "made again:" not in text
    assert "Nothing to be done" in snakemake("-n")[1]
    with open(project / "config.yaml", "a") as config:
        config.write("lora: {rank: 3}\n")
    assert re.search(r"^lora +3$", snakemake("-n")[1], re.M)


@pytest.mark.parametrize(
    ("mode", "umask", "told"), [(0o2775, 0o022, True), (0o2775, 0o002, False), (0o755, 0o022, False)]
)
def test_a_umask_that_closes_a_shared_folder_is_told(tmp_path, mode, umask, told):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(mode)
    before = os.umask(umask)
    try:
        found = umask_warnings(str(tmp_path / "shared/results"))
    finally:
        os.umask(before)
    assert [problem.remedy for problem in found] == ["Run `umask 002` before `snakemake`."] * told
