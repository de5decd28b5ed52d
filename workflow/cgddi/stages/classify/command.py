"""Train one classifier on the images of a regime, read from the archives, and predict the split's test images.

Writes predictions.csv, weights.safetensors, record.json and start.safetensors: the weights from which a regime that starts from
this one goes on (no tensors where this one starts from another; where fine-tuning comes on top, weights.safetensors serves).
The run refuses an index that the leakage gate has not passed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgddi.core.archive import (
    DISTRIBUTIONS,
    canonical,
    csv_text,
    file_sha256,
    installed_versions,
    record_for,
    write_atomic,
    write_record,
)
from cgddi.core.errors import UserError
from cgddi.core.seeds import seed_for
from cgddi.job.command import stage_parser, state_option
from cgddi.job.imports import without_gc
from cgddi.job.launch import relaunched
from cgddi.job.spec import settings_of
from cgddi.stages.classify.settings import METHODS, ClassifySettings, Regime, Training, regime_of, training_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from cgddi.stages.classify.rows import Rows


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi classify`."""
    parser = stage_parser("classify", __doc__)
    parser.add_argument("--index", required=True, help="index of the split (.parquet)")
    parser.add_argument("--leakage", required=True, help="findings of the leakage gate for this index (.json)")
    parser.add_argument("--init", help="weights of the regime to start from (.safetensors)")
    parser.add_argument("--output-dir", required=True, help="folder to write to")
    state_option(parser)
    parser.add_argument(
        "--metrics", help="log of what the job used, NAME.metrics.jsonl; TensorBoard events go to NAME.tensorboard"
    )
    args = parser.parse_args(argv)
    settings, regime, method = settings_of(ClassifySettings, args.spec), regime_of(args.spec), args.spec["method"]
    if method not in METHODS:
        raise UserError(f"no classification method {method!r}; there are {', '.join(METHODS)}.")
    if (args.init is None) != (regime.init is None):
        what = f"starts from regime {regime.init}" if regime.init else "starts from no other regime"
        raise UserError(f"regime {regime.name} {what}: {'give' if regime.init else 'leave out'} --init.")
    leakage = read_leakage(args.leakage, args.index)
    if (status := relaunched("classify", argv, settings.num_processes)) is None:
        run(args.spec, settings, regime, leakage, args)
    return status or 0


def read_leakage(path: str, index: str) -> dict[str, Any]:
    """Findings of the leakage gate, which must be about this very index and have passed."""
    try:
        findings = json.loads(Path(path).read_text(encoding="ascii"))
        passed, audited = findings["passed"], set(findings["inputs"].values())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not the findings of `cgddi audit leakage` ({error}). Run the audit.") from error
    if file_sha256(index) not in audited:
        raise UserError(f"{path}: the leakage audit is of another index than {index}. Run the audit again.")
    if not passed:
        raise UserError(f"{path}: the leakage gate did not pass; no classifier is trained on this index.")
    return findings


def starting_regime(weights: str | Path, index: str | Path) -> Regime:
    """The regime that weights to start from were trained on, from the record beside them.

    Raises:
        UserError: there is no record, or the weights learnt from another index, whose training images may be tested on here.
    """
    path = Path(weights).with_name("record.json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        regime, inputs = regime_of(record["spec"]), set(record["inputs"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            f"{path}: cannot be read as the record of the weights to start from ({type(error).__name__}), so what they learnt "
            "from is unknown. Give --init the weights.safetensors of a `cgddi classify` run, with its record beside it."
        ) from error
    if file_sha256(index) not in inputs:
        raise UserError(
            f"{weights}: trained on another index than {index}, so test images may be among what it learnt from. Train that regime "
            "on this split."
        )
    return regime


def run(spec: dict[str, Any], settings: ClassifySettings, regime: Regime, leakage: dict[str, Any], args) -> None:
    """Train, predict and write one run (see the module's text)."""
    with without_gc():
        import pandas as pd
        import torch
        from safetensors.torch import save

        from cgddi.core.backbones import load_weights
        from cgddi.core.lineage import real_lineage
        from cgddi.job import runtime
        from cgddi.job.checkpoint import Checkpoint
        from cgddi.job.trackers import reporting
        from cgddi.stages.classify.data import Pictures
        from cgddi.stages.classify.methods import build
        from cgddi.stages.classify.rows import choose_rows
        from cgddi.stages.classify.train import predict, train

    method, run_seed, project_seed = spec["method"], int(spec["run_seed"]), int(spec.get("seed", 0))
    facts = {"split": spec["split"], "regime": regime.name, "method": method, "run_seed": run_seed}
    # PatchAlign's transport plans are exponentials of small differences.
    runtime.start(args.threads, tf32=method != "patchalign")
    accelerator = reporting(args.metrics, settings.precision)
    metrics = args.metrics if accelerator.is_main_process else None
    with runtime.usage_log(metrics, stage="classify", **facts) as usage:
        index = pd.read_parquet(args.index)
        rows = choose_rows(index, regime, settings, project_seed, spec.get("out_of_tone", False))
        learnt = real_lineage(rows.train)
        if args.init:
            start = starting_regime(args.init, args.index)
            learnt |= real_lineage(
                choose_rows(index, start, settings, project_seed, spec.get("out_of_tone", False)).train
            )
        concepts = sorted(set(rows.train["concept"]) - {"healthy"})
        seed = seed_for(project_seed, "classify", method, run_seed)
        torch.manual_seed(seed)
        model, model_facts = build(method, settings, len(rows.classes), concepts, pretrained=args.init is None)
        if args.init:
            load_weights(model, args.init, f"{method} with {len(rows.classes)} classes")
        test = Pictures(rows.test, settings, True, args.threads).load()
        key = [getattr(spec, "planned", spec), *(path and file_sha256(path) for path in (args.index, args.init))]
        checkpoint = Checkpoint(args.state, "classify", [*key, installed_versions(DISTRIBUTIONS)])
        state = train(accelerator, model, rows, regime, method, settings, seed, args.threads, checkpoint)
        probabilities = predict(accelerator, model, test, rows.test["image_id"].tolist())
        accelerator.end_training()
        usage.update(images=state.images, steps=state.steps, processes=accelerator.num_processes)
    if not accelerator.is_main_process:
        return
    out, training = Path(args.output_dir), training_of(settings, method)
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    # One entry only: safetensors writes several in an order that changes from run to run.
    metadata = {"cgddi": canonical({"method": method, "classes": list(rows.classes), "backbone": training.backbone})}
    real = index[index["kind"] == "real"]
    train_real = real[real["role"] == "train"]
    record = record_for(
        spec,
        [path for path in (args.index, args.leakage, args.init) if path],
        **facts,
        sources=list(regime.sources),
        init=regime.init,
        task=settings.task,
        classes=list(rows.classes),
        selection=settings.selection,
        leakage={
            "gate": leakage["gate"],
            "clean": leakage["clean"],
            "unknown_lineage": unknown_lineage(rows, args.init),
        },
        training=training.model_dump(),
        model=model_facts,
        counts=rows.counts(),
        left_out=rows.left_out,
        real_images={"used": len(rows.used_real), "beyond": len(learnt & rows.unused_real)},
        # Real images by concept in this split's training images and in all its images (the paper's rarity).
        concept_images={name: _sizes(part) for name, part in (("train", train_real), ("all", real))},
        # Learnt from (directly or through a generator) and tested on.
        cohorts={role: sorted(set(real[real["role"] == role]["cohort"])) for role in ("train", "test")},
        train_steps=train_steps(settings, training, len(rows.train), len(state.history), args.init),
        history=state.history,
        chosen_epoch=state.chosen_epoch,
    )
    write_atomic(out / "weights.safetensors", save(weights, metadata))
    start = {name: value.contiguous() for name, value in (state.start_weights or {}).items()}
    write_atomic(out / "start.safetensors", save(start, metadata))
    write_atomic(out / "predictions.csv", predictions_csv(rows, probabilities, settings.task))
    write_record(
        out / "record.json",
        record,
        [out / name for name in ("weights.safetensors", "predictions.csv", "start.safetensors")],
    )
    checkpoint.remove()


def unknown_lineage(rows: Rows, init: str | None) -> int:
    """Images of unknown lineage, which the config waives, that a run learnt from: itself, or by the weights it started from."""
    before = json.loads(Path(init).with_name("record.json").read_text(encoding="utf-8")) if init else {"leakage": {}}
    return int(rows.train["unknown"].sum()) + before["leakage"].get("unknown_lineage", 0)


def train_steps(
    settings: ClassifySettings, training: Training, images: int, epochs: int, init: str | None
) -> dict[str, int]:
    """Train steps of a run: its own, those of the weights it starts from, and those after which another may start from it."""
    from cgddi.stages.classify.train import epoch_images, turn

    per_epoch = -(-epoch_images(settings, training.batch_size, images) // training.batch_size)
    before = 0
    if init:
        steps = json.loads(Path(init).with_name("record.json").read_text(encoding="utf-8")).get("train_steps", {})
        before = steps.get("start" if settings.images_per_epoch else "all", 0)
    start = 0 if init else (turn(settings, training.epochs) or 0)
    return {"own": epochs * per_epoch, "all": before + epochs * per_epoch, "start": start * per_epoch}


def _sizes(rows: pd.DataFrame) -> dict[str, int]:
    return {name: int(n) for name, n in rows.groupby("concept").size().items()}


def predictions_csv(rows: Rows, probabilities: np.ndarray, task: str) -> str:
    """Predictions as csv, one line per test image, ordered by image.

    Columns image_id, cohort, probability, predicted. For malignancy, `probability` is that of malignant and `predicted` true or
    false (at one half). For other tasks `predicted` is a class, `probability` its own, and one column `p:<class>` per class is
    added. Where the index tells the test photos' labels there are also concept, tone and malignant, and for other tasks label.

    Args:
        rows: the run's rows. probabilities: (N, C) of `rows.test`.
    """
    told = ["concept", "tone", "malignant"] if "label" in rows.test else []
    columns = ["image_id", "cohort", *told, "probability", "predicted"]
    lines = []
    known = rows.test["malignant"].map({True: "true", False: "false"}).astype(object).fillna("")
    table = rows.test.assign(malignant=known).to_dict("records")
    for row, chances in zip(table, probabilities, strict=True):
        line = {name: row[name] for name in columns[:-2]}
        if task == "malignancy":
            line |= {"probability": f"{chances[1]:.6f}", "predicted": str(bool(chances[1] > 0.5)).lower()}
        else:
            best = int(chances.argmax())
            line |= {"probability": f"{chances[best]:.6f}", "predicted": rows.classes[best]}
            line |= {"label": rows.classes[row["label"]]} if told else {}
            line |= {f"p:{name}": f"{chance:.6f}" for name, chance in zip(rows.classes, chances, strict=True)}
        lines.append(line)
    if task != "malignancy":
        columns += [*(["label"] if told else []), *(f"p:{name}" for name in rows.classes)]
    return csv_text(columns, lines)
