"""Train the ensemble of pixel networks, all members at once, each on its own pixels and with its own best step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from tqdm import tqdm

from cgddi.core.errors import UserError
from cgddi.core.images import LESION, TONES
from cgddi.core.seeds import seed_for
from cgddi.fedd.networks import Networks, keep_better
from cgddi.fedd.pixels import ON_SKIN, Held, Pixels, held_pixels, skin_statistics
from cgddi.fedd.segmenter import vote
from cgddi.fedd.settings import SegmenterSettings

CLASSES = 5
CHUNK = 20
"""Steps whose pixels are gathered at once."""


@dataclass
class Fit:
    """A trained ensemble and how it went.

    Args:
        networks: in evaluation mode, each member at its best step.
        history: per check: step, loss (mean over members and tones), lesion_iou by tone, tone_weights.
        chosen_steps: best step of each member. steps: done in all.
    """

    networks: Networks
    history: list[dict[str, Any]] = field(default_factory=list)
    chosen_steps: list[int] = field(default_factory=list)
    steps: int = 0


def fit(train: Pixels, validation: Pixels, settings: SegmenterSettings, variant: str, seed_names: Sequence[Any]) -> Fit:
    """Train an ensemble.

    Every member has its own initial weights and pixels (seeds by name and member, so another number of members changes none).
    Each member keeps the weights of its lowest validation loss, of those before `patience` checks without a lower one.

    Variants: `plain`; `reweight`: pixels are drawn by tone with weights that grow while lesion IoU on validation photos is
    poor (group DRO, Sagawa et al. 2020, algorithm 1, with 1 - lesion IoU on held-out pixels as the group's loss); `augment`: the
    channel statistics of skin are exchanged between tones (MixStyle, Zhou et al. 2021, with tones as domains); `centre` differs
    from plain in the features alone, which are given less each photo's own mean.

    Args:
        train, validation: photos; nothing else is read.
        settings: of the segmenter.
        variant: plain, reweight, augment or centre.
        seed_names: project seed and names of the run, for `seed_for`.

    Raises:
        UserError: no lesion in any training mask, or the loss is not a number.
    """
    if not (train.truth == LESION).any():
        raise UserError("none of the training masks has a lesion (class 1). Look at masks.id_map and the masks.")
    device = train.truth.device
    networks = Networks(settings.ensemble, sum(m.shape[1] for m in train.maps), settings.hidden, CLASSES)
    generators = [
        torch.Generator().manual_seed(seed_for(*seed_names, "member", member)) for member in range(settings.ensemble)
    ]
    networks.draw(generators)
    networks.to(device).train()
    held = held_pixels(validation, settings.validation_pixels, seed_for(*seed_names[:1], "fedd validation pixels"))
    shift, scale = _standard(train, settings, seed_for(*seed_names, "standard"))
    held = Held((held.x - shift) / scale, held.y, held.tone, held.weight)
    source = _Draws(train, settings, variant, generators)
    optimizer = torch.optim.Adam(networks.parameters(), lr=settings.learning_rate, foreach=True)
    result = Fit(networks)
    best = {name: value.clone() for name, value in networks.state_dict().items()}
    lowest = torch.full((settings.ensemble,), torch.inf)
    chosen = torch.zeros(settings.ensemble, dtype=torch.long)
    wait = settings.patience * settings.check_every
    with tqdm(total=settings.steps, desc="segmenter", unit="step", mininterval=5) as bar:
        while result.steps < settings.steps and result.steps - chosen.max() < wait:
            until = min(result.steps + settings.check_every, settings.steps)
            while result.steps < until:
                count = min(CHUNK, until - result.steps)
                x, y = source.take(count)
                x = (x - shift) / scale
                for features, labels in zip(x, y, strict=True):
                    logits = networks(features)
                    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) * settings.ensemble
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                result.steps += count
                bar.update(count)
            losses, iou = check(networks, held)
            if not torch.isfinite(losses).all():
                raise UserError(
                    f"the segmenter's loss is not a number at step {result.steps}. Lower fedd.segmenter.learning_rate."
                )
            score = losses.max(1).values if variant == "reweight" else losses.mean(1)
            better = (score < lowest) & (result.steps - chosen <= wait)
            keep_better(best, networks, better.to(device))
            lowest, chosen[better] = torch.where(better, score, lowest), result.steps
            result.history.append(_line(result.steps, losses, iou, source.tone_weights))
            if variant == "reweight":
                source.reweigh(iou)
    networks.load_state_dict(best)
    networks.eval()
    networks.fold(shift, scale)
    result.chosen_steps = chosen.tolist()
    return result


class _Draws:
    """Training pixels of the members, in the order of each member's own generator."""

    def __init__(self, data: Pixels, settings: SegmenterSettings, variant: str, generators: list[torch.Generator]):
        self.data, self.settings, self.generators = data, settings, generators
        self.tone_weights = torch.bincount(data.tones.cpu(), minlength=len(TONES)) / len(data.tones)
        self.augment = variant == "augment"
        if self.augment:
            self.mean, self.deviation = skin_statistics(data)
            self.strangers = [(data.tones.cpu() != tone).nonzero()[:, 0] for tone in range(len(TONES))]

    def reweigh(self, iou: torch.Tensor) -> None:
        """Group DRO's exponentiated-gradient ascent on the tones' weights; a tone without lesion pixels counts as average."""
        loss = 1 - iou
        loss = torch.where(torch.isfinite(loss), loss, loss[torch.isfinite(loss)].mean())
        weights = self.tone_weights * torch.exp(self.settings.reweight_rate * loss)
        self.tone_weights = weights / weights.sum()

    def take(self, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (steps, batch, E, channels) and class ids (steps, batch, E)."""
        data, count, device = self.data, steps * self.settings.batch_pixels, self.data.truth.device
        tones = data.tones.cpu()
        chances = (self.tone_weights / torch.bincount(tones, minlength=len(TONES)).clamp_min(1))[tones]
        drawn = []
        for generator in self.generators:
            image = torch.multinomial(chances, count, replacement=True, generator=generator)
            places = torch.randint(data.size**2, (count,), generator=generator)
            drawn.append((image, places))
        image, place = (torch.stack(part, 1).flatten().to(device) for part in zip(*drawn, strict=True))
        x = data.features(image, place // data.size, place % data.size)
        y = data.truth.flatten(1)[image, place]
        if self.augment:
            x = self._exchange(x, y, image)
        shape = (steps, self.settings.batch_pixels, len(self.generators))
        return x.view(*shape, -1), y.view(shape)

    def _exchange(self, x: torch.Tensor, y: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Pixels on skin, with `augment_share` odds, as if the skin had statistics between its own and another tone's.

        x' = (x - m) / s * s' + m', where m', s' lie an even random share of the way from the photo's own mean and deviation to
        those of a photo of another tone (MixStyle, section 3.2, with Beta(1, 1)). Statistics commute with the bilinear upsampling.
        """
        per_member = len(x) // len(self.generators)
        draws = [torch.rand(3, per_member, generator=generator) for generator in self.generators]
        moved, partner, share = torch.stack(draws, 2).flatten(1).to(x.device)
        own = self.data.tones[image]
        other = torch.empty_like(image)
        for tone, strangers in enumerate(self.strangers):
            mine = own == tone
            if mine.any() and len(strangers):
                other[mine] = strangers.to(x.device)[(partner[mine] * len(strangers)).long()]
            else:
                other[mine] = image[mine]
        on_skin = torch.isin(y, torch.tensor(ON_SKIN, device=y.device))
        share = torch.where(on_skin & (moved < self.settings.augment_share), share, 0.0)[:, None]
        mean, deviation = self.mean[image], self.deviation[image]
        new_mean = torch.lerp(mean, self.mean[other], share)
        new_deviation = torch.lerp(deviation, self.deviation[other], share)
        return torch.where(share > 0, (x - mean) / deviation * new_deviation + new_mean, x)


@torch.no_grad()
def check(networks: Networks, held: Held) -> tuple[torch.Tensor, torch.Tensor]:
    """How the members do on held-out pixels.

    Returns:
        Cross-entropy per member and tone that has pixels (E, tones), and the lesion IoU of the vote by tone (3,), NaN where a tone
        has no lesion pixel in truth or prediction; both estimated for all pixels of the photos.
    """
    networks.eval()
    logits = torch.cat([networks.shared(part) for part in held.x.split(4096)])
    networks.train()
    members = logits.shape[1]
    loss = functional.cross_entropy(logits.flatten(0, 1), held.y.repeat_interleave(members), reduction="none").view(
        -1, members
    )
    predicted = vote(logits)[0].to(held.y.device)
    losses, iou = [], []
    for tone in range(len(TONES)):
        mine = held.tone == tone
        weight = held.weight[mine]
        truth, ours = held.y[mine] == LESION, predicted[mine] == LESION
        iou.append((weight * (truth & ours)).sum() / (weight * (truth | ours)).sum())
        if mine.any():
            losses.append((loss[mine] * weight[:, None]).sum(0) / weight.sum())
    return torch.stack(losses, 1).cpu(), torch.stack(iou).cpu()


def _standard(data: Pixels, settings: SegmenterSettings, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each channel over 4,096 training pixels; 0 and 1 when features are taken as they come."""
    channels, device = sum(block.shape[1] for block in data.maps), data.truth.device
    if not settings.standardise:
        return torch.zeros(channels, device=device), torch.ones(channels, device=device)
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(len(data.images), (4096,), generator=generator).to(device)
    place = torch.randint(data.size**2, (4096,), generator=generator).to(device)
    x = data.features(image, place // data.size, place % data.size)
    return x.mean(0), x.std(0).clamp_min(1e-4)


def _line(step: int, losses: torch.Tensor, iou: torch.Tensor, weights: torch.Tensor) -> dict[str, Any]:
    """One check for the record; undefined figures are null."""
    by_tone = {tone: round(v, 5) if v == v else None for tone, v in zip(TONES, iou.tolist(), strict=True)}
    tone_weights = {tone: round(v, 5) for tone, v in zip(TONES, weights.tolist(), strict=True)}
    return {"step": step, "loss": round(losses.mean().item(), 5), "lesion_iou": by_tone, "tone_weights": tone_weights}
