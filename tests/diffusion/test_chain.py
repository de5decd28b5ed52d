"""The three stages through their commands: files appear, rows are right, images differ from canvas to canvas."""

from __future__ import annotations

import json

import pytest
import torch
from cgddi import cli
from cgddi.core.archive import Archive
from cgddi.core.images import decode_png

from tests.diffusion import tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    model = tiny.make_model(root / "model")
    images = tiny.make_photos(root / "masks.tar")
    canvases = tiny.make_canvases(root / "canvases.tar")
    (root / "split.csv").write_text(
        "image_id,role\n" + "".join(f"{c},{'test' if c == 'c000' else 'train'}\n" for c in canvases)
    )
    return root, model, images


def run(root, stage: str, spec: dict, **options: object) -> None:
    """Run a stage's command; `output_dir=x` stands for `--output-dir x`."""
    argv = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    file = root / f"{stage}.spec.json"
    file.write_text(json.dumps(spec))
    assert cli.main([stage, "--spec", str(file), *argv]) == 0


@pytest.fixture(scope="module")
def done(world):
    root, model, images = world
    common = {"cache": root / "cache", "threads": 1}
    photos = root / "masks.tar"
    canvases = {"canvases": root / "canvases.tar", "split": root / "split.csv"}
    token = root / "embedding/learned_embeds.safetensors"
    run(
        root,
        "embedding",
        tiny.spec_for("embedding", model, images, **tiny.TI),
        photos=photos,
        output_dir=token.parent,
        state=root / "s1",
        metrics=root / "m.jsonl",
        **common,
    )
    run(
        root,
        "lora",
        tiny.spec_for("lora", model, images, **tiny.LORA),
        photos=photos,
        embedding=token,
        output_dir=root / "lora",
        state=root / "s2",
        **canvases,
        **common,
    )
    run(
        root,
        "semantic",
        tiny.spec_for("semantic", model, images, **tiny.SEMANTIC),
        embedding=token,
        lora=root / "lora/pytorch_lora_weights.safetensors",
        output=root / "semantic.tar",
        **canvases,
        **common,
    )
    return root


def test_records_name_training_and_prior_images(done, world):
    record = json.loads((done / "lora/record.json").read_text())
    assert record["training_images"] == world[2]
    assert set(record["prior_images"]) == {"c001", "c002", "c003", "c004", "c005"}
    archive = Archive(done / "semantic.tar").record
    assert archive["generator_images"] == world[2] and archive["prior_images"] == record["prior_images"]


def test_semantic_rows(done):
    archive = Archive(done / "semantic.tar")
    assert len(archive.rows) == 9
    assert {row["tone"] for row in archive.rows} == {"light", "medium", "dark"}
    assert all(row["canvas"] != "c000" for row in archive.rows), "a test canvas was used"
    assert all(row["generator"] == "main/nevus" and row["malignant"] is False for row in archive.rows)
    pictures = {archive.read(row) for row in archive.rows}
    assert len(pictures) == 9
    assert decode_png(next(iter(pictures))).shape == (tiny.SIZE, tiny.SIZE, 3)


def test_state_is_cleared(done):
    for state in ("s1", "s2"):
        assert not list((done / state).glob("*.safetensors"))


def test_metrics_and_grid(done):
    lines = [json.loads(line) for line in (done / "lora/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6] and all(line["loss"] > 0 for line in lines)
    assert decode_png((done / "lora/samples.png").read_bytes()).shape == (
        3 * (tiny.SIZE + 2) - 2,
        2 * (tiny.SIZE + 2) - 2,
        3,
    )
    assert json.loads((done / "m.jsonl").read_text())["steps"] == 6


def test_only_the_new_row_is_in_the_file(done):
    from safetensors.torch import load_file

    tensors = load_file(done / "embedding/learned_embeds.safetensors")
    assert list(tensors) == ["<nevus>"] and tensors["<nevus>"].shape == (1, tiny.HIDDEN)
    assert torch.isfinite(tensors["<nevus>"]).all()
