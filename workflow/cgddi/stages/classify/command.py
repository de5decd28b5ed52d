"""Train one classifier on the images of a regime, streamed from the archives, and predict the split's test images.

Writes predictions.csv, weights.safetensors and record.json. The run refuses an index that the leakage gate has not passed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cgddi.core.archive import canonical, file_sha256, record_for, write_atomic, write_record
from cgddi.core.errors import UserError
from cgddi.core.seeds import seed_for
from cgddi.job.command import stage_parser
from cgddi.job.imports import importing
from cgddi.job.spec import settings_of
from cgddi.stages.classify.settings import METHODS, ClassifySettings, Regime, training_of


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi classify`."""
    parser = stage_parser("classify", __doc__)
    parser.add_argument("--index", required=True, help="index of the split (.parquet)")
    parser.add_argument("--leakage", required=True, help="findings of the leakage gate for this index (.json)")
    parser.add_argument("--init", help="weights of the regime to start from (.safetensors)")
    parser.add_argument("--output-dir", required=True, help="folder to write to")
    parser.add_argument("--metrics", help="log of what the job used (JSON lines)")
    args = parser.parse_args(argv)
    settings, regime = read_settings(args.spec, args.init)
    leakage = read_leakage(args.leakage, args.index)
    run(args.spec, settings, regime, leakage, args)
    return 0


def read_settings(spec: dict[str, Any], init: str | None) -> tuple[ClassifySettings, Regime]:
    """Settings and regime of a job's spec (see `cgddi.stages.classify.reach.regime_of`)."""
    from cgddi.stages.classify.reach import regime_of

    settings = settings_of(ClassifySettings, spec)
    try:
        regime = regime_of(spec)
    except ValidationError as error:
        raise UserError(f"settings of stage classify: {error}") from error
    if spec["method"] not in METHODS:
        raise UserError(f"no classification method {spec['method']!r}; there are {', '.join(METHODS)}.")
    if (init is None) != (regime.init is None):
        what = f"starts from regime {regime.init}" if regime.init else "starts from no other regime"
        raise UserError(f"regime {regime.name} {what}: {'give' if regime.init else 'leave out'} --init.")
    return settings, regime


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


def run(spec: dict[str, Any], settings: ClassifySettings, regime: Regime, leakage: dict[str, Any], args) -> None:
    """Train, predict and write one run (see the module's text)."""
    with importing():
        import pandas as pd
        import torch
        from safetensors.torch import save

        from cgddi.core.backbones import load_weights
        from cgddi.job import runtime
        from cgddi.stages.classify.data import verify
        from cgddi.stages.classify.methods import build
        from cgddi.stages.classify.reach import reached, starting_regime
        from cgddi.stages.classify.results import predictions_csv
        from cgddi.stages.classify.rows import choose_rows
        from cgddi.stages.classify.train import predict, train

    method, run_seed = spec["method"], int(spec["run_seed"])
    facts = {"stage": "classify", "split": spec["split"], "regime": regime.name, "method": method, "run_seed": run_seed}
    with runtime.usage_log(args.metrics, **facts) as usage:
        device = runtime.start(args.threads)
        index = pd.read_parquet(args.index)
        rows = choose_rows(index, regime, settings, int(spec.get("seed", 0)))
        learnt = reached(rows.train)
        if args.init:
            start = starting_regime(args.init, args.index)
            learnt |= reached(choose_rows(index, start, settings, int(spec.get("seed", 0))).train)
        held = {"validation": rows.validation, "test": rows.test, "last": None}[settings.selection]
        concepts = sorted(set(rows.train["concept"]) - {"healthy"})
        seed = seed_for(int(spec.get("seed", 0)), "classify", method, run_seed)
        torch.manual_seed(seed)
        model, model_facts = build(method, settings, len(rows.classes), concepts, pretrained=args.init is None)
        if args.init:
            load_weights(model, args.init, f"{method} with {len(rows.classes)} classes")
        if settings.verify:
            verify(pd.concat([rows.train, rows.validation, rows.test]), args.threads)
        training = training_of(settings, method)
        fit = train(
            model,
            rows.train,
            held,
            method,
            settings,
            training,
            device,
            seed,
            regime.ratio,
            finetune=args.init is not None,
        )
        probabilities = predict(model, rows.test, settings, device, seed)
        usage.update(images=fit.images, steps=fit.steps)
    out = Path(args.output_dir)
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    # One entry only: safetensors writes several in an order that changes from run to run.
    metadata = {"cgddi": canonical({"method": method, "classes": list(rows.classes), "backbone": training.backbone})}
    record = record_for(
        spec,
        [path for path in (args.index, args.leakage, args.init) if path],
        **{name: value for name, value in facts.items() if name != "stage"},
        sources=list(regime.sources),
        init=regime.init,
        task=settings.task,
        classes=list(rows.classes),
        selection=settings.selection,
        leakage={"gate": leakage["gate"], "clean": leakage["clean"]},
        training=training.model_dump(),
        model=model_facts,
        counts=rows.counts(),
        left_out=rows.left_out,
        real_images={"used": len(rows.used_real), "beyond": len(learnt & rows.unused_real)},
        concept_images=concept_sizes(index),
        cohorts=real_cohorts(index),
        history=fit.history,
        chosen_epoch=fit.chosen_epoch,
    )
    write_atomic(out / "weights.safetensors", save(state, metadata))
    write_atomic(out / "predictions.csv", predictions_csv(rows, probabilities, settings.task))
    write_record(out / "record.json", record)


def real_cohorts(index) -> dict[str, list[str]]:
    """Cohorts of the split's real images: those learnt from (directly or through a generator) and those tested on."""
    real = index[index["kind"] == "real"]
    return {role: sorted(set(real[real["role"] == role]["cohort"])) for role in ("train", "test")}


def concept_sizes(index) -> dict[str, dict[str, int]]:
    """Real images by concept: `train` in this split, `all` in train, validation and test (the paper's rarity)."""
    real = index[index["kind"] == "real"]
    return {
        "train": {name: int(n) for name, n in real[real["role"] == "train"].groupby("concept").size().items()},
        "all": {name: int(n) for name, n in real.groupby("concept").size().items()},
    }
