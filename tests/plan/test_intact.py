"""Whether a model's files are whole, by what a download leaves: each fault is named with its file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cgddi.plan import intact

TOY = Path(__file__).resolve().parents[2] / "config/toy/model"


def test_the_toy_model_is_whole():
    assert intact.faults(TOY) == []


@pytest.mark.parametrize(
    ("part", "spoil", "words"),
    [
        ("text_encoder/model.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-1]), "bytes instead of"),
        ("unet/diffusion_pytorch_model.safetensors", lambda p: p.write_bytes(b"\x01" * 5), "cut short in its header"),
        (
            "unet/diffusion_pytorch_model.safetensors",
            lambda p: p.write_bytes(p.read_bytes()[:99]),
            "short in its header",
        ),
        ("scheduler/scheduler_config.json", lambda p: p.write_text("<!DOCTYPE html><html>"), "is a web page"),
        ("vae/config.json", lambda p: p.write_text('{"a": '), "is no JSON"),
        ("tokenizer/merges.txt", lambda p: p.write_bytes(b""), "is empty"),
        ("unet/diffusion_pytorch_model.safetensors", Path.unlink, "its weights are missing"),
        ("vae", shutil.rmtree, "vae is missing"),
        ("scheduler/scheduler_config.json", Path.unlink, "scheduler is missing"),
        (
            "scheduler/scheduler_config.json",
            lambda p: p.rename(p.with_name("old.json")),
            "scheduler_config.json is missing",
        ),
        ("unet/diffusion_pytorch_model.safetensors", lambda p: p.write_text("version https://git-lfs"), "Git LFS"),
        (
            "unet/diffusion_pytorch_model.safetensors",
            lambda p: p.rename(p.with_name("diffusion_pytorch_model.fp16.safetensors")),
            "variant fp16 only",
        ),
    ],
)
def test_each_kind_of_fault_is_named_with_its_file(tmp_path, part, spoil, words):
    folder = Path(shutil.copytree(TOY, tmp_path / "model"))
    spoil(folder / part)
    (found,) = intact.faults(folder)
    assert words in found and part.split("/")[0] in found


def test_a_tokenizer_without_vocabulary_and_a_missing_piece(tmp_path):
    folder = Path(shutil.copytree(TOY, tmp_path / "model"))
    for name in ("vocab.json", "tokenizer.json"):
        (folder / "tokenizer" / name).unlink()
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    found = intact.faults(folder)
    assert "vae: diffusion_pytorch_model-00002-of-00002.safetensors is missing" in found
    assert any("vocabulary is missing" in text for text in found) and len(found) == 2


def test_what_no_job_reads_is_no_fault(tmp_path):
    """Parts that are optional or null in the index, a download's own notes, a page about the model."""
    folder = Path(shutil.copytree(TOY, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "Checker"],
        "other": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / ".cache/huggingface").mkdir(parents=True)
    (folder / ".cache/huggingface/unet.json").write_text("")
    (folder / "README.md").write_text("")
    assert intact.faults(folder) == []


@pytest.mark.parametrize("cut", [0, 1])
def test_tensors_may_stand_in_any_order(tmp_path, cut):
    header = {
        name: {"dtype": "U8", "shape": [n], "data_offsets": [at, at + n]} for name, at, n in (("b", 3, 4), ("a", 0, 3))
    }
    text = json.dumps({"__metadata__": {}, **header}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(7 - cut))
    assert (intact.file_fault(path) is None) == (cut == 0)


def test_pieces_of_an_index_variants_and_links_that_lead_nowhere(tmp_path):
    folder = Path(shutil.copytree(TOY, tmp_path / "model"))
    plain = folder / "vae/diffusion_pytorch_model.safetensors"
    shutil.copy(plain, plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert intact.faults(folder, "fp16") == [], "the others have the plain weights alone"
    assert intact.faults(folder, "bf16") == []
    pieces = {"weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": "gone.safetensors"}}
    (folder / "vae/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(pieces))
    (folder / "unet/more.txt").symlink_to("nowhere")
    assert intact.faults(folder) == ["unet/more.txt leads nowhere", "vae: gone.safetensors is missing"]
    (folder / "tokenizer/tokenizer.json").unlink(missing_ok=True)
    (folder / "tokenizer/merges.txt").unlink()
    assert "vocabulary is missing" in intact.faults(folder)[1]


def test_a_download_is_found_by_its_commit_its_revision_or_main(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--org--name"
    for name, commit in (("main", "aaa"), ("other", "bbb")):
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / name).write_text(f"{commit}\n")
        (place / "snapshots" / commit).mkdir(parents=True)
    (place / "snapshots/ccc").mkdir()
    found = {
        name: intact.snapshot(name, None)
        for name in ("org/name", "org/name@other", "org/name@ccc", "org/name@ddd", "org/no")
    }
    wanted = {"org/name": "aaa", "org/name@other": "bbb", "org/name@ccc": "ccc", "org/name@ddd": None, "org/no": None}
    assert {name: path and path.name for name, path in found.items()} == wanted
    assert intact.snapshot("org/name", "ccc").name == intact.snapshot("timm:x", "ccc").name == "ccc"
    assert intact.snapshot("timm:x", None) is None and intact.snapshot("org/name", "eee") is None
