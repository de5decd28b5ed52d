"""A checkpoint belongs to its data: pixels, tones, marks and masks. Correct one of them and the run starts again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from cgddi.core.archive import ArchiveWriter
from cgddi.core.images import LESION, TONES, encode_png
from cgddi.stages.lora.train import train_lora

from tests.diffusion import tiny
from tests.stages.lora.test_resume import Killed, stop_at


def corrected_photos(path: Path, change: str) -> Path:
    """The world's photos with the same pixels, and one thing corrected."""
    with ArchiveWriter(path, {"stage": "masks"}) as archive:
        for number in range(6):
            pixels, mask = tiny.photo(number, TONES[number % 3])
            row = {"image_id": f"p{number:03d}", "tone": TONES[number % 3], "has_ruler": False, "has_marker": False}
            if change == "tones":
                row["tone"] = TONES[(number + 1) % 3]
            if change == "marks":
                row["has_ruler"] = True
            if change == "masks":
                mask[8:24, 8:24] = LESION
            archive.add(row["image_id"], {"png": encode_png(pixels), "mask.png": encode_png(mask)}, row)
    return path


@pytest.mark.parametrize(("stage", "change"), [("lora", "tones"), ("embedding", "marks"), ("lora", "masks")])
def test_corrected_labels_and_masks_never_see_the_checkpoint(world, tmp_path, monkeypatch, stage, change):
    before, after = (corrected_photos(tmp_path / f"{name}.tar", name) for name in ("before", change))
    options = {"lesion_weight": 5.0, "suffixes": True, "steps": 5}

    def run(photos, out, state):
        if stage == "lora":
            job = world.job(output=str(tmp_path / out), grid_columns=1, **options)
            train_lora(dataclasses.replace(job, photos=[photos]), state=state)
            return (tmp_path / out / "pytorch_lora_weights.safetensors").read_bytes()
        spec = tiny.spec_for("embedding", world.model, world.images, **{**tiny.TI, **options})
        tiny.train_embedding(spec, [photos], tmp_path / out, state=state)
        return (tmp_path / out / "learned_embeds.safetensors").read_bytes()

    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 5, "kill")
        run(before, "killed", tmp_path / "state")
    assert list((tmp_path / "state").iterdir())
    assert run(after, "resumed", tmp_path / "state") == run(after, "fresh", None)
