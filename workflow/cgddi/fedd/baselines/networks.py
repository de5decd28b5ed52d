"""Networks of the baselines: U-Nets of segmentation_models_pytorch, classifiers of timm, and DeepDerm."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn
from torchvision.models import Inception3

from cgddi.core.archive import file_sha256
from cgddi.core.backbones import create_backbone, load_weights
from cgddi.core.errors import UserError
from cgddi.core.images import CLASSES
from cgddi.diffusion.weights import read_checkpoint
from cgddi.fedd.settings import NETWORKS, BaselinesSettings

DEEPDERM_SIZE = 299
"""Side in px of DeepDerm's input (DDI paper)."""
DEEPDERM_THRESHOLD = 0.687
"""Probability from which DeepDerm's own, not fine-tuned weights say malignant (DDI paper's code)."""


@dataclass(frozen=True)
class Baseline:
    """A network and how it is used.

    Args:
        model: (N, 3, size, size) -> logits, (N, 5, size, size) of a U-Net, (N, 2) of a classifier.
        facts: for the record. size: side of its input in px. threshold: probability from which a classifier says malignant.
    """

    model: nn.Module
    facts: dict[str, Any]
    size: int
    threshold: float = 0.5


def build(task: str, network: str, settings: BaselinesSettings, size: int) -> Baseline:
    """The network of a job.

    Args:
        task: "segmentation" or "classification". network: one of `NETWORKS`. size: side of the study's photos in px.

    Raises:
        UserError: no such task or network, weights that cannot be had, or a side no U-Net takes.
    """
    if network not in NETWORKS.get(task, ()):
        known = "; ".join(f"{name}: {', '.join(networks)}" for name, networks in NETWORKS.items())
        raise UserError(f"no {task} baseline {network!r}. There are {known}.")
    weights = settings.weights_of(task, network)
    if task == "segmentation":
        if size % 32:
            raise UserError(
                f"U-Nets halve their input five times, so fedd.features.size must be a multiple of 32, not {size}."
            )
        return Baseline(*build_unet(network, weights), size)
    if network == "deepderm":
        threshold = 0.5 if settings.deepderm_finetune else DEEPDERM_THRESHOLD
        return Baseline(*build_deepderm(weights), DEEPDERM_SIZE, threshold)
    backbone, facts = create_backbone(network, weights, size)
    head = nn.Linear(backbone.head_hidden_size, 2)
    return Baseline(nn.Sequential(OrderedDict(backbone=backbone, head=head)), facts, size)


def build_unet(encoder: str, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """A U-Net for five classes, and facts for the record.

    Args:
        encoder: name in segmentation_models_pytorch.
        weights: of the encoder: "hub" (ImageNet, from the hub or its cache), "random", or a local .safetensors file of the
            encoder's tensors.

    Raises:
        UserError: the hub cannot be reached, or the file belongs to another encoder.
    """
    try:
        model = smp.Unet(encoder, encoder_weights="imagenet" if weights == "hub" else None, classes=len(CLASSES))
    except Exception as error:  # huggingface_hub and requests each raise their own
        if weights != "hub":
            raise
        raise UserError(
            f"pretrained weights of U-Net encoder {encoder} cannot be had ({type(error).__name__}: {str(error)[:200]}). Run once "
            "with the hub reachable (the cache serves later runs), or set fedd.baselines.weights to random, or weight_files: "
            f'{{"segmentation/{encoder}": FILE}} to a local .safetensors file.'
        ) from error
    facts = {"encoder": encoder, "weights": weights}
    if weights not in ("hub", "random"):
        load_weights(model.encoder, weights, f"U-Net encoder {encoder}", ignored=("fc", "classifier", "last_linear"))
        facts["weights_sha256"] = file_sha256(weights)
    return model, facts


def build_deepderm(weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """DeepDerm: torchvision's Inception-v3 with two outputs (Esteva 2017; weights published with DDI, Daneshjou 2022).

    Args:
        weights: "random", the published checkpoint (`deepderm.pth`, a state dict, of which tensors alone are read), or the same
            tensors as .safetensors.

    Returns:
        The model (in training it also gives the logits of its auxiliary head) and facts for the record.

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
        try:
            model.load_state_dict(read_checkpoint(weights))
        except RuntimeError as error:
            reason = (str(error).splitlines() + [""])[1].strip()[:200]
            raise UserError(
                f"weights {weights} are of another architecture than DeepDerm (Inception-v3 with two outputs): {reason} Give the "
                "published deepderm.pth."
            ) from error
        facts["weights_sha256"] = file_sha256(weights)
    return model, facts
