"""The pixel networks: an ensemble in one product, its vote, and the file it is kept in."""

import math

import numpy as np
import pytest
import torch
from cgddi.core.errors import UserError
from cgddi.diffusion.weights import write_tensors
from cgddi.fedd.segmenter.ensemble import EnsembleMLP, Segmenter, load, vote
from cgddi.fedd.segmenter.pixels import Pixels, PixelSampler
from torch import nn

FACTS = {
    "blocks": [8, 6],
    "channels": [3, 5],
    "size": 16,
    "timestep": 100,
    "model": "abc",
    "training_images": ["i1", "i2"],
}


def drawn(members: int, inputs: int, hidden=(7, 4), outputs: int = 5) -> EnsembleMLP:
    networks = EnsembleMLP(members, inputs, hidden, outputs)
    networks.draw([torch.Generator().manual_seed(k) for k in range(members)])
    return networks


def apart(networks: EnsembleMLP, member: int) -> nn.Sequential:
    """One member as ordinary torch layers with the same weights."""
    one = nn.Sequential()
    for linear, norm in ((networks.first, networks.norm1), (networks.second, networks.norm2), (networks.last, None)):
        out, width = linear.weight.shape[1:]
        layer = nn.Linear(width, out)
        layer.weight.data, layer.bias.data = linear.weight.data[member].clone(), linear.bias.data[member].clone()
        one.append(layer)
        if norm is not None:
            one.extend([nn.ReLU(), nn.BatchNorm1d(out)])
            part = slice(member * out, (member + 1) * out)
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(one[-1], name).data.copy_(getattr(norm, name).data[part])
    return one


def test_members_train_as_they_would_alone() -> None:
    """Several Adam steps of the joined module and of separate modules end at the same logits, also after the norms' statistics."""
    torch.manual_seed(0)
    joined = drawn(3, 6)
    singles = [apart(joined, k) for k in range(3)]
    optimizers = [torch.optim.Adam(m.parameters(), 1e-2) for m in (joined, *singles)]
    for _ in range(5):
        x, y = torch.randn(16, 3, 6), torch.randint(0, 5, (16, 3))
        losses = [nn.functional.cross_entropy(joined(x).flatten(0, 1), y.flatten()) * 3]
        losses += [nn.functional.cross_entropy(one(x[:, k]), y[:, k]) for k, one in enumerate(singles)]
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    x = torch.randn(9, 3, 6)
    joined.eval()
    for k, one in enumerate(singles):
        assert torch.allclose(joined(x)[:, k], one.eval()(x[:, k]), atol=1e-5)


def test_mask_is_the_vote_over_upsampled_pixels(tmp_path) -> None:
    """The file's networks, applied by strips at low resolution, give the mask of the published upsample-then-classify."""
    networks = drawn(5, 8)
    networks.norm1.running_mean.normal_(generator=torch.Generator().manual_seed(9))
    Segmenter(networks.eval(), FACTS).save(tmp_path / "weights.safetensors")
    first = (tmp_path / "weights.safetensors").read_bytes()
    segmenter = load(tmp_path)
    segmenter.save(tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").read_bytes() == first
    assert segmenter.training_images == ["i1", "i2"] and segmenter.blocks == [8, 6]
    generator = torch.Generator().manual_seed(3)
    maps = {6: torch.randn(5, 4, 4, generator=generator).half(), 8: torch.randn(3, 8, 8, generator=generator).half()}
    mask, uncertainty = segmenter.predict(maps)
    wide = [nn.functional.interpolate(maps[b][None].float(), (16, 16), mode="bilinear") for b in (8, 6)]
    pixels = torch.cat(wide, 1)[0].permute(1, 2, 0).reshape(256, 1, 8).expand(-1, 5, -1)
    with torch.no_grad():
        members = torch.stack([apart(networks, k).eval()(pixels[:, k]) for k in range(5)], 1)
    expected, doubt = vote(members)
    assert mask.dtype == np.uint8 and mask.shape == (16, 16) and uncertainty.dtype == np.float32
    assert (mask.ravel() == expected.numpy()).mean() > 0.99
    assert np.abs(uncertainty.ravel() - doubt.numpy()).mean() < 0.01 and 0 < uncertainty.max() <= 1


def test_vote_and_its_entropy() -> None:
    def ballots(*classes):
        return nn.functional.one_hot(torch.tensor([classes]), 5).float() * 4

    assert [float(part) for part in vote(ballots(2, 2, 2, 2, 2))] == [2, 0]
    chosen, doubt = vote(ballots(1, 1, 4, 1, 4))
    share = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4)) / math.log(5)
    assert chosen.item() == 1 and doubt.item() == pytest.approx(share, abs=1e-6)
    assert vote(ballots(0, 1, 2, 3, 4))[1].item() == pytest.approx(1)
    assert vote(ballots(3))[1].item() == 0
    tie = ballots(1, 1, 4, 4)
    tie[0, 2, 4] = 9  # two votes each: the surer ones win
    assert vote(tie)[0].item() == 4


def test_what_is_no_segmenter_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path)
    write_tensors(tmp_path / "weights.safetensors", {"fc.weight": torch.zeros(2, 2)})
    with pytest.raises(UserError, match="no segmenter"):
        load(tmp_path)


def test_tones_gain_weight_by_their_loss_and_one_without_a_lesion_as_the_average() -> None:
    """Group DRO's step by hand: w exp(loss / 2), scaled to 1; four light photos, two medium, one dark."""
    truth = torch.zeros(7, 8, 8, dtype=torch.int64)
    sampler = PixelSampler(Pixels([torch.zeros(7, 1, 8, 8).half()], truth, torch.tensor([0, 0, 0, 0, 1, 1, 2])), [])
    sampler.reweigh(torch.tensor([0.9, torch.nan, 0.3]))
    grown = [share / 7 * math.exp(loss / 2) for share, loss in zip((4, 2, 1), (0.1, 0.4, 0.7), strict=True)]
    assert sampler.tone_weights.tolist() == pytest.approx([value / sum(grown) for value in grown])
    sampler.generators = [torch.Generator().manual_seed(0)]
    sampler.data.truth[6] = 1
    _, drawn = sampler.take(1, 20000)
    assert float((drawn == 1).float().mean()) == pytest.approx(grown[2] / sum(grown), abs=0.01)
