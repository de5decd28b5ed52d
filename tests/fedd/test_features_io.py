"""Feature files: what is written is read, whatever file it lies in; strange files are refused by name."""

import json

import pytest
import torch
from cgddi.core.errors import UserError
from cgddi.fedd.features.files import FeatureFiles, ImageFeatures, write_features
from safetensors.torch import save_file

SPEC = {"stage": "fedd", "settings": {"size": 64}, "seed": 1, "versions": {}}
FACTS = {"model": "abc", "size": 64, "timestep": 100, "crop": "resize", "blocks": 18}


def features(number: int) -> ImageFeatures:
    draw = torch.Generator().manual_seed(number)
    return ImageFeatures(
        {6: torch.randn(8, 4, 4, generator=draw).half(), 8: torch.randn(4, 8, 8, generator=draw).half()},
        {block: torch.randn(512, generator=draw).half() for block in range(18)},
        {6: torch.randint(0, 3, (4, 4), generator=draw, dtype=torch.uint8)},
    )


@pytest.fixture
def files(tmp_path):
    for name, numbers in (("a", (0, 1)), ("b", (2,))):
        found = {f"im{n}": features(n) for n in numbers}
        write_features(tmp_path / f"{name}.safetensors", found, SPEC, **FACTS)
    return tmp_path


def test_round_trip_over_files(files):
    read = FeatureFiles([files / "a.safetensors", files / "b.safetensors"])
    assert read.images == ["im0", "im1", "im2"] and read.facts["timestep"] == 100
    for number in range(3):
        made, name = features(number), f"im{number}"
        assert read.blocks(name) == [6, 8] and read.blocks(name, "pooled") == list(range(18))
        maps = read.maps(name, (8, 6))
        assert list(maps) == [8, 6] and all(torch.equal(maps[block], made.maps[block]) for block in maps)
        assert torch.equal(read.pooled(name, 17), made.pooled[17])
        assert torch.equal(read.kmeans(name, 6), made.kmeans[6])
    assert json.loads((files / "a.json").read_text())["images"] == ["im0", "im1"]


def test_equal_content_gives_equal_bytes(files, tmp_path):
    reordered = {name: features(number) for name, number in (("im1", 1), ("im0", 0))}
    write_features(tmp_path / "again.safetensors", reordered, SPEC, **FACTS)
    assert (tmp_path / "again.safetensors").read_bytes() == (files / "a.safetensors").read_bytes()


def test_absent_features_are_named(files):
    read = FeatureFiles([files / "a.safetensors"])
    with pytest.raises(UserError, match="im0: no map features of block 7"):
        read.maps("im0", [7])
    with pytest.raises(UserError, match="image im2"):
        read.pooled("im2", 0)


def test_files_that_do_not_belong_are_refused(files, tmp_path):
    write_features(tmp_path / "other.safetensors", {"im9": features(9)}, SPEC, **FACTS | {"timestep": 50})
    with pytest.raises(UserError, match="features of timestep 100, and .*other.safetensors is of 50"):
        FeatureFiles([files / "a.safetensors", tmp_path / "other.safetensors"])
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="not a feature file"):
        FeatureFiles([tmp_path / "weights.safetensors"])
    (tmp_path / "cut.safetensors").write_bytes((files / "a.safetensors").read_bytes()[:200])
    with pytest.raises(UserError, match="not a whole"):
        FeatureFiles([tmp_path / "cut.safetensors"])
    with pytest.raises(UserError, match="no such file"):
        FeatureFiles([tmp_path / "none.safetensors"])
