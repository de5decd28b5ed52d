"""Networks of the baselines: U-Nets of segmentation_models_pytorch, classifiers of timm, and DeepDerm."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn
from torchvision.models import Inception3

from cgddi.core.archive import file_sha256
from cgddi.core.backbones import create_backbone, load_weights
from cgddi.core.errors import UserError

CLASSES = 5
AUXILIARY_WEIGHT = 0.4
"""Weight of Inception-v3's auxiliary loss in training (torchvision's own training recipe; Szegedy 2015: 0.3)."""


class Classifier(nn.Module):
    """A timm backbone with one linear layer; (N, 3, H, W) -> logits (N, 2)."""

    def __init__(self, backbone: nn.Module, features: int):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(features, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of benign and malignant."""
        return self.head(self.backbone(pixels))


def build_unet(encoder: str, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """A U-Net for five classes; (N, 3, H, W), H and W multiples of 32 -> logits (N, 5, H, W).

    Args:
        encoder: name in segmentation_models_pytorch.
        weights: of the encoder: "hub" (ImageNet, from the hub or its cache), "random", or a local .safetensors file of the
            encoder's tensors.

    Returns:
        The model and facts for the record.

    Raises:
        UserError: the hub cannot be reached, or the file belongs to another encoder.
    """
    try:
        model = smp.Unet(encoder, encoder_weights="imagenet" if weights == "hub" else None, classes=CLASSES)
    except Exception as error:  # huggingface_hub and requests each raise their own
        if weights != "hub":
            raise
        raise _no_hub(f"U-Net encoder {encoder}", "segmentation/" + encoder, error) from error
    facts = {"encoder": encoder, "weights": weights}
    if weights not in ("hub", "random"):
        load_weights(model.encoder, weights, f"U-Net encoder {encoder}", ignored=("fc", "classifier", "last_linear"))
        facts["weights_sha256"] = file_sha256(weights)
    return model, facts


def build_classifier(name: str, weights: str, size: int) -> tuple[nn.Module, dict[str, Any]]:
    """A malignancy classifier on a timm backbone; (N, 3, size, size) -> logits (N, 2) of benign and malignant.

    Args:
        name: timm's name.
        weights: of the backbone: "hub", "random" or a local .safetensors file.
        size: side of its input in pixels.

    Raises:
        UserError: see `create_backbone`.
    """
    backbone, facts = create_backbone(name, weights, size)
    with torch.no_grad():
        backbone.eval()
        features = backbone(torch.zeros(1, 3, size, size)).shape[1]
    return Classifier(backbone, features), facts


def build_deepderm(weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """DeepDerm: torchvision's Inception-v3 with two outputs (Esteva 2017; weights published with DDI, Daneshjou 2022).

    Args:
        weights: "random", the published checkpoint (`deepderm.pth`, a state dict, of which tensors alone are read), or the same
            tensors as .safetensors.

    Returns:
        The model ((N, 3, 299, 299) -> logits (N, 2); in training also those of the auxiliary head) and facts for the record.

    Raises:
        UserError: "hub" (it is on none), no such file, not a checkpoint, or one of another architecture.
    """
    if weights == "hub":
        raise UserError(
            "DeepDerm is on no hub. Download deepderm.pth (link in the DDI project's ddi_model.py) and name the file in "
            'fedd.baselines.weight_files: {"classification/deepderm": FILE}, or take deepderm out of the networks.'
        )
    model = Inception3(num_classes=2, aux_logits=True, transform_input=False, init_weights=weights == "random")
    facts = {"architecture": "inception_v3", "weights": weights}
    if weights != "random":
        path = Path(weights)
        if path.suffix == ".safetensors":
            load_weights(model, path, "DeepDerm (Inception-v3 with two outputs)")
        else:
            _load_checkpoint(model, path)
        facts["weights_sha256"] = file_sha256(path)
    return model, facts


def _load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load the tensors of a torch checkpoint; nothing else in it is ever executed (weights_only)."""
    if not path.is_file():
        raise UserError(f"weights {path}: no such file. Download deepderm.pth and give its path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"weights {path}: not a torch checkpoint of tensors alone ({str(error).splitlines()[0][:150]}). Download "
            "deepderm.pth again; files that would run code when opened are refused."
        ) from error
    wanted = model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"weights {path}: holds no state dict (name -> tensor). Give the published deepderm.pth.")
    # Checkpoints of torch before 0.4.1 lack the counters of batch normalisation, which inference does not read.
    state = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")} | state
    wrong = [f"{name} is missing" for name in wanted if name not in state]
    wrong += [f"{name} is not part of it" for name in state if name not in wanted]
    wrong += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if wrong:
        raise UserError(
            f"weights {path} are of another architecture than DeepDerm (Inception-v3 with two outputs): {len(wrong)} tensor(s) "
            f"differ, e.g. {wrong[0]}. Give the published deepderm.pth."
        )
    model.load_state_dict(state)


def _no_hub(what: str, key: str, error: Exception) -> UserError:
    return UserError(
        f"pretrained weights of {what} cannot be had ({type(error).__name__}: {str(error)[:200]}). Run once with the hub "
        f'reachable (the cache serves later runs), or set fedd.baselines.weights to random, or weight_files: {{"{key}": FILE}} to '
        "a local .safetensors file."
    )
