"""Draw a concept's images on healthy canvases, in three tones, and write the archive.

First the job as a whole; then what it draws (canvas x tone x repeat, each with its own seed), how finished images survive a kill,
and the drawing batch by batch: a GPU has its next batch before the last one's pixels are waited for.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cgddi.core.archive import ArchiveWriter, file_sha256
from cgddi.core.errors import UserError
from cgddi.core.images import TONES, encode_png
from cgddi.core.seeds import seed_for
from cgddi.diffusion.adapters import apply, read_adapter
from cgddi.diffusion.backbone import Backbone, load
from cgddi.diffusion.cache import Store
from cgddi.diffusion.data import Photo, latents_of, prompts_of, read_canvases
from cgddi.diffusion.sample import PendingImages, Sampler, SampleSettings, is_blank
from cgddi.diffusion.tokens import read_embedding, table_of
from cgddi.job.checkpoint import Terminated, Termination, exit_on_sigterm
from cgddi.job.spec import need, settings_of
from cgddi.job.store import MadeStore
from cgddi.stages.semantic.settings import SemanticSettings


@exit_on_sigterm()
def sample_concept(
    spec: Mapping[str, Any],
    canvases: Sequence[Path],
    split: Path | None,
    embedding: Path | None,
    lora: Path,
    output: Path,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    backbone: Backbone | None = None,
    used: MutableMapping[str, Any] | None = None,
) -> int:
    """Draw a concept's images.

    Args:
        spec: concept, scope, canvas_cohort, malignant, model, settings, seed; of a given adapter also `adapter` (see
            `weights.given_files`), with what it learnt from.
        canvases: archives of canvases.
        split: csv; canvases that are not role train are left out. None uses all.
        embedding, lora: the concept's token and adapter. `record.json` beside the adapter names its training images, or the
            adapter's own header; without either the images can be looked at, but the index refuses them. A given adapter may
            have no token (None), and its lineage is the spec's.
        output: the archive to write.
        cache: folder of latents, and of every image that was drawn: a killed job goes on, and a corrected canvas costs its own.
        device: where to draw.
        backbone: a loaded model without this token, else it is loaded.
        used: gets `images` and `reused`, how many were drawn now and how many before.

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
    backbone = backbone or load(model, torch.device(device), settings.precision)
    ready = spec.get("adapter")
    token = _token(backbone, embedding, concept["token"], ready)
    todo = draws(photos, settings, seed, concept["slug"])
    how = settings.model_dump(mode="json", exclude={"repeats", "per_tone", "max_canvases"})
    files = [embedding and file_sha256(embedding), file_sha256(lora)]
    made_from = [
        spec.get("revision"),
        how,
        token,
        backbone.digest,
        *files,
        getattr(spec, "planned", spec).get("adapter"),
    ]
    kept = MadeStore(cache, "semantic", made_from, backbone.device.type)
    adapter = read_adapter(lora, backbone.digest)
    lineage = _declared(ready, f"{scope}/{concept['slug']}") if ready else _trained_on(lora, adapter.metadata)
    applied = apply(backbone, adapter)
    try:
        images = ConceptSampler(backbone, Store(cache), settings, photos, token, concept["slug"]).run(todo, kept)
    finally:
        applied.remove()
    if used is not None:
        used.update(images=kept.computed, reused=kept.reused)
    prompts = {tone: settings.prompt.format(token=token, tone=tone) for tone in TONES}
    files = [*canvases, *filter(None, (split, embedding)), lora]
    unknown = {"unknown": ["generator"]} if ready and ready["learnt_from"] is None else {}
    with ArchiveWriter(output, spec, files) as archive:
        archive.facts = {
            **lineage,
            "base_sha256": backbone.digest,
            "redrawn": {d.key: images[d.key][1] for d in todo if images[d.key][1] != d.seed},
        }
        for draw in todo:
            png, drawn_with = images[draw.key]
            row = {
                "id": f"semantic/{scope}/{cohort}/{concept['slug']}/{draw.key}",
                "kind": "semantic",
                "cohort": cohort,
                "concept": concept["slug"],
                "tone": draw.tone,
                "malignant": spec.get("malignant"),
                "donor": None,
                "canvas": draw.canvas,
                "generator": f"{scope}/{concept['slug']}",
                "prompt": prompts[draw.tone],
                "seed": drawn_with,
                **unknown,
            }
            archive.add(draw.key, {"png": png}, row)
    return len(todo)


def _token(backbone: Backbone, embedding: Path | None, token: str, ready: Mapping[str, Any] | None) -> str:
    """What stands for the concept in prompts, after its learnt token was added to the model.

    A given token's file may call it what it likes: it gets the concept's name here.
    """
    if embedding is None:
        return ready["words"]
    widths = [table_of(encoder).weight.shape[1] for encoder in backbone.text_encoders]
    _, rows = read_embedding(embedding, token, backbone.digest, widths, rename=ready is not None)
    backbone.add_token(token, rows)
    return token


def _declared(ready: Mapping[str, Any], generator: str) -> dict[str, list[str]]:
    """What the config says that a given adapter learnt from."""
    if ready["learnt_from"] is None:
        return {"unknown_generators": [generator]}
    return {"generator_images": ready["learnt_from"], "prior_images": []}


def _trained_on(lora: Path, header: Mapping[str, str]) -> dict[str, list[str]]:
    """Ids of the real images and of the canvases an adapter was trained on, by their names in an archive's record; nothing where
    neither the record beside it nor its header says so.

    Raises:
        UserError: the record is no JSON object.
    """
    path = lora.parent / "record.json"
    record = {}
    if path.is_file():
        try:
            record = dict(json.loads(path.read_bytes()))
        except ValueError as error:
            raise UserError(
                f"{path}: is no record ({error}). Delete {path.parent} and run the workflow again."
            ) from error
    for name, ours in (("training_images", "cgddi.images"), ("prior_images", "cgddi.priors")):
        if name not in record and ours in header:
            record[name] = [image for image, *_ in json.loads(header[ours])]
    if "training_images" not in record:
        line = f"{lora}: says nowhere which images it was trained on, so a split's index will refuse what it draws"
        tqdm.write(line, file=sys.stderr)
        return {}
    return {"generator_images": record["training_images"], "prior_images": record.get("prior_images", [])}


@dataclass(frozen=True)
class SampleSpec:
    """One image to draw.

    Args:
        key: `<canvas>-<tone>-<repeat>`.
        canvas: the canvas' image id.
        tone: the requested tone.
        repeat: 0-based.
        seed: from the names of all of these.
    """

    key: str
    canvas: str
    tone: str
    repeat: int
    seed: int


def choose_canvases(canvases: Sequence[Photo], limit: int | None, seed: int, concept: str) -> list[Photo]:
    """At most `limit` canvases, taken in turn from the tones in an order fixed by the names, then sorted by id."""
    if limit is None or limit >= len(canvases):
        return sorted(canvases, key=lambda photo: photo.id)
    ranked = {
        tone: sorted(
            (p for p in canvases if p.tone == tone), key=lambda p: seed_for(seed, "semantic-canvas", concept, p.id)
        )
        for tone in TONES
    }
    turns = max(map(len, ranked.values()))
    in_turn = [ranked[tone][turn] for turn in range(turns) for tone in TONES if turn < len(ranked[tone])]
    return sorted(in_turn[:limit], key=lambda photo: photo.id)


def draws(canvases: Sequence[Photo], settings: SemanticSettings, seed: int, concept: str) -> list[SampleSpec]:
    """All images of a job, sorted by canvas, tone and repeat; at most `per_tone` per tone, chosen by the images' own seeds."""
    chosen = []
    for tone in TONES:
        of_tone = [
            SampleSpec(f"{p.id}-{tone}-{r}", p.id, tone, r, seed_for(seed, "semantic", concept, p.id, tone, r))
            for p in canvases
            for r in range(settings.repeats)
        ]
        chosen += sorted(of_tone, key=lambda draw: draw.seed)[: settings.per_tone]
    return sorted(chosen, key=lambda draw: (draw.canvas, TONES.index(draw.tone), draw.repeat))


def redraw_seed(draw: SampleSpec, attempt: int) -> int:
    """The seed of a further attempt at an image that failed."""
    return seed_for(draw.seed, "redraw", attempt)


Image = tuple[bytes, int]
"""PNG bytes, and the seed that gave them."""


class ConceptSampler:
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
            settings.strength,
            settings.guidance,
            settings.guidance_rescale,
        )
        texts = [settings.prompt.format(token=token, tone=tone) for tone in TONES]
        self.prompts = prompts_of(backbone, store, texts).to("cpu")
        self.sampler = Sampler(
            backbone, how, settings.image_size, settings.batch, backbone.empty_negative(settings.negative_prompt)
        )
        self.order = {photo.id: number for number, photo in enumerate(photos)}
        self.canvas = {photo.id: photo.sha256 for photo in photos}
        mean, std = latents_of(backbone, store, photos, settings.image_size, mirrored=False)
        self.mean, self.std = mean[:, 0], std[:, 0]

    def run(self, todo: Sequence[SampleSpec], kept: MadeStore) -> dict[str, Image]:
        """All images by key; those that were not made before are drawn.

        Raises:
            UserError: an image stays black after all redraws.
            Terminated: SIGTERM came; what was drawn is kept.
        """
        images = {
            draw.key: (made.files["png"], made.facts["seed"])
            for draw in todo
            if (made := kept.get(self._item(draw))) is not None
        }
        # An image is the same whatever else is in its batch, as batches are filled up to one size.
        left, size = [draw for draw in todo if draw.key not in images], self.settings.batch
        batches = [left[start : start + size] for start in range(0, len(left), size)]
        in_flight: deque[tuple[Sequence[SampleSpec], PendingImages]] = deque()
        storing: deque[list[tuple[SampleSpec, Future[Image]]]] = deque()
        with (
            Termination() as termination,
            ThreadPoolExecutor(2) as pool,
            tqdm(
                total=len(todo), initial=len(images), desc=f"semantic {self.slug}", unit="image", mininterval=2
            ) as bar,
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

    def _item(self, draw: SampleSpec) -> list[Any]:
        """What one image depends on, beside what all of a job do."""
        return [self.canvas[draw.canvas], draw.tone, draw.seed]

    def _keep(self, kept: MadeStore, draw: SampleSpec, pixels: torch.Tensor, seed: int) -> Image:
        png = encode_png(pixels.numpy())
        kept.put({"png": png}, {"seed": seed}, self._item(draw))
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
        prompts = self.prompts[[TONES.index(draw.tone) for draw in batch]]
        rows = [self.order[draw.canvas] for draw in batch]
        return PendingImages(self.sampler.draw(prompts, seeds, self.mean[rows], self.std[rows]))
