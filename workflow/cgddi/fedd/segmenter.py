"""A trained segmenter: an ensemble of pixel networks over diffusion features, its masks and their uncertainty."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgddi.core.archive import canonical
from cgddi.core.errors import UserError
from cgddi.diffusion.weights import read_tensors, write_tensors
from cgddi.fedd import lowres
from cgddi.fedd.networks import Networks

CLASSES = ("background", "lesion", "marker", "ruler", "skin")
"""Names of the class ids 0 to 4."""

STRIP = 24
"""Rows of a mask that are computed at once: bounds memory at about 40 MB for 256 px and five members."""


@dataclass
class Segmenter:
    """Networks, and the features they were trained on.

    Args:
        networks: the ensemble, in evaluation mode.
        facts: blocks (decoder blocks, in order), channels (of each), size (side of the masks), timestep, model (content hash of
            the backbone), training_images, variant, and what else the run wants to keep; JSON values.
    """

    networks: Networks
    facts: dict[str, Any]

    @property
    def blocks(self) -> list[int]:
        """Decoder blocks whose maps `predict` wants."""
        return list(self.facts["blocks"])

    @property
    def training_images(self) -> list[str]:
        """Ids of the photos it was trained on."""
        return list(self.facts["training_images"])

    def check(self, features: Mapping[str, Any], source: str = "the features") -> None:
        """Refuse features of another backbone, timestep or size.

        Args:
            features: facts of the feature files (`FeatureFiles.facts`): model, timestep, size.
            source: their name in the message.

        Raises:
            UserError: they differ from those the segmenter was trained on.
        """
        for name, what in (("model", "backbone"), ("timestep", "timestep"), ("size", "size")):
            if features.get(name) != self.facts[name]:
                raise UserError(
                    f"{source}: features of another {what} ({features.get(name)}) than the segmenter was trained on "
                    f"({self.facts[name]}). Make features with the segmenter's settings, or train a segmenter on these."
                )

    @torch.inference_mode()
    def predict(self, maps: Mapping[int, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Mask of one photo.

        Args:
            maps: block -> native map (C, h, w) of any floating type; those of `blocks`.

        Returns:
            Class ids, uint8 (size, size), and the members' disagreement, float32 (size, size) in 0..1 (see `vote`); both numpy.

        Raises:
            UserError: a block lacks, has another number of channels, or holds values that are not numbers.
        """
        stacked = self._stack(maps)
        size, first = self.facts["size"], self.networks.first
        weight, bias = first.weight.flatten(0, 1), first.bias.flatten()
        mask = torch.empty(size, size, dtype=torch.uint8)
        uncertainty = torch.empty(size, size)
        for rows, hidden in lowres.strips(weight, bias, stacked, size, STRIP):
            height = hidden.shape[2]
            pixels = hidden[0].permute(1, 2, 0).reshape(height * size, self.networks.members, -1)
            chosen, doubt = vote(self.networks.rest(pixels))
            mask[rows], uncertainty[rows] = chosen.view(height, size), doubt.view(height, size)
        return mask.numpy(), uncertainty.numpy()

    def _stack(self, maps: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """The maps in the segmenter's order, float32 (1, C, h, w) on its device."""
        missing = [block for block in self.blocks if block not in maps]
        if missing:
            raise UserError(f"the segmenter reads blocks {self.blocks}; block {missing[0]} is not among the features.")
        stacked = []
        for block, channels in zip(self.blocks, self.facts["channels"], strict=True):
            if maps[block].shape[0] != channels:
                raise UserError(
                    f"block {block} has {maps[block].shape[0]} channels and the segmenter was trained on {channels}: "
                    "features of another backbone. Make features with the segmenter's backbone."
                )
            if not torch.isfinite(maps[block]).all():
                raise UserError(
                    f"the features of block {block} are not all numbers (NaN or infinite). Make them again."
                )
            block_map = centred(maps[block]) if self.facts.get("variant") == "centre" else maps[block]
            stacked.append(block_map.to(self.networks.first.weight)[None])
        return stacked

    def save(self, path: str | Path) -> None:
        """Write the weights as safetensors; the facts stand in the header under `cgddi`."""
        state = {name: value for name, value in self.networks.state_dict().items() if value.ndim}
        write_tensors(path, state, {"cgddi": canonical(self.facts)})


def load(folder: str | Path, device: torch.device | str = "cpu") -> Segmenter:
    """A segmenter from the folder of its run (or the weights file itself).

    Raises:
        UserError: there is none, or it is damaged or something else.
    """
    path = Path(folder)
    path = path if path.suffix == ".safetensors" else path / "weights.safetensors"
    state, header = read_tensors(path)
    try:
        facts = json.loads(header["cgddi"])
        members, width, inputs = state["first.weight"].shape
        outputs = state["last.weight"].shape[1]
        networks = Networks(members, inputs, (width, state["second.weight"].shape[1]), outputs)
        networks.load_state_dict(state, strict=False)
        if sum(facts["channels"]) != inputs or outputs != len(CLASSES):
            raise ValueError(f"{inputs} inputs and {outputs} classes")
        for name in ("blocks", "size", "timestep", "model", "training_images"):
            facts[name]
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: no segmenter of `cgddi fedd segmenter` ({error}). Train it again.") from error
    return Segmenter(networks.to(device).eval(), facts)


def centred(block_map: torch.Tensor) -> torch.Tensor:
    """A map less each channel's mean over the photo (variant `centre`), (C, h, w) float16.

    The mean carries what a photo is like as a whole, its tone of skin above all; what is left tells places apart. Upsampling acts
    on both alike, so the upsampled map less the mean is the same.
    """
    values = block_map.float()
    return (values - values.mean((1, 2), keepdim=True)).half()


def vote(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Majority vote and disagreement of the members.

    A tie goes to the tied class with the larger mean probability. Disagreement is the vote entropy (Dagan and Engelson 1995)
    over its largest value: H(share of votes per class) / log(min(members, classes)): 0 when all agree, 1 when votes are spread
    as evenly as they can be; 0 for one member.

    Args:
        logits: (P, E, classes).

    Returns:
        Class ids uint8 (P,) and disagreement float32 (P,).
    """
    members, classes = logits.shape[1:]
    votes = torch.zeros(logits.shape[0], classes, device=logits.device)
    votes.scatter_add_(1, logits.argmax(2), torch.ones(logits.shape[:2], device=logits.device))
    chosen = (votes + 0.5 * logits.softmax(2).mean(1)).argmax(1)
    most = math.log(min(members, classes)) or 1.0
    share = votes / members
    return chosen.to(torch.uint8).cpu(), (torch.special.entr(share).sum(1) / most).clamp(0, 1).cpu()
