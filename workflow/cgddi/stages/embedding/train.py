"""Textual inversion of one concept: only the new rows of the token table are trained."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cgddi.core.archive import record_for, write_record
from cgddi.core.errors import UserError
from cgddi.core.labels import labels_of
from cgddi.core.seeds import seed_for
from cgddi.diffusion.backbone import Backbone, Prompts, load
from cgddi.diffusion.cache import Store
from cgddi.diffusion.data import ImageStream, TrainingData, caption, read_photos, training_facts
from cgddi.diffusion.log import TrainingLog, header, write_history
from cgddi.diffusion.sample import write_grid
from cgddi.diffusion.tokens import start_rows
from cgddi.diffusion.train import Trainer, new_accelerator, training_job
from cgddi.diffusion.weights import write_tensors
from cgddi.job.checkpoint import Checkpoint, exit_on_sigterm
from cgddi.job.store import Made, MadeStore
from cgddi.stages.embedding.settings import EmbeddingSettings

FILE = "learned_embeds.safetensors"


@dataclass(frozen=True)
class TokenJob:
    """What one token is made of and where it goes.

    Args:
        spec: concept {slug, name, token}, images (training ids), labels (their tones), model, settings, seed.
        photos: masks archives that hold the images.
    """

    spec: Mapping[str, Any]
    photos: Sequence[Path]
    output: Path


@exit_on_sigterm()
def train_token(
    job: TokenJob,
    state: Path | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    backbone: Backbone | None = None,
    logs: Path | None = None,
    used: MutableMapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a concept's token and write `learned_embeds.safetensors`, `record.json` and `metrics.jsonl`.

    Args:
        job: what and where.
        state, cache: folders of checkpoints and of latents.
        backbone: a loaded model of the same source without added tokens, else it is loaded.
        logs: name of the files that show the training (see `TrainingLog`).
        used: gets `steps`, how many were taken now; a resumed run took the others before.

    Returns:
        The record.

    Raises:
        UserError: bad settings, unreadable photos, a loss that is not a number, or a token that stayed where it started.
    """
    settings, key = training_job(EmbeddingSettings, job.spec)
    slug, token = job.spec["concept"]["slug"], job.spec["concept"]["token"]
    photos = read_photos(job.photos, job.spec["images"], labels_of(job.spec))
    accelerator = new_accelerator(settings, device, logs)
    backbone = backbone or load(job.spec["model"], accelerator.device, settings.precision)
    data_facts = training_facts(photos, settings)
    made_from = [*key, backbone.digest, data_facts]
    kept = MadeStore(cache, "embedding", made_from, backbone.device.type)
    if (made := kept.get()) is not None:
        if used is not None:
            used.update(steps=0, reused=1)
        return _write_made(job, made) if accelerator.is_main_process else {}

    pairs = zip(backbone.tokenizers, backbone.text_encoders, strict=True)
    start = [start_rows(tokenizer, encoder, settings.init_token, settings.vectors) for tokenizer, encoder in pairs]
    rows = [holder.rows for holder in backbone.add_token(token, start)]
    captions = [[caption(template, photo, settings, token) for template in settings.prompts] for photo in photos]
    count = settings.batch * settings.accumulation
    seed = seed_for(job.spec["seed"], "embedding", slug)
    stream = ImageStream(seed, photos, captions, settings.tone_exponent, count)
    parts = settings.accumulation * accelerator.num_processes
    data = TrainingData(backbone, Store(cache), [stream], settings, parts)
    checkpoint = Checkpoint(state, "embedding", made_from)
    log = TrainingLog(accelerator, logs)
    trainer = Trainer(
        accelerator,
        backbone,
        data,
        prompt_encoder(backbone, data.prompts),
        {f"rows.{number}": value for number, value in enumerate(rows)},
        settings,
        settings.lr,
        checkpoint,
        log,
        f"token {slug}",
        logs
        and (lambda step: write_grid(log.path(f"{step:06d}.png"), backbone, job.spec, settings, settings.prompts[0])),
    )
    history = trainer.run()
    log.close()
    if used is not None:
        used["steps"] = settings.steps - history.resumed_at
    learned = [value.detach().float().cpu() for value in rows]
    _check_moved(slug, learned, start, trainer.decay)
    if not accelerator.is_main_process:
        return {}
    tensors = {token: learned[0]} if len(learned) == 1 else {"clip_l": learned[0], "clip_g": learned[1]}
    facts = {"base_sha256": backbone.digest, "prompts": data.prompts}
    metadata = header(job.spec, data_facts, images=[[p.id, p.sha256] for p in photos], **facts)
    write_tensors(job.output / FILE, tensors, {"token": token, **metadata})
    write_history(job.output, history.lines)
    moved = [float(f"{float((a - b.cpu()).norm()):.6g}") for a, b in zip(learned, start, strict=True)]
    facts |= {"moved": moved}
    files = {name: (job.output / name).read_bytes() for name in (FILE, "metrics.jsonl")}
    record = _write_made(job, kept.put(files, facts))
    checkpoint.remove()
    return record


def prompt_encoder(backbone: Backbone, prompts: Sequence[str]) -> Callable[[torch.Tensor], Prompts]:
    """Prompt numbers (B,) -> encoded prompts, through which the token's rows get their gradients."""
    ids = backbone.tokenize(prompts)

    def encode(wanted: torch.Tensor) -> Prompts:
        if len(prompts) <= len(wanted):  # every prompt once, then looked up: cheaper than one per sample
            return backbone.encode_ids(ids)[wanted]
        return backbone.encode_ids([batch[wanted] for batch in ids])

    return encode


def _write_made(job: TokenJob, made: Made) -> dict[str, Any]:
    """Write a token's files and its record, and give that."""
    made.write(job.output)
    record = record_for(job.spec, job.photos, training_images=list(job.spec["images"]), **made.facts)
    write_record(job.output / "record.json", record, [job.output / FILE])
    return record


def _check_moved(slug: str, rows: Sequence[torch.Tensor], start: Sequence[torch.Tensor], decay: float) -> None:
    """Refuse rows that no gradient has moved: those that are their start times `decay`, up to rounding (1e-4 of their length; 500
    roundings of float32 make some 1e-6)."""
    for row, old in zip(rows, start, strict=True):
        if not torch.isfinite(row).all():
            raise UserError(f"concept {slug}: the learned token is not a finite number. Lower the learning rate.")
        old = decay * old.cpu()
        still = (row - old).norm(dim=1) <= 1e-4 * old.norm(dim=1)
        if still.any():
            which = ", ".join(str(n + 1) for n in still.nonzero().flatten().tolist())
            raise UserError(
                f"concept {slug}: the token is still its initial word after training (vector {which} of {len(row)}; weight decay "
                "aside). Raise learning_rate or steps."
            )
