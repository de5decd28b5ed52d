"""What a job draws, against plain diffusers: which canvases, tones and repeats, with which seed, prompt, strength and guidance."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from cgddi.core.archive import Archive
from cgddi.core.images import decode_png
from cgddi.stages.semantic.sample import SemanticJob, sample_concept
from diffusers import AutoPipelineForImage2Image
from PIL import Image

from tests.diffusion import tiny
from tests.diffusion.test_formats import plain

TONES = ("light", "medium", "dark")
SETTINGS = {
    **tiny.SEMANTIC, "sampler": "ddim", "steps": 7, "strength": 0.6, "guidance": 3.3, "batch": 5, "repeats": 2,
    "per_tone": 3, "max_canvases": None, "negative_prompt": "{tone} ruler photo", "prompt": "a {tone} {token}",
}  # fmt: skip


def seed_of(*names) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()[:8], "big") >> 1


def run(world, output, **settings) -> Archive:
    spec = tiny.spec_for("semantic", world.model, world.images, **{**SETTINGS, **settings}) | {"malignant": True}
    split = output.with_suffix(".csv")
    roles = {name: "validation" if name == "c001" else "train" for name in world.canvases}
    split.write_text("image_id,role\n" + "".join(f"{name},{role}\n" for name, role in roles.items()))
    sample_concept(SemanticJob(spec, [world.root / "canvases.tar"], split, world.embedding, world.lora, output))
    return Archive(output)


def test_images_are_plain_diffusers_own(world, tmp_path):
    archive, pipe = run(world, tmp_path / "a.tar"), plain(world, AutoPipelineForImage2Image, "ddim")
    canvases = Archive(world.root / "canvases.tar")
    pixels = {row["image_id"]: decode_png(canvases.read(row)) for row in canvases.rows if row["image_id"] != "c001"}
    seeds = {
        (canvas, tone, n): seed_of(7, "semantic", "nevus", canvas, tone, n)
        for canvas in pixels for tone in TONES for n in (0, 1)
    }  # fmt: skip
    wanted = {
        key: seed
        for tone in TONES
        for key, seed in sorted((item for item in seeds.items() if item[0][1] == tone), key=lambda item: item[1])[:3]
    }
    assert [row["key"] for row in archive.rows] == [
        "-".join(map(str, key)) for key in sorted(wanted, key=lambda key: (key[0], TONES.index(key[1]), key[2]))
    ]
    for row in archive.rows:
        canvas, tone, repeat = row["key"].split("-")
        prompt = f"a {tone} <nevus>"
        assert (row["seed"], row["prompt"]) == (wanted[canvas, tone, int(repeat)], prompt)
        assert (row["canvas"], row["tone"], row["malignant"], row["concept"]) == (canvas, tone, True, "nevus")
        theirs = pipe(
            prompt,
            negative_prompt=f"{tone} ruler photo",
            image=Image.fromarray(pixels[canvas]),
            strength=0.6,
            num_inference_steps=7,
            guidance_scale=3.3,
            generator=torch.Generator().manual_seed(row["seed"]),
            output_type="np",
        ).images[0]
        mine = decode_png(archive.read(row)).astype(int)
        assert np.abs(mine - (theirs * 255).round().astype(int)).max() <= 1, row["key"]


@pytest.mark.parametrize("change", [{"guidance_rescale": 0.6}, {"sampler": "dpmsolver++"}, {"guidance": 1.0}])
def test_what_a_setting_changes_is_seen(world, tmp_path, change):
    few = {"per_tone": 1, "repeats": 1, "batch": 3}
    one, other = (run(world, tmp_path / f"{n}.tar", **few, **more) for n, more in enumerate(({}, change)))
    assert [row["seed"] for row in one.rows] == [row["seed"] for row in other.rows]
    assert all(one.read(a) != other.read(b) for a, b in zip(one.rows, other.rows, strict=True))
