"""Draw a job's images batch by batch: a GPU has its next batch before the last one's pixels are waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from tqdm import tqdm

from cgddi.core.errors import UserError
from cgddi.core.images import TONES, encode_png
from cgddi.diffusion import jobs
from cgddi.diffusion.backbone import Backbone
from cgddi.diffusion.cache import Store
from cgddi.diffusion.checkpoint import Terminated, Termination
from cgddi.diffusion.latents import Views, latents_of, prompts_of
from cgddi.diffusion.photos import Photo
from cgddi.diffusion.sampler import Arriving, Sampler, SampleSettings, is_blank
from cgddi.stages.semantic.partial import Partial
from cgddi.stages.semantic.plan import Draw, redraw_seed
from cgddi.stages.semantic.settings import SemanticSettings

Image = tuple[bytes, int]
"""PNG bytes, and the seed that gave them."""


class Drawing:
    """Draws images with one adapter.

    Args:
        backbone: the model, adapter and token in place.
        store: cache of latents and prompts.
        settings: how to draw.
        photos: the canvases.
        token: the concept's.
        slug: its name, for messages.
    """

    def __init__(
        self,
        backbone: Backbone,
        store: Store,
        settings: SemanticSettings,
        photos: Sequence[Photo],
        token: str,
        slug: str,
    ):
        self.settings, self.slug = settings, slug
        how = SampleSettings(
            settings.sampler,
            settings.steps,
            settings.strength if settings.mode == "img2img" else None,
            settings.guidance,
            settings.guidance_rescale,
        )
        texts = [jobs.fill_prompt(settings.prompt, token, tone) for tone in TONES]
        self.prompts = prompts_of(backbone, store, texts).to("cpu")
        self.sampler = Sampler(
            backbone, how, settings.image_size, settings.batch, backbone.empty_negative(settings.negative_prompt)
        )
        self.mean = self.std = None
        if settings.mode == "img2img":
            self.order = {photo.id: number for number, photo in enumerate(photos)}
            mean, std = latents_of(backbone, store, photos, settings.image_size, Views(flip=False))
            self.mean, self.std = mean[:, 0], std[:, 0]

    def run(self, todo: Sequence[Draw], partial: Partial) -> tuple[dict[str, Image], int]:
        """All images by key, and how many of them were drawn now.

        Raises:
            UserError: an image stays black after all redraws.
            Terminated: SIGTERM came; what was drawn is kept in `partial`.
        """
        images = {draw.key: kept for draw in todo if (kept := partial.get(draw.key))}
        size = self.settings.batch
        batches = [todo[start : start + size] for start in range(0, len(todo), size)]
        # A batch is drawn whole or not at all, so that its composition never depends on an interruption.
        batches = [batch for batch in batches if any(draw.key not in images for draw in batch)]
        drawn = sum(map(len, batches))
        flying: deque[tuple[Sequence[Draw], Arriving]] = deque()
        storing: deque[list[tuple[Draw, Future[Image]]]] = deque()
        with (
            Termination() as termination,
            ThreadPoolExecutor(2) as pool,
            tqdm(
                total=len(todo), initial=len(todo) - drawn, desc=f"semantic {self.slug}", unit="image", mininterval=2
            ) as bar,
        ):

            def land() -> None:
                """Take in the oldest batch; threads encode and keep its images, the batch before is done with that."""
                batch, arriving = flying.popleft()
                made = self._look(batch, arriving)
                storing.append([(draw, pool.submit(_keep, partial, draw, *one)) for draw, one in made])
                if len(storing) > 1:
                    images.update({draw.key: image.result() for draw, image in storing.popleft()})
                bar.update(len(batch))

            for batch in batches:
                flying.append((batch, self._launch(batch, [draw.seed for draw in batch])))
                while flying and (len(flying) > 1 or flying[0][1].here()):  # on a CPU they are always here
                    land()
                if termination.asked:
                    break
            while flying:
                land()
            for batch in storing:
                images.update({draw.key: image.result() for draw, image in batch})
            if termination.asked:
                raise Terminated
        return images, drawn

    def _look(self, batch: Sequence[Draw], arriving: Arriving) -> list[tuple[Draw, tuple[torch.Tensor, int]]]:
        """A batch's images (H, W, 3) uint8 with their seeds; failed ones drawn again."""
        seeds, images = [draw.seed for draw in batch], list(arriving.wait())
        for attempt in range(1, self.settings.retries + 1):
            failed = [i for i, image in enumerate(images) if is_blank(image)]
            if not failed:
                break
            for i in failed:
                seeds[i] = redraw_seed(batch[i], attempt)
            again = self._launch([batch[i] for i in failed], [seeds[i] for i in failed]).wait()
            for i, image in zip(failed, again, strict=True):
                images[i] = image
        failed = [batch[i].key for i, image in enumerate(images) if is_blank(image)]
        if failed:
            raise UserError(
                f"semantic {self.slug}: {len(failed)} image(s) stay black after {self.settings.retries} redraws: "
                f"{', '.join(failed[:5])}. Use precision fp32 or bf16, a lower guidance, or look at the adapter's samples.png."
            )
        return list(zip(batch, zip(images, seeds, strict=True), strict=True))

    def _launch(self, batch: Sequence[Draw], seeds: Sequence[int]) -> Arriving:
        prompts = self.prompts[[TONES.index(draw.tone) for draw in batch]]
        rows = None if self.mean is None else [self.order[draw.canvas] for draw in batch]
        canvases = (None, None) if rows is None else (self.mean[rows], self.std[rows])
        return Arriving(self.sampler.draw(prompts, seeds, *canvases))


def _keep(partial: Partial, draw: Draw, pixels: torch.Tensor, seed: int) -> Image:
    png = encode_png(pixels.numpy())
    partial.put(draw.key, png, seed)
    return png, seed
