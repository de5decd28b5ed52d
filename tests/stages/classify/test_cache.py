"""The decoded cache: the bytes that decoding gives, for several runs at a time, whatever is left of earlier ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from cgddi.core.errors import InvalidInput, UserError
from cgddi.stages.classify import cache, data
from cgddi.stages.classify.data import Pictures
from cgddi.stages.classify.rows import choose_rows
from cgddi.stages.classify.settings import REGIMES, ClassifySettings

from tests.stages.classify.test_runs import classify, place  # noqa: F401 (a fixture)
from tests.stages.index.world import make_world

PLAIN = ClassifySettings(image_size=32, min_concept_images=1)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("world"))
    return choose_rows(pd.read_parquet(world.write_index()), REGIMES["mixed"], PLAIN, 1).train


def with_cache(folder, rows, threads=1):
    return Pictures(rows, PLAIN.model_copy(update={"decoded_cache": str(folder)}), False, threads)


def everything(pictures):
    return pictures[np.arange(len(pictures.rows))]


def parts(folder):
    [pixels], [slots] = folder.glob("*.pixels"), folder.glob("*.slots")
    return pixels, slots


def test_it_holds_what_decoding_gives_and_nothing_is_decoded_twice(table, tmp_path, monkeypatch, capsys):
    expected = everything(Pictures(table, PLAIN, False, 1))
    first = with_cache(tmp_path / "c", table.iloc[:50])
    size = 3 * first.side**2
    assert f"{table['sha256'].iloc[:50].nunique()} pictures of {first.side} px, 0.0 GB" in capsys.readouterr().err
    assert torch.equal(everything(first), expected[:50])
    assert torch.equal(everything(with_cache(tmp_path / "c", table.iloc[30:], 2)), expected[30:])
    assert "to be decoded" in capsys.readouterr().err
    pixels, slots = parts(tmp_path / "c")
    count = table["sha256"].nunique()
    assert (pixels.stat().st_size, slots.stat().st_size) == (count * size, count * 36)
    monkeypatch.setattr(data, "decode", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr(cache.Decoders, "submit", lambda *_: pytest.fail("decoded again"))
    pictures = with_cache(tmp_path / "c", table)
    batches = list(pictures.batches([np.array([3, 1, 3]), np.arange(len(table))]))
    assert torch.equal(batches[0], expected[[3, 1, 3]]) and torch.equal(batches[1], expected)
    assert pictures.load() is pictures and not capsys.readouterr().err
    held_out = Pictures(table, PLAIN.model_copy(update={"decoded_cache": str(tmp_path / "d")}), True, 1)
    assert not (tmp_path / "d").exists() and held_out.side == 32


def damage(how, pixels, slots, size):
    if how == "pixels cut":
        pixels.write_bytes(pixels.read_bytes()[: 20 * size + 7])
    elif how == "records cut":
        slots.write_bytes(slots.read_bytes()[: 20 * 36 + 5])
    elif how == "more pixels than records":
        slots.write_bytes(slots.read_bytes()[: 20 * 36])
    elif how == "pixels gone":
        pixels.unlink()
    elif how == "records gone":
        slots.unlink()
    else:
        file, at = (pixels, 7 * size + 99) if how == "a byte changed" else (slots, 7 * 36 + 33)
        content = bytearray(file.read_bytes())
        content[at : at + (4096 if how == "a byte changed" else 1)] = bytes(4096 if how == "a byte changed" else 1)
        content[at] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize(
    "how",
    [
        "pixels cut",
        "records cut",
        "more pixels than records",
        "pixels gone",
        "records gone",
        "a byte changed",
        "a checksum changed",
    ],
)
def test_what_is_torn_is_never_believed(table, tmp_path, capsys, how):
    expected = everything(with_cache(tmp_path, table))
    size = 3 * expected.shape[-1] ** 2
    damage(how, *parts(tmp_path), size)
    for _ in range(2):
        pictures = with_cache(tmp_path, table)
        assert torch.equal(everything(pictures), expected) and torch.equal(everything(pictures), expected)
    changed = "changed" in how
    assert ("slot 7 is damaged" in capsys.readouterr().err) == changed
    assert parts(tmp_path)[0].stat().st_size == table["sha256"].nunique() * size


def test_a_job_killed_while_it_fills_leaves_whole_slots(table, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BATCH", 8)
    real, count = cache.os.fsync, iter(range(100))

    def fsync(handle):
        if next(count) == 5:
            raise KeyboardInterrupt
        real(handle)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache.os, "fsync", fsync)
        with_cache(tmp_path, table)
    pixels, slots = parts(tmp_path)
    assert slots.stat().st_size == 3 * 8 * 36, "the third batch's records were on their way"
    asked = []
    real_submit = cache.Decoders.submit
    monkeypatch.setattr(
        cache.Decoders,
        "submit",
        lambda self, path, view, work: asked.extend(work) or real_submit(self, path, view, work),
    )
    found = everything(with_cache(tmp_path, table))
    assert [slot for slot, _ in asked] == list(range(24, table["sha256"].nunique()))
    assert torch.equal(found, everything(Pictures(table, PLAIN, False, 1)))


def test_records_of_lost_pixels_do_not_name_those_that_come_in_their_place(table, tmp_path, monkeypatch, capsys):
    """Pixels lost, and the next job, which wants others, killed between pixels and records."""
    expected = everything(with_cache(tmp_path, table.iloc[:60]))
    pixels, _ = parts(tmp_path)
    with open(pixels, "r+b") as file:
        file.truncate(10 * expected[0].numel())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache.os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with_cache(tmp_path, table.iloc[60:])
    capsys.readouterr()
    assert torch.equal(everything(with_cache(tmp_path, table.iloc[:60])), expected)
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes_fill_one_cache(table, tmp_path):
    table.to_parquet(tmp_path / "rows.parquet")
    code = f"""if True:
        import sys, numpy as np, pandas as pd
        from cgddi.stages.classify import cache
        from cgddi.stages.classify.data import Pictures
        from cgddi.stages.classify.settings import ClassifySettings
        cache.BATCH = 16
        first, last, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
        rows = pd.read_parquet({str(tmp_path / "rows.parquet")!r}).iloc[first:last]
        settings = ClassifySettings(image_size=32, decoded_cache={str(tmp_path / "cache")!r})
        pictures = Pictures(rows, settings, False, 2)
        np.save({str(tmp_path)!r} + "/" + name, pictures[np.arange(len(rows))].numpy())
    """
    ranges = [(0, 100), (60, len(table)), (0, len(table))]
    runs = [
        subprocess.Popen([sys.executable, "-c", code, *map(str, bounds), f"out{n}.npy"])
        for n, bounds in enumerate(ranges)
    ]
    assert [run.wait() for run in runs] == [0, 0, 0]
    expected = everything(Pictures(table, PLAIN, False, 1)).numpy()
    for n, (first, last) in enumerate(ranges):
        assert np.array_equal(np.load(tmp_path / f"out{n}.npy"), expected[first:last])
    slots = parts(tmp_path / "cache")[1].read_bytes()
    digests = [slots[36 * n : 36 * n + 32] for n in range(len(slots) // 36)]
    assert len(digests) == len(set(digests)) == table["sha256"].nunique(), "none twice"


def test_a_disk_that_is_too_small_and_a_folder_that_cannot_be_used(table, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="classify.decoded_cache .*cannot be used .*Name a folder"):
        with_cache(tmp_path / "file", table)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=cache.LEFT_FREE + 1000))
    with pytest.raises(UserError, match=r"pictures of 40 px.*are to be decoded; 1\.1 GB are free.*Free some"):
        with_cache(tmp_path / "c", table)
    assert not list((tmp_path / "c").glob("*.pixels")), "refused before anything is written"


def test_a_changed_picture_is_named_and_not_kept(table, tmp_path):
    broken = table.copy()
    broken.loc[broken.index[4], "sha256"] = "0" * 64
    with pytest.raises(InvalidInput, match=f"1 problem.*\n.*{table.iloc[4]['id']} is not what the index says"):
        with_cache(tmp_path, broken)
    assert bytes(32) not in parts(tmp_path)[1].read_bytes()
    with_cache(tmp_path, table)


def test_a_run_gives_the_same_bytes_with_it(place, tmp_path):  # noqa: F811
    classify(place, tmp_path / "plain", "synthetic")
    for name in "ab":
        classify(place, tmp_path / name, "synthetic", decoded_cache=str(tmp_path / "cache"))
        for file in ("predictions.csv", "weights.safetensors"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
