"""FID's Inception and LPIPS against torchvision's own networks and the formulas, with random weights in the true files."""

import hashlib
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from cgddi.cli import main
from cgddi.core.errors import UserError
from cgddi.core.seeds import seed_for
from cgddi.stages.audit.networks import convert, load_inception, load_lpips, weights_file
from cgddi.stages.audit.quality import frechet_distance
from cgddi.stages.audit.settings import hub_file
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad
from torchvision.models import inception

from tests.stages.audit.test_audit import audit, pixels, training
from tests.stages.index.world import make_world


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights as published (`.pth` of a state dict), and what `cgddi audit convert` makes of them."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    network = inception.Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    alex = torchvision.models.alexnet(weights=None).eval()
    for name, model in (("inception", network), ("alex", alex)):
        torch.save(model.state_dict(), folder / f"{name}.pth")
        out = folder / "models" / f"{name}.safetensors"
        assert main(["audit", "convert", "--checkpoint", str(folder / f"{name}.pth"), "--output", str(out)]) == 0
    return folder, network, alex


def valid_mean(x, kernel_size, stride, padding, count_include_pad=True):
    """3 x 3 means of what lies inside: sums over shifted copies, divided by how many of the nine lie inside."""
    assert (kernel_size, stride, padding) == (3, 1, 1)
    total = sum(pad(x, (1, 1, 1, 1))[..., a : a + x.shape[-2], b : b + x.shape[-1]] for a in range(3) for b in range(3))
    inside = [torch.tensor([2, *[3] * (n - 2), 2]) for n in x.shape[-2:]]
    return total / (inside[0][:, None] * inside[1])


def test_the_inception_of_fid_is_torchvisions_with_other_pools(files, monkeypatch):
    folder, network, _ = files
    ours = load_inception(str(folder / "models/inception.safetensors"))
    picture = torch.randint(0, 256, (2, 3, 299, 299), dtype=torch.uint8)
    blocks = iter(["mean"] * 8 + ["max"])

    def pool(x, **shape):
        if next(blocks) == "mean":
            return valid_mean(x, **shape)
        around = pad(x, (1, 1, 1, 1), value=float("-inf"))
        shifted = [around[..., a : a + x.shape[-2], b : b + x.shape[-1]] for a in range(3) for b in range(3)]
        return torch.stack(shifted).amax(0)

    with torch.no_grad():
        found = ours(picture)
        monkeypatch.setattr(network, "fc", torch.nn.Identity())
        usual = network((picture.float() - 128) / 128)
        monkeypatch.setattr(inception.F, "avg_pool2d", pool)
        expected = network((picture.float() - 128) / 128)
    assert found.shape == (2, 2048) and next(blocks, None) is None
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)
    assert not np.allclose(found, usual, rtol=0.02), "the pools matter"


def test_lpips_is_its_formula_over_alexnet(files):
    folder, _, alex = files
    network = load_lpips(str(folder / "models/alex.safetensors"))
    a, b = torch.rand(2, 3, 3, 64, 64) * 2 - 1
    shift, scale = (torch.tensor(v)[:, None, None] for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    lines = load_file(folder / "models/alex.safetensors")
    expected = torch.zeros(3)
    with torch.no_grad():
        x, y = (a - shift) / scale, (b - shift) / scale
        relus = [n for n, layer in enumerate(alex.features) if isinstance(layer, torch.nn.ReLU)]
        for number, last in enumerate(relus):
            u, v = (alex.features[: last + 1](each) for each in (x, y))
            u, v = (each / each.square().sum(1, keepdim=True).sqrt().clamp_min(1e-10) for each in (u, v))
            weight = lines[f"lin{number}.model.1.weight"]
            assert weight.min() >= 0 and weight.shape[1] == u.shape[1], "the published linear layers"
            expected += ((u - v).square() * weight[0]).sum(1).mean((1, 2))
        assert network(a, b).flatten().numpy() == pytest.approx(expected.numpy(), rel=1e-3)
        assert network(a, a).abs().max() < 1e-6
    own = {re.sub(r"lin(\d).model", r"lins.\1.model", name): tensor for name, tensor in lines.items()}
    save_file(own, folder / "other-names.safetensors")
    with torch.no_grad():
        assert torch.equal(load_lpips(str(folder / "other-names.safetensors"))(a, b), network(a, b))


def test_other_files_are_refused_in_one_line(files, tmp_path, capsys):
    folder, *_ = files
    pairs = [
        (load_inception, "alex", "those of FID's Inception"),
        (load_lpips, "inception", "neither AlexNet's nor VGG16's"),
    ]
    for load, name, message in pairs:
        with pytest.raises(UserError, match=message):
            load(str(folder / f"models/{name}.safetensors"))
    torch.save(
        torch.load(folder / "inception.pth", weights_only=True) | {"fc.weight": torch.zeros(1000, 2048)},
        tmp_path / "torchvision.pth",
    )
    convert_args = ["audit", "convert", "--checkpoint", str(tmp_path / "torchvision.pth")]
    assert main([*convert_args, "--output", str(tmp_path / "x.safetensors")]) == 2
    line = capsys.readouterr().err.strip()
    assert "fc.weight is (1000, 2048) instead of (1008, 2048)" in line and "\n" not in line
    assert list(tmp_path.iterdir()) == [tmp_path / "torchvision.pth"], "nothing is left"
    with pytest.raises(UserError, match="exists already"):
        convert(str(folder / "alex.pth"), str(folder / "models/alex.safetensors"))
    with pytest.raises(UserError, match=r"no such .safetensors file. `cgddi audit convert`"):
        weights_file("models/none.safetensors")


def test_places_on_the_hub():
    assert hub_file("owner/name/fid.safetensors@main") == ("owner/name", "fid.safetensors", "main")
    assert hub_file("owner/name/sub/fid.safetensors") == ("owner/name", "sub/fid.safetensors", None)
    assert hub_file("models/fid.safetensors") is None and hub_file("/data/models/fid.safetensors") is None


@pytest.mark.slow
def test_the_audit_measures_with_both(files, tmp_path):
    folder, *_ = files
    world = make_world(tmp_path, per_cell=3, semantic_per=1)
    world.write_index().rename(tmp_path / "i.parquet")
    index = pd.read_parquet(tmp_path / "i.parquet")
    weights = {
        key: str(folder / f"models/{name}.safetensors") for key, name in (("inception", "inception"), ("lpips", "alex"))
    }
    found = audit(world, tmp_path, "quality", images_per_tone=2, **weights)
    assert found["features"].startswith("Inception-v3 of 2015") and found["perceptual"].startswith(
        "LPIPS of alex, 256 px"
    )
    held = index[(index["kind"] == "real") & (index["role"] != "train") & (index["tone"] == "dark")]
    cell = found["by_kind"]["lesion_mapped"]["dark"]
    assert cell["real_images"] == len(held) == 8 and cell["images"] == 2
    drawn = training(index, kind="lesion_mapped", tone="dark")
    order = sorted(drawn["id"], key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:2]
    network, lpips = load_inception(weights["inception"]), load_lpips(weights["lpips"])
    chosen = drawn[drawn["id"].isin(order)]
    with torch.no_grad():
        sets = [
            network(torch.stack([torch.tensor(pixels(row)).permute(2, 0, 1) for row in rows.itertuples()])).numpy()
            for rows in (held, chosen)
        ]
        photos = [tensor_of(row) for row in held.sort_values("id").itertuples()]
        expected = []
        for row in chosen.itertuples():
            five = np.random.default_rng(seed_for(1, "lpips", row.id)).choice(8, 5, replace=False)
            expected.append(np.mean([lpips(tensor_of(row)[None], photos[k][None]).item() for k in five]))
    assert cell["fid"] == pytest.approx(frechet_distance(*sets), rel=1e-3)
    assert cell["lpips"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert found["by_kind"]["all"]["dark"]["images"] == 6


def tensor_of(row):
    picture = Image.fromarray(pixels(row)).resize((256, 256), Image.Resampling.BILINEAR)
    return torch.tensor(np.asarray(picture)).permute(2, 0, 1) / 127.5 - 1
