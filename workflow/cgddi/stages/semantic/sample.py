"""Draw a concept's images on healthy canvases, in three tones, check them, draw again what fails, and write the archive."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cgddi.core.archive import ArchiveWriter, file_sha256
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.diffusion import weights
from cgddi.diffusion.adapters import apply, read_adapter
from cgddi.diffusion.backbone import Backbone, load
from cgddi.diffusion.cache import Store
from cgddi.diffusion.data import Photo, read_canvases
from cgddi.diffusion.tokens import read_embedding, table_of
from cgddi.job.checkpoint import exit_on_sigterm
from cgddi.job.spec import need, settings_of
from cgddi.job.store import MadeStore
from cgddi.stages.semantic.check import Checker, Verdict, counts
from cgddi.stages.semantic.draws import SampleSpec, choose_canvases, draws
from cgddi.stages.semantic.sampler import ConceptSampler, Image
from cgddi.stages.semantic.settings import SemanticSettings


@dataclass(frozen=True)
class SemanticJob:
    """What a concept's images are made of and where they go.

    Args:
        spec: concept, scope, canvas_cohort, malignant, model, settings, seed; of a given adapter also `adapter` (see
            `weights.given_files`), with what it learnt from.
        canvases: archives of canvases.
        split: csv; canvases that are not role train are left out. None uses all.
        embedding, lora: the concept's token and adapter. `record.json` beside the adapter names its training images, or the
            adapter's own header; without either the images can be looked at, but the index refuses them. A given adapter may
            have no token (None), and its lineage is the spec's.
        output: the archive to write.
        calibration: limits of the check (stage calibration); None checks nothing.
        photos: archives that hold the adapter's training photos, for the check.
    """

    spec: Mapping[str, Any]
    canvases: Sequence[Path]
    split: Path | None
    embedding: Path | None
    lora: Path
    output: Path
    calibration: Path | None = None
    photos: Sequence[Path] = ()


@exit_on_sigterm()
def sample_concept(
    job: SemanticJob,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    backbone: Backbone | None = None,
    used: MutableMapping[str, Any] | None = None,
) -> int:
    """Draw a concept's images.

    Args:
        job: what and where.
        cache: folder of latents, and of every image that was drawn: a killed job goes on, and other limits draw nothing twice.
        device: where to draw.
        backbone: a loaded model without this token, else it is loaded where something is to be drawn.
        used: gets `images` and `reused`, how many were drawn now and how many before.

    Returns:
        The number of images in the archive.

    Raises:
        UserError: no canvas is left, or an image stays black after all redraws.
    """
    settings = settings_of(SemanticSettings, job.spec)
    concept, seed = need(job.spec, "concept", "seed", "scope", "canvas_cohort", "model")[:2]
    photos = choose_canvases(read_canvases(job.canvases, job.split), settings.max_canvases, seed, concept["slug"])
    if not photos:
        raise UserError(f"semantic {concept['slug']}: no canvas of role train in {', '.join(map(str, job.canvases))}.")
    drawing = _Drawing(job, settings, photos, cache, device, backbone)
    ready, generator = job.spec.get("adapter"), f"{job.spec['scope']}/{concept['slug']}"
    lineage = _declared(ready, generator) if ready else _trained_on(job.lora, drawing.adapter.metadata)
    checker = None
    if settings.check and job.calibration:
        checker = Checker(job.calibration, job.photos, lineage.get("generator_images", []), photos, settings.image_size)
    todo = draws(photos, settings, seed, concept["slug"])
    try:
        results = draw_until_passed(todo, settings.redraws if checker else 0, drawing.run, checker)
    finally:
        drawing.close()
    if used is not None:
        used.update(images=drawing.kept.computed, reused=drawing.kept.reused)
    _write(job, settings, results, drawing, lineage, checker)
    return len(results)


@dataclass
class Result:
    """A draw, its image and what the check said of it."""

    draw: SampleSpec
    image: Image
    verdict: Verdict | None = None


def draw_until_passed(todo: Sequence[SampleSpec], redraws: int, run, checker: Checker | None) -> list[Result]:
    """Draw all, and again what fails the check, at most `redraws` times each; every draw, in the order of `todo`, then of attempts.

    Args:
        todo: first draws.
        redraws: most further draws of one of them.
        run: draws -> images by key.
        checker: the check; None passes all.
    """
    found: dict[str, list[Result]] = {draw.key: [] for draw in todo}
    open_ = [(first, first) for first in todo]
    for attempt in range(redraws + 1):
        images = run([draw for _, draw in open_])
        for first, draw in open_:
            verdict = checker.look(draw, images[draw.key][0]) if checker else None
            found[first.key].append(Result(draw, images[draw.key], verdict))
        failed = [first for first, _ in open_ if checker and found[first.key][-1].verdict.faults]
        open_ = [(first, first.again(attempt + 1)) for first in failed]
        if not open_:
            break
    return [result for results in found.values() for result in results]


class _Drawing:
    """Draws images of one job; the model is loaded when the first is asked for that no earlier run has drawn."""

    def __init__(
        self, job, settings: SemanticSettings, photos: Sequence[Photo], cache, device, backbone: Backbone | None
    ):
        self.job, self.settings, self.photos = job, settings, photos
        self.cache, self._given = cache, backbone
        self.device = backbone.device if backbone else torch.device(device)
        self._applied = None
        self.digest = backbone.digest if backbone else weights.model_digest(job.spec["model"])
        self.token = job.spec["concept"]["token"] if job.embedding else job.spec["adapter"]["words"]
        self.adapter = read_adapter(job.lora, self.digest)

    @cached_property
    def kept(self) -> MadeStore:
        """What was drawn before, by all that makes it."""
        spec, files = (
            self.job.spec,
            [self.job.embedding and file_sha256(self.job.embedding), file_sha256(self.job.lora)],
        )
        how = self.settings.model_dump(mode="json", exclude=WHICH)
        given = getattr(spec, "planned", spec).get("adapter")
        made_from = [spec.get("revision"), how, self.token, self.digest, *files, given]
        return MadeStore(self.cache, "semantic", made_from, self.device.type)

    def run(self, todo: Sequence[SampleSpec]) -> dict[str, Image]:
        """Images by key; those that were not made before are drawn."""
        canvas = {photo.id: photo.sha256 for photo in self.photos}
        images = {
            draw.key: (made.files["png"], made.facts["seed"])
            for draw in todo
            if (made := self.kept.get(draw.made_from(canvas[draw.canvas]))) is not None
        }
        left = [draw for draw in todo if draw.key not in images]
        return images | self._sampler.run(left, self.kept) if left else images

    @cached_property
    def _sampler(self) -> ConceptSampler:
        backbone = self._given or load(self.job.spec["model"], self.device, self.settings.precision)
        if self.job.embedding:  # a given token's file may call it what it likes: it gets the concept's name here
            widths = [table_of(encoder).weight.shape[1] for encoder in backbone.text_encoders]
            given = "adapter" in self.job.spec
            _, rows = read_embedding(self.job.embedding, self.token, self.digest, widths, rename=given)
            backbone.add_token(self.token, rows)
        self._applied = apply(backbone, self.adapter)
        slug = self.job.spec["concept"]["slug"]
        return ConceptSampler(backbone, Store(self.cache), self.settings, self.photos, self.token, slug)

    def close(self) -> None:
        """Leave a model that was given as it was."""
        if self._applied:
            self._applied.remove()


WHICH = {"repeats", "per_tone", "max_canvases", "canvas_tones", "check", "redraws"}
"""Settings that say which images are drawn; the others decide an image."""


def _write(job, settings: SemanticSettings, results, drawing: _Drawing, lineage, checker: Checker | None) -> None:
    """The archive: every draw, those that failed too; `used` in a row says which the index takes."""
    concept, scope, cohort = need(job.spec, "concept", "scope", "canvas_cohort")
    prompts = {tone: settings.prompt.format(token=drawing.token, tone=tone) for tone in TONES}
    files = [*job.canvases, *filter(None, (job.split, job.embedding)), job.lora]
    ready = job.spec.get("adapter")
    unknown = {"unknown": ["generator"]} if ready and ready["learnt_from"] is None else {}
    with ArchiveWriter(job.output, job.spec, [*files, *([job.calibration] if checker else [])]) as archive:
        archive.facts = {
            **lineage,
            "base_sha256": drawing.digest,
            "redrawn": {r.draw.key: r.image[1] for r in results if r.image[1] != r.draw.seed},
            **({"check": counts(results)} if checker else {}),
        }
        for result in results:
            draw, (png, seed) = result.draw, result.image
            row = {
                "id": f"semantic/{scope}/{cohort}/{concept['slug']}/{draw.key}",
                "kind": "semantic",
                "cohort": cohort,
                "concept": concept["slug"],
                "tone": draw.tone,
                "malignant": job.spec.get("malignant"),
                "donor": None,
                "canvas": draw.canvas,
                "generator": f"{scope}/{concept['slug']}",
                "prompt": prompts[draw.tone],
                "seed": seed,
                **unknown,
            }
            if result.verdict:
                row |= {
                    "used": not result.verdict.faults,
                    "faults": result.verdict.faults,
                    "scores": result.verdict.scores,
                }
            archive.add(draw.key, {"png": png}, row)


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
