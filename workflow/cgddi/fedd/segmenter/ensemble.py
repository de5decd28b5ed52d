"""Ensembles of small networks, all members in one batched product, and the trained segmenter that votes on masks with one."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cgddi.core.archive import canonical
from cgddi.core.errors import UserError
from cgddi.core.images import CLASSES
from cgddi.diffusion.weights import read_tensors, write_tensors
from cgddi.fedd.segmenter import lowres
from cgddi.job.checkpoint import generator_states, restore_generators, restore_optimizer
from cgddi.job.gpu import send

STRIP = 24
"""Rows of a mask that are computed at once: bounds memory at about 40 MB for 256 px and five members."""


class EnsembleLinear(nn.Module):
    """A linear layer of each member: weight (E, out, in), bias (E, out), initialised as nn.Linear is."""

    def __init__(self, members: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(members, outputs))

    @torch.no_grad()
    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Draw each member's weights with its own generator: uniform in +-1/sqrt(inputs), as nn.Linear's default."""
        bound = 1 / math.sqrt(self.weight.shape[2])
        for weight, bias, generator in zip(self.weight, self.bias, generators, strict=True):
            weight.uniform_(-bound, bound, generator=generator)
            bias.uniform_(-bound, bound, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(P, E, in) -> (P, E, out)."""
        return torch.baddbmm(self.bias[:, None], x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1)


class EnsembleMLP(nn.Module):
    """E networks inputs-h1-ReLU-BN-h2-ReLU-BN-outputs (FEDD, section 2.1; DatasetDDPM, Baranchuk et al. 2022, section 4).

    Batch normalisation acts on each channel alone, so one BatchNorm1d over the members' joined channels is that of each member.

    Args:
        members: E. inputs: width of a sample's feature vector. hidden: h1 and h2. outputs: classes.
        dropout: after each batch normalisation (the probe's), in training.
    """

    def __init__(
        self, members: int, inputs: int, hidden: tuple[int, int], outputs: int, dropout: tuple[float, float] = (0, 0)
    ):
        super().__init__()
        self.members, self.dropout = members, dropout
        self.generators: Sequence[torch.Generator] = []
        self.first = EnsembleLinear(members, inputs, hidden[0])
        self.norm1 = nn.BatchNorm1d(members * hidden[0])
        self.second = EnsembleLinear(members, hidden[0], hidden[1])
        self.norm2 = nn.BatchNorm1d(members * hidden[1])
        self.last = EnsembleLinear(members, hidden[1], outputs)

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Initial weights, each member's from its own generator (E of them), which its dropout then goes on with."""
        self.generators = generators
        for layer in (self.first, self.second, self.last):
            layer.draw(generators)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (P, E, outputs) of P samples per member, x (P, E, inputs); members do not see each other's."""
        return self.rest(self.first(x))

    def shared(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (P, E, outputs) of samples that all members see, x (P, inputs)."""
        first = functional.linear(x, self.first.weight.flatten(0, 1), self.first.bias.flatten())
        return self.rest(first.view(len(x), self.members, -1))

    def rest(self, x: torch.Tensor) -> torch.Tensor:
        """All after the first linear layer: (P, E, h1) -> (P, E, outputs)."""
        hidden = self._activated(x, self.norm1, self.dropout[0])
        return self.last(self._activated(self.second(hidden), self.norm2, self.dropout[1]))

    def _activated(self, x: torch.Tensor, norm: nn.BatchNorm1d, rate: float) -> torch.Tensor:
        y = norm(functional.relu(x).flatten(1)).view(x.shape)
        if not (rate and self.training):
            return y
        kept = [torch.rand(len(x), x.shape[2], generator=generator) >= rate for generator in self.generators]
        return y * (send(torch.stack(kept, 1), y.device).to(y) / (1 - rate))

    @torch.no_grad()
    def fold(self, shift: torch.Tensor, scale: torch.Tensor) -> None:
        """Put a standardisation (x - shift) / scale, (E, inputs), into the first layer, so that it reads features as stored."""
        self.first.weight /= scale[:, None]
        self.first.bias -= torch.bmm(self.first.weight, shift[..., None])[..., 0]


class BestStates:
    """The state of each member at its lowest validation loss, of those before `patience` steps without a lower one."""

    def __init__(self, model: EnsembleMLP, patience: int):
        self.model, self.patience = model, patience
        self.states = {name: value.clone() for name, value in model.state_dict().items()}
        self.lowest = torch.full((model.members,), torch.inf)
        self.chosen = torch.zeros(model.members, dtype=torch.long)

    def look(self, step: int, losses: torch.Tensor) -> None:
        """Keep the members whose loss (E,) at this step is their lowest."""
        better = (losses < self.lowest) & (step - self.chosen <= self.patience)
        self.lowest, self.chosen[better] = torch.where(better, losses, self.lowest), step
        if not better.any():
            return
        chosen = send(better, self.model.last.bias.device)[:, None]
        for name, value in self.model.state_dict().items():
            if value.ndim:  # the batch norms' counter of batches is of no use
                kept, new = (t.view(self.model.members, -1) for t in (self.states[name], value))
                torch.where(chosen, new, kept, out=kept)  # a mask as an index would have to be read back

    def stop(self, step: int) -> bool:
        """Whether no member can find a lower loss any more."""
        return step - int(self.chosen.max()) >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {name: getattr(self, name) for name in ("states", "lowest", "chosen")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.lowest, self.chosen = state["lowest"], state["chosen"]
        self.states = {name: value.to(self.states[name].device) for name, value in state["states"].items()}

    def restore(self) -> None:
        """Give each member its best state, and leave the model in evaluation mode."""
        self.model.load_state_dict(self.states)
        self.model.eval()


class EnsembleTraining:
    """An ensemble in training: its networks, their optimizer, generators and best states, which a killed run goes on from."""

    def __init__(
        self,
        networks: EnsembleMLP,
        generators: Sequence[torch.Generator],
        optimizer: torch.optim.Optimizer,
        patience: int,
    ):
        self.networks, self.generators, self.optimizer = networks, generators, optimizer
        self.best = BestStates(networks, patience)

    def step(self, loss: torch.Tensor) -> None:
        """One optimizer step on the mean loss over members, times their number: each goes as if it were alone."""
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.networks.members).backward()
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        parts = {name: getattr(self, name).state_dict() for name in ("networks", "optimizer", "best")}
        return {**parts, "generators": generator_states(self.generators)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.networks.load_state_dict(state["networks"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.best.load_state_dict(state["best"])
        restore_generators(self.generators, state["generators"])


@dataclass
class Segmenter:
    """Networks, and the features they were trained on.

    Args:
        networks: the ensemble, in evaluation mode.
        facts: blocks (decoder blocks, in order), channels (of each), size (side of the masks), timestep, model (content hash of
            the backbone), training_images, variant, and what else the run wants to keep; JSON values.
    """

    networks: EnsembleMLP
    facts: dict[str, Any]

    @property
    def blocks(self) -> list[int]:
        """Decoder blocks whose maps `predict` wants."""
        return list(self.facts["blocks"])

    @property
    def training_images(self) -> list[str]:
        """Ids of the photos it was trained on."""
        return list(self.facts["training_images"])

    @torch.inference_mode()
    def predict(self, maps: Mapping[int, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Mask of one photo.

        Args:
            maps: block -> native map (C, h, w) of any floating type; those of `blocks`.

        Returns:
            Class ids, uint8 (size, size), and the members' disagreement, float32 (size, size) in 0..1 (see `vote`); both numpy.
        """
        channels = [maps[block].shape[0] for block in self.blocks]
        if channels != self.facts["channels"]:
            raise UserError(
                f"features of {channels} channels; the segmenter takes {self.facts['channels']}. Train it again."
            )
        centre = self.facts.get("variant") == "centre"
        chosen = [centred(maps[block]) if centre else maps[block] for block in self.blocks]
        stacked = [block_map.to(self.networks.first.weight)[None] for block_map in chosen]
        size, first = self.facts["size"], self.networks.first
        weight, bias = first.weight.flatten(0, 1), first.bias.flatten()
        mask = torch.empty(size, size, dtype=torch.uint8, device=weight.device)
        uncertainty = torch.empty(size, size, device=weight.device)
        for rows, hidden in lowres.strips(weight, bias, stacked, size, STRIP):
            height = hidden.shape[2]
            pixels = hidden[0].permute(1, 2, 0).reshape(height * size, self.networks.members, -1)
            mask[rows], uncertainty[rows] = (part.view(height, size) for part in vote(self.networks.rest(pixels)))
        return mask.cpu().numpy(), uncertainty.cpu().numpy()

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
        networks = EnsembleMLP(members, inputs, (width, state["second.weight"].shape[1]), len(CLASSES))
        networks.load_state_dict(state, strict=False)
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
    votes = functional.one_hot(logits.argmax(2), classes).sum(1).float()
    chosen = (votes + 0.5 * logits.softmax(2).mean(1)).argmax(1)
    most = math.log(min(members, classes)) or 1.0
    share = votes / members
    return chosen.to(torch.uint8), (torch.special.entr(share).sum(1) / most).clamp(0, 1)
