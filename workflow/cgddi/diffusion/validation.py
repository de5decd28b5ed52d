"""Fixed-noise loss by tone: the same images, timesteps and noise every time, so that its change is the training's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cgddi.core.images import TONES
from cgddi.core.seeds import seed_for
from cgddi.diffusion.batches import Pool, Table, normal
from cgddi.diffusion.objective import Objective
from cgddi.diffusion.photos import Photo


def tone_losses(
    objective: Objective, table: Table, photos: Sequence[Photo], pool: Pool, per_tone: int, times: int
) -> Callable[[], dict[str, float]]:
    """A function that gives {"loss_light": ..., ...} over up to `per_tone` images of each tone present, at `times` timesteps each.

    The images are training photos: the loss shows what is learnt, not how it generalises.

    Args:
        objective: the loss in training (its weights apply).
        table: the latents.
        photos: the concept's photos.
        pool: their places in the table and their prompts, in the same order, and the seed of the fixed noise.
    """
    chosen = {tone: [i for i, p in enumerate(photos) if p.tone == tone][:per_tone] for tone in TONES}
    device, timesteps = table.mean.device, objective.backbone.rule.steps
    place, prompts = torch.from_numpy(pool.images).to(device), torch.from_numpy(pool.prompts[:, 0])

    def measure() -> dict[str, float]:
        found = {}
        for tone, images in chosen.items():
            if not images:
                continue
            image = torch.tensor([i for i in images for _ in range(times)], device=device)
            steps = torch.tensor(
                [(2 * t + 1) * timesteps // (2 * times) for t in range(times)] * len(images), device=device
            )
            noise = normal(seed_for(pool.seed, "validation", tone), (len(image), *table.mean.shape[2:])).to(device)
            prompt = prompts[image.cpu()].to(device)
            image = place[image]
            batch = {"latents": table.mean[image, 0], "noise": noise, "steps": steps, "prompt": prompt}
            if table.weights is not None:
                batch["weights"] = table.weights[image, 0]
            with torch.no_grad():
                each = objective.each(batch)
            found[f"loss_{tone}"] = float(each.mean())
        return found

    return measure
