"""Draw a concept's images on healthy canvases and write the archive; finished batches survive a kill."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cgddi.core.archive import DISTRIBUTIONS, ArchiveWriter, canonical, file_sha256, installed_versions, sha256
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.diffusion.adapters import apply, read_adapter
from cgddi.diffusion.backbone import Backbone, load
from cgddi.diffusion.cache import Store
from cgddi.diffusion.checkpoint import exit_on_sigterm
from cgddi.diffusion.data import read_canvases
from cgddi.diffusion.tokens import read_embedding
from cgddi.job.spec import need, settings_of
from cgddi.stages.semantic.draw import ConceptSampler, ResumeStore, choose_canvases, draws
from cgddi.stages.semantic.settings import SemanticSettings


@exit_on_sigterm()
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
    used: MutableMapping[str, Any] | None = None,
) -> int:
    """Draw a concept's images.

    Args:
        spec: concept, scope, canvas_cohort, malignant, model, settings, seed.
        canvases: archives of canvases.
        split: csv; canvases that are not role train are left out. None uses all.
        embedding, lora: the concept's token and adapter. `record.json` beside the adapter names its training images, or the
            adapter's own header; without either the images can be looked at, but the index refuses them.
        output: the archive to write.
        state, cache: folders of partial work and of latents.
        device: where to draw.
        backbone: a loaded model without this token, else it is loaded.
        used: gets `images`, how many were drawn now; the others were kept from an interrupted run.

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
    token, rows = read_embedding(embedding, concept["token"], backbone.digest)
    backbone.add_token(token, rows)
    todo = draws(photos, settings, seed, concept["slug"])
    facts = [
        dict(getattr(spec, "planned", spec)),
        backbone.digest,
        file_sha256(embedding),
        file_sha256(lora),
        [p.sha256 for p in photos],
    ]
    kept = ResumeStore(state, sha256(canonical([*facts, installed_versions(DISTRIBUTIONS)])))
    adapter = read_adapter(lora, backbone.digest)
    lineage = _trained_on(lora, adapter.metadata)
    applied = apply(backbone, adapter)
    try:
        images, drawn = ConceptSampler(backbone, Store(cache), settings, photos, token, concept["slug"]).run(todo, kept)
    finally:
        applied.remove()
    if used is not None:
        used["images"] = drawn
    prompts = {tone: settings.prompt.format(token=token, tone=tone) for tone in TONES}
    files = [*canvases, *([split] if split else []), embedding, lora]
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
            }
            archive.add(draw.key, {"png": png}, row)
    kept.remove()
    return len(todo)


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
