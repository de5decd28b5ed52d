"""Two people, one checkout: what one may not write is said before the start, with its owner."""

import json
import os
import pwd

import pytest
from cgddi.plan.sharing import unwritable


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


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_what_another_user_made_and_did_not_share(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for above in tmp_path.parents[:-2]:
        above.chmod(0o755)
    for folder in ("results/lora/main", "results/masks", "cache/made", ".snakemake/metadata"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in (".", "results", "results/masks", "cache", "cache/made", ".snakemake", ".snakemake/metadata"):
        (tmp_path / folder).chmod(0o777)

    def look():
        return list(map(str, unwritable("results", "cache")))

    me = pwd.getpwuid(0).pw_name
    found = as_nobody(look)
    assert len(found) == 1 and f"results/lora: belongs to {me}, and you may not write it. Have {me} run" in found[0]
    (tmp_path / "results/lora").chmod(0o777)
    assert as_nobody(look) == [] and unwritable("results", "cache") == []
    (tmp_path / "results").chmod(0o755)
    assert [text.split(":")[0] for text in as_nobody(look)] == ["results"]


def test_folders_to_be_made_are_looked_for_above(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    (problem,) = unwritable("new/results", "new/cache")
    assert problem.source == str(tmp_path)
