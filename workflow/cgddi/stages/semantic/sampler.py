"""The drawing, batch by batch: a GPU has its next batch before the last one's pixels are waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from tqdm import tqdm

from cgddi.core.errors import UserError
from cgddi.core.images import TONES, encode_png
from cgddi.diffusion.backbone import Backbone, Prompts
from cgddi.diffusion.cache import Store
from cgddi.diffusion.data import Photo, latents_of, prompts_of
from cgddi.diffusion.sample import PendingImages, Sampler, SampleSettings, is_blank
from cgddi.job.checkpoint import Terminated, Termination
from cgddi.job.store import MadeStore
from cgddi.stages.semantic.draws import SampleSpec, redraw_seed
from cgddi.stages.semantic.settings import SemanticSettings

Image = tuple[bytes, int]
"""PNG bytes, and the seed that gave them."""


class ConceptSampler:
    """Draws images with one adapter.

    Args:
        backbone: the model, adapter and token in place.
        cache: of latents and prompts.
        settings: how to draw.
        photos: the canvases.
        token: the concept's.
        slug: its name, for messages.
    """

    def __init__(
        self,
        backbone: Backbone,
        cache: Store,
        settings: SemanticSettings,
        photos: Sequence[Photo],
        token: str,
        slug: str,
    ):
        self.settings, self.slug = settings, slug
        how = SampleSettings(
            settings.sampler,
            settings.steps,
            settings.strength,
            settings.guidance,
            settings.guidance_rescale,
        )
        texts = [settings.prompt.format(token=token, tone=tone) for tone in TONES]
        self.prompts = prompts_of(backbone, cache, texts).to("cpu")
        away = [backbone.empty_negative(settings.negative_prompt.format(tone=tone)) for tone in TONES]
        self.negatives = Prompts.cat(away).to("cpu")
        self.sampler = Sampler(backbone, how, settings.image_size, settings.batch, away[0])
        self.order = {photo.id: number for number, photo in enumerate(photos)}
        mean, std = latents_of(backbone, cache, photos, settings.image_size, mirrored=False)
        self.mean, self.std = mean[:, 0], std[:, 0]
        self.canvas = {photo.id: photo.sha256 for photo in photos}

    def run(self, todo: Sequence[SampleSpec], kept: MadeStore) -> dict[str, Image]:
        """Draw images; by key.

        Raises:
            UserError: an image stays black after all redraws.
            Terminated: SIGTERM came; what was drawn is kept.
        """
        images: dict[str, Image] = {}
        # An image is the same whatever else is in its batch, as batches are filled up to one size.
        size = self.settings.batch
        batches = [todo[start : start + size] for start in range(0, len(todo), size)]
        in_flight: deque[tuple[Sequence[SampleSpec], PendingImages]] = deque()
        storing: deque[list[tuple[SampleSpec, Future[Image]]]] = deque()
        with (
            Termination() as termination,
            ThreadPoolExecutor(2) as pool,
            tqdm(total=len(todo), desc=f"semantic {self.slug}", unit="image", mininterval=2) as bar,
        ):

            def collect() -> None:
                """Take in the oldest batch; threads encode and keep its images, the batch before is done with that."""
                batch, pending = in_flight.popleft()
                made = self._look(batch, pending)
                storing.append([(draw, pool.submit(self._keep, kept, draw, *one)) for draw, one in made])
                if len(storing) > 1:
                    images.update({draw.key: image.result() for draw, image in storing.popleft()})
                bar.update(len(batch))

            for batch in batches:
                in_flight.append((batch, self._launch(batch, [draw.seed for draw in batch])))
                while in_flight and (len(in_flight) > 1 or in_flight[0][1].ready()):  # on a CPU they are always here
                    collect()
                if termination.asked:
                    break
            while in_flight:
                collect()
            for batch in storing:
                images.update({draw.key: image.result() for draw, image in batch})
            if termination.asked:
                raise Terminated
        return images

    def _keep(self, kept: MadeStore, draw: SampleSpec, pixels: torch.Tensor, seed: int) -> Image:
        png = encode_png(pixels.numpy())
        kept.put({"png": png}, {"seed": seed}, draw.made_from(self.canvas[draw.canvas]))
        return png, seed

    def _look(
        self, batch: Sequence[SampleSpec], pending: PendingImages
    ) -> list[tuple[SampleSpec, tuple[torch.Tensor, int]]]:
        """A batch's images (H, W, 3) uint8 with their seeds; failed ones drawn again."""
        seeds, images = [draw.seed for draw in batch], list(pending.wait())
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

    def _launch(self, batch: Sequence[SampleSpec], seeds: Sequence[int]) -> PendingImages:
        tones = [TONES.index(draw.tone) for draw in batch]
        rows = [self.order[draw.canvas] for draw in batch]
        prompts, away = self.prompts[tones], self.negatives[tones]
        return PendingImages(self.sampler.draw(prompts, seeds, self.mean[rows], self.std[rows], away))
