"""The converter: every decoder block equals the original's, each true tensor has its place, other checkpoints are refused."""

import json

import numpy as np
import pytest
import torch
from cgddi.cli import main
from cgddi.core.errors import UserError
from cgddi.diffusion.weights import read_checkpoint
from cgddi.fedd.features import adm
from cgddi.fedd.features.adm import to_diffusers
from cgddi.fedd.features.backbones import decoder_blocks, load
from safetensors.torch import save_file

from tests.fedd.original import OriginalADM, random_original

CHANNELS, HEAD, SIZE = 32, 16, 64
PUBLISHED = [(1024, 8)] * 2 + [(1024, 16)] * 3 + [(1024, 32)] + [(512, 32)] * 2 + [(512, 64)] * 3 + [(512, 128)]
PUBLISHED += [(256, 128)] * 2 + [(256, 256)] * 4
"""Channels and side of the 18 decoder blocks at 256 px (FEDD)."""


@pytest.fixture(scope="module")
def original():
    return random_original(CHANNELS, HEAD)


@pytest.fixture(scope="module")
def checkpoint(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("adm") / "narrow.pt"
    torch.save(original.state_dict(), path)
    return path


def convert(checkpoint, output, channels=CHANNELS):
    options = ["--channels", str(channels), "--head-channels", str(HEAD), "--size", str(SIZE)]
    return main(["fedd", "convert", "--checkpoint", str(checkpoint), "--output", str(output), *options])


@pytest.fixture(scope="module")
def folder(checkpoint):
    output = checkpoint.parent / "diffusers"
    assert convert(checkpoint, output) == 0
    return output


@pytest.mark.parametrize("timestep", [0, 100, 999])
def test_every_decoder_block_equals_the_originals(original, folder, timestep):
    backbone = load({"source": str(folder)}, torch.device("cpu"))
    draw = np.random.default_rng(timestep)
    pixels = draw.integers(0, 256, (1, 3, SIZE, SIZE), dtype=np.uint8)
    noise = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    found = {}
    backbone.run(pixels, noise, timestep, range(18), lambda block, value: found.update({block: value.clone()}))

    betas = np.linspace(1e-4, 0.02, 1000, dtype=np.float64)
    signal = np.cumprod(1 - betas)[timestep]
    clean = torch.from_numpy(pixels).double() / 127.5 - 1
    noisy = (np.sqrt(signal) * clean + np.sqrt(1 - signal) * noise.double()).float()
    with torch.no_grad():
        expected, prediction = original(noisy, timestep)
        ours = backbone.unet(noisy, timestep).sample
    assert list(found) == list(range(18))
    for block, value in enumerate(expected):
        channels, side = PUBLISHED[block]
        assert value.shape == found[block].shape == (1, channels // 8, side // 4, side // 4)
        scale = value.abs().max()
        assert (found[block] - value).abs().max() < 1e-4 * scale, f"block {block}"
    assert ours.shape == (1, 6, SIZE, SIZE)
    assert (ours - prediction).abs().max() < 1e-4 * prediction.abs().max()


def test_true_size_tensors_map_one_to_one():
    with torch.device("meta"):
        there = {name: tuple(value.shape) for name, value in OriginalADM(256, 64).state_dict().items()}
    unet = adm.empty_unet(adm.unet_config())
    names = adm.tensor_names(unet)
    assert set(names) == set(there)
    ours = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    targets = [target for parts in names.values() for target in parts]
    assert sorted(targets) == sorted(ours)
    for old, parts in names.items():
        rows = (sum(ours[part][0] for part in parts), *ours[parts[0]][1:])
        assert there[old] in (rows, (*rows, 1)), old
    assert sum(value.numel() for value in unet.state_dict().values()) == 552_814_086
    assert len(decoder_blocks(unet)) == len(PUBLISHED) == 18


def test_the_folder_is_an_ordinary_pipeline(folder):
    from diffusers import DDPMPipeline

    assert (folder / "unet/diffusion_pytorch_model.safetensors").is_file()
    assert not list(folder.rglob("*.bin"))
    assert set(json.loads((folder / "conversion.json").read_text())) == {"checkpoint", "sha256"}
    pipeline = DDPMPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)).images
    assert image.shape == (1, SIZE, SIZE, 3)


def test_safetensors_and_old_pt_files_give_the_same_model(original, folder, tmp_path):
    wanted = (folder / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    save_file(original.state_dict(), tmp_path / "a.safetensors")
    torch.save(original.state_dict(), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pt"):
        assert convert(tmp_path / name, tmp_path / f"{name}-out") == 0
        assert (tmp_path / f"{name}-out/unet/diffusion_pytorch_model.safetensors").read_bytes() == wanted


def test_queries_keys_and_values_are_taken_head_by_head(original):
    config = adm.unet_config(CHANNELS, HEAD, SIZE)
    unet = to_diffusers(original.state_dict(), config)
    rows = original.middle_block[1].qkv.weight[:, :, 0]
    attention = unet.mid_block.attentions[0]
    for head in range(rows.shape[0] // (3 * HEAD)):
        start = 3 * HEAD * head
        for number, layer in enumerate((attention.to_q, attention.to_k, attention.to_v)):
            theirs = rows[start + number * HEAD : start + (number + 1) * HEAD]
            assert torch.equal(layer.weight[head * HEAD : (head + 1) * HEAD], theirs)


def test_another_architecture_is_refused_with_the_names(original, tmp_path, capsys):
    state = original.state_dict()
    state["label_emb.weight"] = torch.zeros(1000, 128)
    del state["middle_block.0.in_layers.2.weight"]
    state["input_blocks.0.0.weight"] = torch.zeros(32, 6, 3, 3)
    torch.save(state, tmp_path / "other.pt")
    assert convert(tmp_path / "other.pt", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "another architecture" in message and "Traceback" not in message
    assert "1 tensor(s) missing: middle_block.0.in_layers.2.weight" in message
    assert "1 tensor(s) unexpected: label_emb.weight" in message
    assert "input_blocks.0.0.weight (32, 6, 3, 3) instead of (32, 3, 3, 3)" in message
    assert not (tmp_path / "out").exists()


def test_wrong_width_counts_what_differs(checkpoint, tmp_path, capsys):
    assert convert(checkpoint, tmp_path / "out", channels=64) == 2
    assert "tensor(s) of another shape" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_refused(original):
    state = {name: value.clone() for name, value in original.state_dict().items()}
    state["out.2.bias"][0] = float("nan")
    with pytest.raises(UserError, match="out.2.bias"):
        to_diffusers(state, adm.unet_config(CHANNELS, HEAD, SIZE))


class Evil:
    """Runs code when an ordinary pickle loader reads it."""

    def __reduce__(self):
        return (open, ("evil-was-here", "w"))


def test_no_code_in_a_checkpoint_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for old in (True, False):
        torch.save({"x": Evil()}, "evil.pt", _use_new_zipfile_serialization=not old)
        with pytest.raises(UserError, match="not a plain set of tensors"):
            read_checkpoint("evil.pt")
        assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"PK\x03\x04 cut short", "damaged|not a plain"), (b"", "damaged|not a plain")],
)
def test_damaged_files_are_named(tmp_path, content, message):
    path = tmp_path / "x.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"x.pt: ({message})"):
        read_checkpoint(path)


def test_a_nested_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "step": 3}, tmp_path / "nested.pt")
    with pytest.raises(UserError, match="flat set"):
        read_checkpoint(tmp_path / "nested.pt")


def test_an_existing_folder_is_kept(checkpoint, folder, capsys):
    assert convert(checkpoint, folder) == 2
    assert "exists already" in capsys.readouterr().err
