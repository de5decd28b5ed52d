"""What a site shares out, on a real SLURM: a limit of submitted jobs, and a project among several people."""

import re
import shutil
import signal
import subprocess

import pytest

from tests.cluster.accounts import accounts
from tests.cluster.running import told, until
from tests.cluster.slurm import NoCluster
from tests.cluster.test_faults import SNAKEFILE, plan, pooled, starts, under_way
from tests.users import interpreter, lab, of_user, open_folder

LAB = "cgddi-lab"


@pytest.mark.slow
def test_a_limit_of_submitted_jobs_is_waited_for(cluster, start, tmp_path):
    """C3. A real limit of a quality of service, kept by slurmdbd: what does not fit yet is queued later, and `status` says why."""
    plan(tmp_path, train1="seconds 5", train2="seconds 5")
    try:
        with accounts(cluster, "root", 1):
            run = start(tmp_path, *SNAKEFILE)

            def waiting():
                return next(
                    (why for n in ("train1", "train2", "cut1", "cut2") if "QOSMax" in (why := told(tmp_path, n)[1])), ""
                )

            seen = until(waiting, lambda: run.log, 120)
            assert run.finish() == 0, run.log
            run.end()
    except NoCluster as reason:
        pytest.skip(str(reason))
    assert (
        seen.startswith("SLURM takes no more jobs for now, and is asked again: ")
        and "QOSMaxSubmitJobPerUserLimit" in seen
    )
    assert pooled(tmp_path) and "Trying to restart" not in run.log, run.story
    assert [len(starts(tmp_path, name)) for name in ("train1", "train2", "cut1", "cut2")] == [1, 1, 1, 1]


@pytest.fixture
def shared():
    """A folder of two users' group, in which what they make is the group's."""
    with lab("cgddi-anna", "cgddi-ben", group=LAB), open_folder() as place:
        folder = place / "project"
        folder.mkdir()
        shutil.chown(folder, group=LAB)
        folder.chmod(0o2775)
        plan(folder, train1="seconds 3", train2="seconds 90")
        yield folder


@pytest.mark.slow
def test_two_people_share_a_run(cluster, start, shared):
    """One starts, the other goes on with what is there; a run under way, or its jobs, are only their owner's to end."""
    python, _ = interpreter()

    def whose(user):
        return of_user(user, LAB, shared.parent / user, 0o002)

    def run(user, *targets):
        return start(shared, *SNAKEFILE, *targets, python=python, **whose(user))

    def repair(user):
        words = [python, "-m", "cgddi.cli", "repair"]
        return subprocess.run(words, cwd=shared, capture_output=True, text=True, **whose(user))

    first = run("cgddi-anna", "out/train1.txt", "out/cut1.txt")
    assert first.finish() == 0, first.log
    second = run("cgddi-anna", "out/train2.txt")
    under_way(second, "train2")
    refused = repair("cgddi-ben")
    assert refused.returncode == 2 and "cgddi-anna locked" in refused.stderr, refused
    assert told(shared, "train2")[0] == "running"
    second.end(signal.SIGKILL)
    refused = repair("cgddi-ben")
    assert refused.returncode == 2, refused
    assert (number := re.search(r"of cgddi-anna's run go on here.* `scancel (\d+)`", refused.stderr)), refused.stderr
    subprocess.run(["scancel", number[1]], check=True, user="cgddi-anna", group=LAB, extra_groups=[])
    until(lambda: "removed the lock" in repair("cgddi-ben").stdout, "the lock stays", 60)
    (shared / "plan/train2").write_text("seconds 4")
    last = run("cgddi-ben")
    assert last.finish() == 0, last.log
    assert pooled(shared) and len(starts(shared, "train1")) == 1
    owners = {path.name: path.owner() for path in (shared / "out").iterdir()}
    assert owners["train1.txt"] == "cgddi-anna" and owners["train2.txt"] == owners["pool.txt"] == "cgddi-ben"
    again = run("cgddi-anna")
    assert again.finish() == 0 and "Nothing to be done" in again.log.rpartition("Building DAG")[2], again.log
