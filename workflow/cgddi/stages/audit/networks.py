"""The two networks of published picture quality: the Inception behind FID and KID, and LPIPS; and their weights' conversion.

Neither is on the hub as its authors gave it: `pt_inception-2015-12-05-6726825d.pth` (pytorch-fid, torch-fidelity) and torchvision's
`alexnet-owt-7be5be79.pth` or `vgg16-397923af.pth` are turned into safetensors once (`cgddi audit convert`).
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchmetrics.functional.image.lpips as lpips
from torchvision.models import inception

from cgddi.core.backbones import differences
from cgddi.core.errors import UserError
from cgddi.core.weight_files import from_hub
from cgddi.diffusion.weights import read_checkpoint, read_tensors, write_tensors
from cgddi.stages.audit.settings import hub_file

INCEPTION_SIZE, LPIPS_SIZE = 299, 256
"""Sides to which pictures are scaled, bilinear with antialias: Inception's own, as torchmetrics does it; and one for LPIPS, whose
published size is not told."""
TRUNKS = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}
"""Shape of the first kernels -> trunk of LPIPS; its linear layers come with torchmetrics."""


def _pooled(block: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """A block of torchvision's Inception whose pooling branch does not average over the padding, as in TensorFlow's of 2015."""

    class Block(block):
        pool = staticmethod(partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False))

        def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [*super()._forward(x)[:-1], self.branch_pool(self.pool(x))]

    return Block


class FidInception(inception.Inception3):
    """Inception-v3 of 2015 as FID uses it (Heusel 2017): the 2,048 features before its classifier of 1,008 classes.

    It differs from torchvision's in the weights and in three kinds of block: averages leave the padding out, and the last pools by
    maximum (https://github.com/mseitzer/pytorch-fid).
    """

    features = 2048

    def __init__(self) -> None:
        a, c, e = (_pooled(getattr(inception, f"Inception{name}")) for name in "ACE")
        blocks = [inception.BasicConv2d, a, inception.InceptionB, c, inception.InceptionD, e, inception.InceptionAux]
        super().__init__(num_classes=1008, aux_logits=False, inception_blocks=blocks, init_weights=False)
        self.Mixed_7c.pool = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of pictures.

        Args:
            pixels: (N, 3, H, W), uint8.

        Returns:
            (N, 2048).
        """
        small = F.interpolate(pixels.float(), (INCEPTION_SIZE,) * 2, mode="bilinear", antialias=True)
        classifier, self.fc = self.fc, torch.nn.Identity()
        try:
            return super().forward((small - 128) / 128)
        finally:
            self.fc = classifier


def load_inception(source: str) -> FidInception:
    """FID's network with its weights, ready to use.

    Raises:
        UserError: the weights are not there, or another network's.
    """
    return _inception(read_tensors(weights_file(source))[0], source)


def _inception(state: Mapping[str, torch.Tensor], source: str) -> FidInception:
    network = FidInception()
    given, wanted = (
        {n: t for n, t in each.items() if not n.endswith("tracked")} for each in (state, network.state_dict())
    )
    _check(source, given, wanted, "FID's Inception (pt_inception-2015-12-05-6726825d.pth)")
    network.load_state_dict(given, strict=False)
    return network.eval()


def load_lpips(source: str) -> lpips._LPIPS:
    """LPIPS (Zhang 2018, version 0.1) of torchmetrics with its weights: (N, 3, H, W) twice, in -1..1, to (N, 1, 1, 1).

    Args:
        source: see `weights_file`: a trunk under torchvision's names or LPIPS' own, with or without the linear layers.

    Raises:
        UserError: the weights are not there, or neither AlexNet's nor VGG16's.
    """
    return _lpips(read_tensors(weights_file(source))[0], source)


def _lpips(state: Mapping[str, torch.Tensor], source: str) -> lpips._LPIPS:
    given = _lpips_names(state)
    first = given.get("0.weight")
    kind = TRUNKS.get(tuple(first.shape)) if first is not None else None
    if kind is None:
        raise UserError(f"weights {source} are neither AlexNet's nor VGG16's. Give a trunk of LPIPS.")
    network = lpips._NoTrainLpips(pretrained=False, net=kind, pnet_rand=True)
    names = {f"lin{n}.model.1.weight": f"lin{n}" for n in range(network.L)}
    names |= {n: n.split(".", 2)[2] for n in network.state_dict() if n.startswith("net.")}
    linear = Path(lpips.__file__).with_name("lpips_models") / f"{kind}.pth"
    given = _lpips_names(torch.load(linear, map_location="cpu", weights_only=True)) | given
    loaded = {name: given[short] for name, short in names.items() if short in given}
    _check(source, loaded, {name: network.state_dict()[name] for name in names}, f"LPIPS ({kind})")
    network.load_state_dict(loaded, strict=False)  # `lins` names the linear layers a second time
    return network


def _lpips_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by short names: `0.weight` (a trunk's layer: features.0.weight, net.slice1.0.weight) and `lin0` (a linear layer)."""
    found = {}
    for name, tensor in state.items():
        if line := re.match(r"lins?\.?(\d)\b", name):
            found[f"lin{line[1]}"] = tensor
        elif layer := re.match(r"(?:features|net\.slice\d)\.(\d+\.(?:weight|bias))$", name):
            found[layer[1]] = tensor
    return found


def weights_file(source: str) -> Path:
    """The .safetensors file that a key names, fetched first where it is on the hub.

    Args:
        source: a local file, or `owner/name/file.safetensors[@commit]` on the hub.

    Raises:
        UserError: it is not there.
    """
    if Path(source).is_file():
        return Path(source)
    place = hub_file(source)
    if place is None:
        raise UserError(f"weights {source}: no such .safetensors file. `cgddi audit convert` writes it.")
    return from_hub(*place, f"weights {source}")


def _check(source: str, state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], what: str) -> None:
    if wrong := differences(state, wanted):
        raise UserError(f"weights {source} are not those of {what}: {len(wrong)} tensor(s) differ, e.g. {wrong[0]}.")


def convert(checkpoint: str, output: str) -> str:
    """Write the weights of FID's Inception, or of a trunk of LPIPS with its linear layers, as safetensors.

    Args:
        checkpoint: the published file; tensors only are read from it.

    Returns:
        What it was: "inception", "alex" or "vgg".

    Raises:
        UserError: the checkpoint is of another network, or the output exists.
    """
    path = Path(output)
    if path.suffix != ".safetensors" or path.exists():
        what = "exists already" if path.exists() else "is no .safetensors file"
        raise UserError(f"{output}: {what}. Name another file.")
    state = read_checkpoint(checkpoint)
    if any(name.startswith("Mixed_") for name in state):
        network, kind = _inception(state, checkpoint), "inception"
    else:
        network = _lpips(state, checkpoint)
        kind = network.pnet_type
    kept = {
        n: t.float().contiguous() for n, t in network.state_dict().items() if not n.startswith(("lins.", "scaling"))
    }
    write_tensors(path, kept)
    return kind
