"""Draw a concept's images on healthy canvases and write the archive; finished batches survive a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cgddi.artefacts import ArchiveWriter, canonical, file_sha256, installed_versions, sha256, write_atomic
from cgddi.diffusion import jobs
from cgddi.diffusion.adapters import apply, read_adapter
from cgddi.diffusion.backbone import Backbone, load
from cgddi.diffusion.cache import Store
from cgddi.diffusion.checkpoint import Terminated, Termination, leaving
from cgddi.diffusion.latents import Views, latents_of, prompts_of
from cgddi.diffusion.photos import Photo
from cgddi.diffusion.sampler import Sampler, SampleSettings, is_blank
from cgddi.diffusion.tokens import read_embedding
from cgddi.errors import UserError
from cgddi.images import TONES, encode_png
from cgddi.jobspec import need, settings_of
from cgddi.lora.data import read_canvases
from cgddi.semantic.plan import Draw, choose_canvases, draws, redraw_seed
from cgddi.semantic.settings import VERSIONS, SemanticSettings


@leaving()
def sample_concept(
    spec: Mapping[str, Any],
    canvases: Sequence[Path],
    split: Path | None,
    embedding: Path,
    lora: Path,
    output: Path,
    state: Path | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    backbone: Backbone | None = None,
) -> int:
    """Draw a concept's images.

    Args:
        spec: concept, scope, canvas_cohort, malignant, model, settings, seed.
        canvases: archives of canvases.
        split: csv; canvases that are not role train are left out. None uses all.
        embedding, lora: the concept's token and adapter; `record.json` beside the adapter names its training images.
        output: the archive to write.
        state, cache: folders of partial work and of latents.
        device: where to draw.
        backbone: a loaded model without this token, else it is loaded.

    Returns:
        The number of images written.

    Raises:
        UserError: no canvas is left, or an image stays black after all redraws.
    """
    settings = settings_of(SemanticSettings, spec)
    concept, scope, cohort, model, seed = need(spec, "concept", "scope", "canvas_cohort", "model", "seed")
    photos = choose_canvases(read_canvases(canvases, split), settings.max_canvases, seed, concept["slug"])
    if not photos:
        raise UserError(f"semantic {concept['slug']}: no canvas of role train in {', '.join(map(str, canvases))}.")
    record = json.loads((lora.parent / "record.json").read_text(encoding="ascii"))
    backbone = backbone or load(model, torch.device(device), settings.precision)
    token, rows = read_embedding(embedding, concept["token"])
    backbone.add_token(token, rows)
    todo = draws(photos, settings, seed, concept["slug"])
    facts = [dict(spec), backbone.digest, file_sha256(embedding), file_sha256(lora), [p.sha256 for p in photos]]
    partial = Partial(state, sha256(canonical([*facts, installed_versions(VERSIONS)])))
    applied = apply(backbone, read_adapter(lora))
    try:
        images = _Drawing(backbone, Store(cache), settings, photos, token, concept["slug"]).run(todo, partial)
    finally:
        applied.remove()
    tones = {tone: jobs.fill_prompt(settings.prompt, token, tone) for tone in TONES}
    files = [*canvases, *([split] if split else []), embedding, lora]
    with ArchiveWriter(output, spec, files) as archive:
        archive.facts = {
            "generator_images": record.get("training_images", []),
            "prior_images": record.get("prior_images", []),
            "base_sha256": backbone.digest,
            "redrawn": {d.key: images[d.key][1] for d in todo if images[d.key][1] != d.seed},
        }
        for draw in todo:
            png, used = images[draw.key]
            row = {
                "id": f"semantic/{scope}/{cohort}/{concept['slug']}/{draw.key}",
                "kind": "semantic",
                "cohort": cohort,
                "concept": concept["slug"],
                "tone": draw.tone,
                "malignant": spec.get("malignant"),
                "donor": None,
                "canvas": draw.canvas if settings.mode == "img2img" else None,
                "generator": f"{scope}/{concept['slug']}",
                "prompt": tones[draw.tone],
                "seed": used,
            }
            archive.add(draw.key, {"png": png}, row)
    partial.remove()
    return len(todo)


class Partial:
    """Finished images of an unfinished job: one PNG each, written atomically, in a folder named by all the job depends on."""

    def __init__(self, state: Path | None, key: str):
        self.folder = state / f"semantic-{key[:20]}" if state else None
        self.state = state

    def get(self, key: str) -> tuple[bytes, int] | None:
        """An image's PNG bytes and the seed that gave it."""
        found = list(self.folder.glob(f"{key}.*.png")) if self.folder and self.folder.is_dir() else []
        return (found[0].read_bytes(), int(found[0].name.split(".")[-2])) if found else None

    def put(self, key: str, png: bytes, seed: int) -> None:
        """Keep an image."""
        if self.folder:
            write_atomic(self.folder / f"{key}.{seed}.png", png, alone=False)

    def remove(self) -> None:
        """After success: remove this job's partial work and that of earlier settings."""
        for folder in self.state.glob("semantic-*") if self.state else []:
            for file in folder.glob("*"):
                file.unlink(missing_ok=True)
            folder.rmdir()


class _Drawing:
    """Draws a job's images batch by batch; PNGs are encoded on another thread while the next batch is denoised."""

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
        self.prompts = prompts_of(backbone, store, texts)
        self.sampler = Sampler(
            backbone, how, settings.image_size, settings.batch, backbone.empty_negative(settings.negative_prompt)
        )
        self.mean = self.std = None
        if settings.mode == "img2img":
            self.order = {photo.id: number for number, photo in enumerate(photos)}
            mean, std = latents_of(backbone, store, photos, settings.image_size, Views(flip=False))
            self.mean, self.std = mean[:, 0], std[:, 0]

    def run(self, todo: Sequence[Draw], partial: Partial) -> dict[str, tuple[bytes, int]]:
        """All images: key -> (PNG bytes, seed that gave it)."""
        images = {draw.key: kept for draw in todo if (kept := partial.get(draw.key))}
        size = self.settings.batch
        batches = [todo[start : start + size] for start in range(0, len(todo), size)]
        waiting: list[tuple[Draw, int, Future[bytes]]] = []
        with (
            Termination() as termination,
            ThreadPoolExecutor(2) as pool,
            tqdm(
                total=len(todo), initial=len(images), desc=f"semantic {self.slug}", unit="image", mininterval=2
            ) as bar,
        ):
            for batch in batches:
                if all(draw.key in images for draw in batch):
                    continue
                # A batch is drawn whole or not at all, so that its composition never depends on an interruption.
                made = self._draw(batch)
                self._keep(waiting, images, partial)
                waiting = [
                    (d, seed, pool.submit(encode_png, image.numpy()))
                    for d, (image, seed) in zip(batch, made, strict=True)
                ]
                bar.update(len(batch))
                if termination.asked:
                    self._keep(waiting, images, partial)
                    raise Terminated
            self._keep(waiting, images, partial)
        return images

    @staticmethod
    def _keep(
        waiting: list[tuple[Draw, int, Future[bytes]]], images: dict[str, tuple[bytes, int]], partial: Partial
    ) -> None:
        for draw, seed, png in waiting:
            images[draw.key] = (png.result(), seed)
            partial.put(draw.key, *images[draw.key])
        waiting.clear()

    def _draw(self, batch: Sequence[Draw]) -> list[tuple[torch.Tensor, int]]:
        """A batch's images (H, W, 3) uint8 on the CPU with their seeds; failed ones drawn again."""
        seeds = [draw.seed for draw in batch]
        images = list(self._images(batch, seeds))
        for attempt in range(1, self.settings.retries + 1):
            failed = [i for i, image in enumerate(images) if is_blank(image)]
            if not failed:
                break
            for i in failed:
                seeds[i] = redraw_seed(batch[i], attempt)
            again = self._images([batch[i] for i in failed], [seeds[i] for i in failed])
            for i, image in zip(failed, again, strict=True):
                images[i] = image
        failed = [batch[i].key for i, image in enumerate(images) if is_blank(image)]
        if failed:
            raise UserError(
                f"semantic {self.slug}: {len(failed)} image(s) stay black after {self.settings.retries} redraws: "
                f"{', '.join(failed[:5])}. Use precision fp32 or bf16, a lower guidance, or look at the adapter's samples.png."
            )
        return list(zip(images, seeds, strict=True))

    def _images(self, batch: Sequence[Draw], seeds: Sequence[int]) -> torch.Tensor:
        prompts = self.prompts[[TONES.index(draw.tone) for draw in batch]]
        if self.mean is None:
            return self.sampler.draw(prompts, seeds, None, None).cpu()
        rows = [self.order[draw.canvas] for draw in batch]
        return self.sampler.draw(prompts, seeds, self.mean[rows], self.std[rows]).cpu()
