"""Archives: deterministic, atomic, readable by any tar or WebDataset reader, and checked against their manifest."""

import hashlib
import io
import json
import os
import tarfile
import tempfile

import numpy as np
import pytest
from cgddi.core import archive as archive_module
from cgddi.core.archive import (
    Archive,
    ArchiveWriter,
    canonical,
    csv_text,
    is_whole,
    output_name,
    record_for,
    write_atomic,
    write_record,
)
from cgddi.core.errors import UserError
from cgddi.core.images import decode_png, encode_png
from cgddi.job.spec import Spec

SPEC = {"stage": "masks", "settings": {"size": 8}, "seed": 1, "versions": {"numpy": "2"}}


def write(path, n=3):
    rng = np.random.default_rng(0)
    with ArchiveWriter(path, SPEC) as out:
        for i in range(n):
            picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            mask = rng.integers(0, 5, (8, 8), dtype=np.uint8)
            out.add(f"{i:03d}", {"png": encode_png(picture), "mask.png": encode_png(mask)}, {"id": i, "tone": "dark"})
        out.skip("999", "no mask")


def test_same_content_same_bytes(tmp_path):
    write(tmp_path / "a.tar")
    write(tmp_path / "b.tar")
    for suffix in (".tar", ".jsonl", ".json"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_byte_ranges_are_the_tars_own_members(tmp_path):
    write(tmp_path / "a.tar")
    archive = Archive(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        for row in archive.rows:
            for suffix in ("png", "mask.png"):
                assert archive.read(row, suffix) == tar.extractfile(f"{row['key']}.{suffix}").read()
            assert json.load(tar.extractfile(f"{row['key']}.json"))["id"] == row["id"]
    assert decode_png(archive.read(archive.rows[0])).shape == (8, 8, 3)
    assert archive.record["skipped"] == [{"id": "999", "reason": "no mask"}]
    assert archive.record["spec"] == SPEC
    assert archive.record["installed"]["numpy"] == np.__version__


def test_a_failed_writer_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), ArchiveWriter(tmp_path / "a.tar", SPEC) as out:
        out.add("k", {"png": b"x"}, {})
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_removed_by_the_next(tmp_path):
    """kill -9 runs no handler; the job that is run again clears what lies beside its own targets, and nothing else."""
    ours = [tmp_path / f".a{suffix}.0123456789ab.tmp" for suffix in (".tar", ".json", ".jsonl")]
    others = [tmp_path / ".a.a.tar.0123456789ab.tmp", tmp_path / ".b.tar.0123456789ab.tmp", tmp_path / ".a.tar.tmp"]
    for path in (*ours, *others):
        path.write_bytes(b"half")
    with ArchiveWriter(tmp_path / "a.tar", SPEC):
        assert not ours[0].exists(), "room before it writes"
    assert not any(path.exists() for path in ours) and all(path.exists() for path in others)
    shared = tmp_path / ".s.0123456789ab.tmp"
    shared.write_bytes(b"another process writes this now")
    write_atomic(tmp_path / "s", b"x", alone=False)
    assert shared.exists()


@pytest.mark.parametrize("key", ["../x", "a.b", "", "a b", "x" * 201, "é"])
def test_unsafe_keys_are_refused(tmp_path, key):
    with pytest.raises(ValueError), ArchiveWriter(tmp_path / "a.tar", SPEC) as out:
        out.add(key, {"png": b"x"}, {})


def test_a_key_stands_once(tmp_path):
    with pytest.raises(ValueError, match="not unique"), ArchiveWriter(tmp_path / "a.tar", SPEC) as out:
        out.add("k", {"png": b"x"}, {})
        out.add("k", {"png": b"y"}, {})
    assert list(tmp_path.iterdir()) == []


def test_an_archive_whose_record_cannot_be_written_leaves_no_part_of_itself(tmp_path, monkeypatch):
    """Nor of the one before: a new tar beside an old record would be a mixture."""
    write(tmp_path / "a.tar")

    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(archive_module, "write_record", full)
    with pytest.raises(OSError, match="full"):
        write(tmp_path / "a.tar", 2)
    assert list(tmp_path.iterdir()) == []


def test_a_record_holds_what_was_planned_and_the_hashes_of_all_that_was_read(tmp_path):
    """Of a spec with the places of its photos: the contents that were planned; inputs that the plan names and the job adds."""
    spec = Spec(stage="x", rows=["photo.png"])
    spec.planned = {"stage": "x", "rows": ["sha256:1"]}
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    spec.inputs = {"one": str(tmp_path / "c"), "many": [str(tmp_path / "b"), str(tmp_path / "gone")]}
    record = record_for(spec, [tmp_path / "a"], images=3)
    assert record["spec"] == spec.planned and record["images"] == 3
    hashes = {str(tmp_path / name): hashlib.sha256(name.encode()).hexdigest() for name in "abc"}
    assert record["inputs"] == hashes and list(record["inputs"]) == sorted(hashes)
    write_record(tmp_path / "x.json", record, [tmp_path / "a"])
    assert json.loads((tmp_path / "x.json").read_text())["outputs"] == {
        "a": {"bytes": 1, "sha256": hashes[f"{tmp_path}/a"]}
    }
    assert output_name("f/x.json", "f/x.tar") == ".tar" and output_name("f/record.json", "f/y.csv") == "y.csv"


def test_the_notes_of_another_user_on_a_shared_node_are_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    (tmp_path / "f").write_text("f")
    digest = hashlib.sha256(b"f").hexdigest()
    assert is_whole(tmp_path / "f", digest) and not is_whole(tmp_path / "f", "0" * 64)
    os.utime(tmp_path / "f", ns=(1, 1))
    (tmp_path / "f").write_text("g")
    os.utime(tmp_path / "f", ns=(1, 1))
    assert not is_whole(tmp_path / "f", digest), "its time was another when it was whole"
    (tmp_path / "f").write_text("f")
    assert is_whole(tmp_path / "f", digest)
    status = (tmp_path / "f").stat()
    (tmp_path / "f").write_text("h")
    os.utime(tmp_path / "f", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not is_whole(tmp_path / "f", digest), "it was written again, and given its time of before"
    (tmp_path / "f").write_text("f")
    assert is_whole(tmp_path / "f", digest)
    user = os.getuid()
    (tmp_path / f"node/cgddi-{user + 1}").symlink_to(tmp_path / f"node/cgddi-{user}")
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    monkeypatch.setattr(archive_module, "file_sha256", lambda _: "read again")
    assert not is_whole(tmp_path / "f", digest), "a folder that is not this user's says nothing"


def test_a_changed_image_is_noticed(tmp_path):
    write(tmp_path / "a.tar")
    archive = Archive(tmp_path / "a.tar")
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[archive.rows[1]["members"]["png"][0] + 40] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(UserError, match="001 does not match its manifest"):
        archive.read(archive.rows[1])
    with pytest.raises(UserError, match="is not the archive that its record names"):
        archive.read(archive.rows[0])


def test_a_changed_mask_is_noticed(tmp_path):
    """The manifest holds hashes of images alone; all other members stand behind that of the tar."""
    write(tmp_path / "a.tar")
    archive, data = Archive(tmp_path / "a.tar"), bytearray((tmp_path / "a.tar").read_bytes())
    data[archive.rows[1]["members"]["mask.png"][0] + 40] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(UserError, match="is not the archive that its record names"):
        archive.read(archive.rows[0], "mask.png")


@pytest.mark.parametrize("how", ["cut", "changed", "longer"])
def test_a_manifest_that_its_record_does_not_know_is_refused(tmp_path, how):
    """I10: a manifest cut from 38 lines to 5 made 5 good results of 38."""
    write(tmp_path / "a.tar")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    changed = {"cut": lines[:1], "longer": [*lines, lines[0]]}
    (tmp_path / "a.jsonl").write_text("".join(changed.get(how, [lines[0].replace("dark", "pale"), *lines[1:]])))
    counts = {"cut": 1, "longer": 4}
    words = (
        f"lists {counts[how]} images, its record 3" if how in counts else "is not the manifest that its record names"
    )
    with pytest.raises(UserError, match=words):
        _ = Archive(tmp_path / "a.tar").rows


def test_a_tar_is_hashed_once_per_node_and_again_when_it_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    write(tmp_path / "a.tar")
    read, real = [], archive_module.file_sha256
    monkeypatch.setattr(archive_module, "file_sha256", lambda path: read.append(path) or real(path))
    for _ in range(3):
        archive = Archive(tmp_path / "a.tar")
        for row in archive.rows:
            archive.read(row, "mask.png")
    assert read == [tmp_path / "a.tar"]
    os.utime(tmp_path / "a.tar", ns=(1, 1))
    archive = Archive(tmp_path / "a.tar")
    archive.read(archive.rows[0])
    assert len(read) == 2


def test_a_truncated_archive_is_noticed(tmp_path):
    write(tmp_path / "a.tar")
    archive = Archive(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:600])
    with pytest.raises(UserError, match="ends at byte"):
        archive.read(archive.rows[1])


def test_a_missing_part_is_named(tmp_path):
    write(tmp_path / "a.tar")
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(UserError, match="a.jsonl: missing"):
        Archive(tmp_path / "a.tar")


def test_an_archive_opens_by_any_of_its_parts(tmp_path):
    write(tmp_path / "a.tar")
    assert {Archive(tmp_path / f"a{suffix}").path for suffix in (".tar", ".jsonl", ".json")} == {tmp_path / "a.tar"}


def test_webdataset_layout(tmp_path):
    """Members of one sample lie side by side and share the name up to the first dot."""
    write(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
    assert names[:3] == ["000.png", "000.mask.png", "000.json"]


def test_canonical_json_is_independent_of_order_and_refuses_nan():
    assert canonical({"b": 1, "a": "é"}) == canonical({"a": "é", "b": 1}) == '{"a":"\\u00e9","b":1}'
    with pytest.raises(ValueError):
        canonical({"x": float("nan")})


def test_rows_as_csv_end_their_lines_alike_on_every_system():
    assert csv_text(["a", "b"], [{"a": 1}, {"a": "x,y", "b": '"'}]) == 'a,b\n1,\n"x,y",""""\n'
    with pytest.raises(ValueError):
        csv_text(["a"], [{"c": 1}])


def test_atomic_write_replaces_whole(tmp_path):
    write_atomic(tmp_path / "x" / "f", "one")
    write_atomic(tmp_path / "x" / "f", io.BytesIO(b"two").read())
    assert (tmp_path / "x" / "f").read_bytes() == b"two" and len(list((tmp_path / "x").iterdir())) == 1


def test_a_write_is_on_the_disk_before_it_takes_the_name_and_leaves_nothing_where_it_fails(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *args: done.append("fsync") or sync(*args))
    monkeypatch.setattr(os, "replace", lambda *args: done.append("replace") or replace(*args))
    (tmp_path / ".a[1].0123456789ab.tmp").write_bytes(b"of a killed writer")
    write_atomic(tmp_path / "a[1]", "whole")
    assert done == ["fsync", "replace"] and [path.name for path in tmp_path.iterdir()] == ["a[1]"]

    def broken():
        yield b"half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomic(tmp_path / "a[1]", broken())
    assert (tmp_path / "a[1]").read_text() == "whole" and len(list(tmp_path.iterdir())) == 1
