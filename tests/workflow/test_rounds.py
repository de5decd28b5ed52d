"""How often Snakemake looks for jobs to start: a run of hundreds of jobs must not keep a login node busy."""


def test_snakemake_looks_for_jobs_when_one_ends_and_not_ever_more_often(finished):
    """Snakemake's limit of job starts, on by default, leaves a timer behind with every job (see `unlimit_starts`)."""
    said = (finished.parent / "said").read_text()
    ended, looked = said.count("Finished jobid"), said.count("Ready jobs: ")
    assert ended > 40
    assert looked <= ended + 2
