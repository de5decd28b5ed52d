"""What a GPU made, kept by all that made it: found again only by the same, never where it is damaged, and pruned by last use."""

import os
import time

import pytest
from cgddi.job import store
from cgddi.job.store import MadeStore, prune

FILES = {"a.png": b"picture", "b.json": b"{}"}


def entries(cache):
    return sorted(path for path in (cache / "made").rglob("*") if path.is_file())


def test_an_item_is_found_by_what_made_it_and_by_nothing_else(tmp_path, monkeypatch):
    MadeStore(tmp_path, "lora", {"rank": 8}, "cuda:1").put(FILES, {"seed": 3}, item=["x", 1])
    found = MadeStore(tmp_path, "lora", {"rank": 8}, "cuda").get(["x", 1])
    assert found.files == FILES and found.facts == {"seed": 3}
    found.write(tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == FILES
    others = [
        (("lora", {"rank": 8}, "cuda"), ["x", 2]),
        (("lora", {"rank": 8}, "cuda"), None),
        (("lora", {"rank": 9}, "cuda"), ["x", 1]),
        (("embedding", {"rank": 8}, "cuda"), ["x", 1]),
        (("lora", {"rank": 8}, "cpu"), ["x", 1]),
    ]
    assert [MadeStore(tmp_path, *made).get(item) for made, item in others] == [None] * 5
    monkeypatch.setattr(store, "installed_versions", lambda _: {"torch": "another"})
    assert MadeStore(tmp_path, "lora", {"rank": 8}, "cuda").get(["x", 1]) is None, (
        "another library may round differently"
    )


def test_it_counts_what_was_made_and_what_was_there(tmp_path):
    kept = MadeStore(tmp_path, "lora", {})
    assert kept.get("x") is None
    kept.put(FILES, {}, "x")
    assert kept.get("x") and kept.get("x") and (kept.computed, kept.reused) == (1, 2)
    nowhere = MadeStore(None, "lora", {})
    assert nowhere.put(FILES, {}).files == FILES and nowhere.get() is None


@pytest.mark.parametrize("damage", ["cut", "changed", "no header", "another's"])
def test_a_damaged_entry_counts_as_none(tmp_path, damage):
    kept = MadeStore(tmp_path, "lora", {})
    kept.put(FILES, {}, "x")
    (path,) = entries(tmp_path)
    data = path.read_bytes()
    if damage == "another's":
        kept.put({"a.png": b"another"}, {}, "y")
        (other,) = set(entries(tmp_path)) - {path}
        data = other.read_bytes()
    path.write_bytes({"cut": data[:-1], "changed": data[:-1] + b"!", "no header": b"\n"}.get(damage, data))
    assert kept.get("x") is None and kept.reused == 0
    kept.put(FILES, {}, "x")
    assert kept.get("x").files == FILES


def test_a_cache_that_cannot_be_written_costs_time_and_is_told_once(tmp_path, capsys):
    (tmp_path / "made").write_text("a file in the way")
    kept = MadeStore(tmp_path, "lora", {})
    assert kept.put(FILES, {}, 1).files == kept.put(FILES, {}, 2).files == FILES
    assert capsys.readouterr().err.count("going on without it") == 1 and kept.get(1) is None


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    kept = MadeStore(tmp_path, "lora", {})
    for number in range(4):
        kept.put({"a": bytes(1000)}, {}, number)
    paths = {number: kept._path(number) for number in range(4)}
    for number, path in paths.items():
        os.utime(path, (number + 1, number + 1))
    kept.get(0)  # now the last used
    size = paths[0].stat().st_size
    assert prune(tmp_path, 1) == 0 and len(entries(tmp_path)) == 4, "a gigabyte holds them"
    assert prune(tmp_path, 2.5 * size / 1e9) == 2
    assert {number for number, path in paths.items() if path.exists()} == {0, 3}


def test_what_killed_writers_left_goes_after_a_day(tmp_path):
    kept = MadeStore(tmp_path, "lora", {})
    kept.put(FILES, {}, 0)
    old, new = (kept._path(0).with_name(f".{name}.0123456789ab.tmp") for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    os.utime(kept._path(0), (1, 1))
    assert prune(tmp_path, 1) == 0
    assert not old.exists() and new.exists() and kept._path(0).exists()
