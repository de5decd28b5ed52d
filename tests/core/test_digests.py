"""A model of gigabytes is read once by the plan, not by every job that names it."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from cgddi.core import archive
from cgddi.diffusion.weights import component_digests, stored_tensors, write_tensors


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_KNOWN", {})
    weights = tmp_path / "model/unet/diffusion_pytorch_model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"0123")
    return weights


def test_a_file_that_the_plan_has_read_is_not_read_again(model, tmp_path, monkeypatch):
    digest = hashlib.sha256(b"0123").hexdigest()
    (tmp_path / "digests.json").write_text(json.dumps({str(model): [*archive.file_stamp(model.stat()), digest]}))
    archive.know_digests(tmp_path / "digests.json")
    named = component_digests(tmp_path / "model")
    monkeypatch.setattr(archive, "_KNOWN", {})
    assert component_digests(tmp_path / "model") == named, "as if it were read"
    archive.know_digests(tmp_path / "digests.json")
    monkeypatch.setattr(archive, "file_sha256", lambda path: pytest.fail(f"{path} was read"))
    component_digests(tmp_path / "model")


def test_a_file_that_changed_is_read_and_then_remembered(model, tmp_path):
    (tmp_path / "digests.json").write_text(json.dumps({str(model): [4, 1, 1, "of another time"]}))
    archive.know_digests(tmp_path / "digests.json")
    assert archive.known_sha256(model) == hashlib.sha256(b"0123").hexdigest()
    model.write_bytes(b"01234")
    assert archive.known_sha256(model) == hashlib.sha256(b"01234").hexdigest()


@pytest.mark.parametrize("text", ["", "{", "[1]", None])
def test_a_memory_that_cannot_be_read_is_none(model, tmp_path, text):
    if text is not None:
        (tmp_path / "digests.json").write_text(text)
    archive.know_digests(tmp_path / "digests.json")
    assert archive.known_sha256(model) == hashlib.sha256(b"0123").hexdigest()


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_pieces_are_read_in_the_variant_in_use(tmp_path, variant):
    """Both variants beside each other, each in two pieces, named as diffusers names them now and as it did."""
    for value, names in {1: ("m-{}", "m-{}"), 2: ("m.fp16-{}", "m-{}.fp16")}.items():
        for piece, (name, form) in enumerate(zip("ab", names, strict=True), 1):
            file = tmp_path / f"{form.format(f'0000{piece}-of-00002')}.safetensors"
            write_tensors(file, {name: torch.full((2,), value)})
    found = stored_tensors(tmp_path, ["a", "b", "absent"], variant)
    assert {name: value.tolist() for name, value in found.items()} == dict.fromkeys("ab", [2, 2] if variant else [1, 1])
