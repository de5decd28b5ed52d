"""The features command: what it writes, that it is the same however photos are grouped, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cgddi.cli import main
from cgddi.core.errors import InvalidInput
from cgddi.fedd.features import backbones
from cgddi.fedd.features.extract import extract, noise_for, pool
from cgddi.fedd.features.files import FeatureFiles
from cgddi.fedd.study import read_photos
from PIL import Image

from tests.fedd.specs import spec_file

BASE = {
    "stage": "fedd_features",
    "seed": 11,
    "source": "test",
    "versions": {"torch": ""},
    "cohort": "ddi",
    "batch": "b",
}


def run(path, model, rows, size=64, timestep=100, maps=(6, 8), pooled=True, showcase=(), crop="resize", **settings):
    """Run the command; gives its status."""
    spec = BASE | {
        "settings": {"size": size, **settings},
        "model": {"source": str(model), "revision": None, "variant": None},
        "timestep": timestep,
        "crop": crop,
        "rows": list(rows),
        "maps": list(maps),
        "pooled": pooled,
        "showcase": list(showcase),
    }
    options = ["--spec", spec_file(spec, path), "--output", str(path), "--threads", "1"]
    return main(["fedd", "features", *options, "--metrics", str(path.with_suffix(".metrics.jsonl"))])


@pytest.fixture(scope="module")
def made(adm_folder, photos, tmp_path_factory):
    """Features of three photos, one of them shown as clusters."""
    path = tmp_path_factory.mktemp("features") / "study.safetensors"
    assert run(path, adm_folder, photos[:3], showcase=["p1"]) == 0
    return path


def test_what_is_written(made, photos, adm_folder):
    files = FeatureFiles([made])
    assert files.images == ["p0", "p1", "p2"]
    facts = {name: files.facts[name] for name in ("size", "timestep", "crop", "blocks")}
    assert facts == {"size": 64, "timestep": 100, "crop": "resize", "blocks": 18}
    backbone = backbones.load({"source": str(adm_folder)}, torch.device("cpu"))
    assert files.facts["model"] == backbone.digest
    pixels = np.array(Image.open(photos[1]["file"]).resize((64, 64), Image.Resampling.LANCZOS))
    pixels = pixels.transpose(2, 0, 1)[None]
    noise = noise_for(11, "p1", 100, (3, 64, 64))[None]
    found = {}
    backbone.run(pixels, noise, 100, range(18), lambda block, value: found.update({block: value}))
    maps = files.maps("p1", (6, 8))
    assert files.blocks("p1") == [6, 8] and files.blocks("p1", "pooled") == list(range(18))
    for block, value in maps.items():
        assert value.dtype == torch.float16 and torch.equal(value, found[block][0].half())
    for block in range(18):
        assert torch.equal(files.pooled("p1", block), pool(found[block].half().float())[0].half())
    assert files.blocks("p1", "kmeans") == list(range(18)) and files.blocks("p0", "kmeans") == []
    labels = files.kmeans("p1", 8)
    assert labels.shape == maps[8].shape[1:] and set(labels.unique().tolist()) == {0, 1, 2}
    counts = torch.bincount(labels.flatten().long())
    assert (counts[:-1] >= counts[1:]).all()
    record = json.loads(made.with_suffix(".json").read_text())
    assert record["spec"]["rows"] == photos[:3] and list(record["inputs"]) == [row["file"] for row in photos[:3]]
    usage = json.loads(made.with_suffix(".metrics.jsonl").read_text())
    assert usage["stage"] == "fedd_features" and usage["images"] == 3 and usage["seconds"] > 0


def test_same_bytes_again(made, adm_folder, photos, tmp_path):
    assert run(tmp_path / "again.safetensors", adm_folder, photos[:3], showcase=["p1"]) == 0
    assert (tmp_path / "again.safetensors").read_bytes() == made.read_bytes()


def test_a_photos_features_do_not_depend_on_its_neighbours(made, adm_folder, photos, tmp_path):
    other = [photos[4], photos[2], photos[0]]
    assert run(tmp_path / "other.safetensors", adm_folder, other, maps=(8,), batch=2) == 0
    ours, theirs = FeatureFiles([made]), FeatureFiles([tmp_path / "other.safetensors"])
    for name in ("p0", "p2"):
        assert torch.equal(ours.maps(name, [8])[8], theirs.maps(name, [8])[8])
        assert torch.equal(ours.pooled(name, 3), theirs.pooled(name, 3))
    assert len(theirs.blocks("p4", "pooled")) == 18 and theirs.blocks("p4") == [8]


def test_noise_is_drawn_by_name():
    draws = [
        noise_for(*arguments, (3, 8, 8))
        for arguments in ((1, "a", 100), (1, "b", 100), (1, "a", 150), (2, "a", 100), (1, "a", 100))
    ]
    assert torch.equal(draws[0], draws[4])
    assert all(not torch.equal(draws[0], draw) for draw in draws[1:4])


def test_other_timesteps_and_no_pooling(adm_folder, photos, tmp_path):
    assert run(tmp_path / "last.safetensors", adm_folder, photos[:1], timestep=1000, maps=()) == 0
    files = FeatureFiles([tmp_path / "last.safetensors"])
    assert files.facts["timestep"] == 999
    assert files.blocks("p0") == [] and files.blocks("p0", "pooled") == list(range(18))
    assert run(tmp_path / "maps.safetensors", adm_folder, photos[:1], maps=(0,), pooled=False) == 0
    assert FeatureFiles([tmp_path / "maps.safetensors"]).blocks("p0", "pooled") == []


def test_stable_diffusion_as_backbone(sd_folder, photos, tmp_path):
    path = tmp_path / "sd.safetensors"
    assert run(path, sd_folder, photos[:2], size=32, maps=(1, 3), showcase=["p0"]) == 0
    files = FeatureFiles([path])
    shapes = {block: tuple(value.shape) for block, value in files.maps("p0", (1, 3)).items()}
    assert shapes == {1: (32, 16, 16), 3: (16, 16, 16)} and files.facts["blocks"] == 4
    assert files.pooled("p1", 0).shape == (512,)


def test_the_crop_is_the_masks(adm_folder, photos, tmp_path):
    found = []
    for crop in ("resize", "square"):
        path = tmp_path / f"{crop}.safetensors"
        assert run(path, adm_folder, photos[:1], maps=(8,), pooled=False, crop=crop) == 0
        found.append(FeatureFiles([path]).maps("p0", [8])[8])
    assert not torch.equal(*found)


def test_bad_files_are_all_named_before_the_model_is_loaded(photos, tmp_path, capsys):
    (tmp_path / "cut.png").write_bytes(Path(photos[0]["file"]).read_bytes()[:200])
    rows = [
        photos[0],
        {"image_id": "cut", "file": str(tmp_path / "cut.png")},
        {"image_id": "gone", "file": str(tmp_path / "gone.png")},
    ]
    assert run(tmp_path / "x.safetensors", tmp_path / "no-model", rows) == 2
    message = capsys.readouterr().err
    assert "2 problem(s)" in message and "no-model" not in message
    assert "image cut: " in message and "image gone: " in message
    assert not (tmp_path / "x.safetensors").exists()


def test_blocks_that_do_not_exist(adm_folder, photos, tmp_path, capsys):
    assert run(tmp_path / "x.safetensors", adm_folder, photos[:1], maps=(6, 40)) == 2
    assert "40" in (message := capsys.readouterr().err) and "has 18, numbered 0 to 17" in message
    assert not list(tmp_path.glob("x.*safetensors"))


def test_features_that_are_not_finite_name_the_photo(adm_folder, photos):
    backbone = backbones.load({"source": str(adm_folder)}, torch.device("cpu"))
    pixels = read_photos(photos[:2], 64, "resize", masks=False).pixels
    pixels = np.concatenate([pixels, np.full((1, 3, 64, 64), 255, np.uint8)])

    def overflow(module, inputs, output):
        return output * 1e38 if inputs[0].mean() > 0.5 else None

    backbone.unet.conv_in.register_forward_hook(overflow)
    with pytest.raises(InvalidInput, match="image white: features of decoder block 0, 6 are not finite") as caught:
        extract(backbone, ["p0", "p1", "white"], pixels, seed=11, timestep=100, maps=(6,), pooled=(0,))
    assert len(caught.value.problems) == 1 and "precision: fp32" in str(caught.value)


def test_half_precision_is_a_setting_and_close(made, adm_folder, photos, tmp_path):
    assert run(tmp_path / "half.safetensors", adm_folder, photos[:2], maps=(6,), pooled=False, precision="fp16") == 0
    ours, theirs = FeatureFiles([made]), FeatureFiles([tmp_path / "half.safetensors"])
    for name in theirs.images:
        full, half = (files.maps(name, [6])[6].float() for files in (ours, theirs))
        assert 0 < (half - full).norm() / full.norm() < 0.02


def test_settings_and_specs_are_checked(adm_folder, photos, tmp_path, capsys):
    assert run(tmp_path / "x.safetensors", adm_folder, photos[:1], size=80) == 2
    assert "80 is not a multiple of 32" in capsys.readouterr().err
    assert run(tmp_path / "x.safetensors", adm_folder, photos[:1], batch=0) == 2
    assert "batch" in capsys.readouterr().err
    assert run(tmp_path / "x.tar", adm_folder, photos[:1]) == 2
    assert "ends in .safetensors" in capsys.readouterr().err
    assert main(["fedd", "features", "--spec", spec_file(BASE, tmp_path / "x"), "--output", "x.safetensors"]) == 2
    assert "--spec lacks settings" in capsys.readouterr().err
