"""How often Snakemake looks for jobs to start: a run of hundreds of jobs must not keep a login node busy."""

from tests.workflow.conftest import RUN, small_world
from tests.workflow.paper_scale import snakemake


def test_snakemake_looks_for_jobs_when_one_ends_and_not_ever_more_often(tmp_path):
    """Snakemake's limit of job starts, on by default, leaves a timer behind with every job (see `unlimit_starts`)."""
    folder = small_world(tmp_path)
    done = snakemake(folder, *RUN, "--cores", "1", "--verbose", "--until", "masks", "split")
    said = done.stdout + done.stderr
    ended, looked = said.count("Finished jobid"), said.count("Ready jobs: ")
    assert ended > 8
    assert looked <= ended + 2
