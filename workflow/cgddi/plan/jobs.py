"""The plan as a list of jobs with their results and what each is made from: what `status` and `cost` look at. Light."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cgddi.fedd.worklist import STUDY
from cgddi.plan.plan import Plan

CHAIN = ("masks", "healthy", "lesion_mapped", "embedding", "lora", "semantic")
"""Stages that work on one concept, in the order of the work."""
GPU_STAGES = (
    *("fedd_features", "fedd_segmenter", "fedd_baseline", "masks"),
    *("healthy", "embedding", "lora", "semantic", "audit", "classify"),
)
"""Stages that take a GPU, in the order of the work (of the audits `quality` does, of the masks those by SAM 3)."""


@dataclass(frozen=True)
class Job:
    """One job.

    Args:
        stage: its rule.
        name: what it is about, e.g. a batch, a donor, a concept.
        outputs: its files; the first is its result, by which others need it.
        record: the JSON beside the result that holds the spec it was made from; None where there is none.
        spec: the spec it would be made from now, canonical JSON.
        needs: results of the jobs it reads.
        concept: slug of the concept it works for; None for a pooled job.
        amount: size of the work in the stage's unit (steps or images), as far as the plan knows it.
        unit: "steps", "images" or "jobs".
        on_cpu: whether it takes no GPU although others of its stage do.
    """

    stage: str
    name: str
    outputs: tuple[str, ...]
    record: str | None
    spec: str
    needs: tuple[str, ...] = ()
    concept: str | None = None
    amount: int = 1
    unit: str = "jobs"
    on_cpu: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether it takes a GPU."""
        return self.stage in GPU_STAGES and not self.on_cpu


def _archive(base: str) -> tuple[str, ...]:
    return (f"{base}.jsonl", f"{base}.tar", f"{base}.json")


def all_jobs(plan: Plan) -> list[Job]:
    """Every job of `rule all` that makes a result, upstream before downstream. The split files and review page are left out."""
    return [*_fedd(plan), *_photos(plan), *_generators(plan), *_measures(plan)]


def _fedd(plan: Plan) -> Iterator[Job]:
    """Jobs of the FEDD study, where the config asks for it, or those of them that automatic masks need."""
    fedd, study = plan.fedd, plan.config.fedd.study
    if not (study or fedd.mask_cohorts):
        return
    batches = [(fedd.cohort, timestep, STUDY) for timestep in (fedd.timesteps if study else [fedd.timestep])]
    batches += [(cohort, fedd.timestep, batch) for cohort, batch in fedd.own_features]
    for cohort, timestep, batch in batches:
        files = (fedd.features(timestep, cohort, batch),)
        record = files[0].replace(".safetensors", ".json")
        yield Job(
            "fedd_features", f"{cohort} {batch}, timestep {timestep}", (*files, record), record,
            fedd.features_spec(cohort, timestep, batch),
            amount=len(fedd.features_photos(cohort, batch)), unit="images",
        )  # fmt: skip
    main = (fedd.features(fedd.timestep),)
    for chosen in dict.fromkeys(
        [*(fedd.segmenters if study else []), *([fedd.masks_from] if fedd.mask_cohorts else [])]
    ):
        folder = fedd.segmenter(chosen)
        names = ("weights.safetensors", "test.csv", "validation.csv", "pictures.safetensors", "record.json")
        name = f"{chosen.variant}, subset {chosen.subset}, seed {chosen.seed}"
        files = tuple(f"{folder}/{file}" for file in names)
        yield Job("fedd_segmenter", name, files, files[-1], fedd.segmenter_spec(chosen), main)
    if not study:
        return
    for subset, timestep in fedd.probes:
        files = tuple(f"{fedd.probe(subset, timestep)}/{file}" for file in ("predictions.csv", "record.json"))
        needs = (fedd.features(timestep),)
        yield Job("fedd_probe", f"subset {subset}, timestep {timestep}", files, files[-1],
                  fedd.probe_spec(subset, timestep), needs)  # fmt: skip
    for chosen in fedd.baselines:
        measures = "test.csv" if chosen.task == "segmentation" else "predictions.csv"
        files = tuple(f"{fedd.baseline(chosen)}/{file}" for file in ("weights.safetensors", measures, "record.json"))
        name = f"{chosen.task} by {chosen.network}, subset {chosen.subset}, seed {chosen.seed}"
        yield Job("fedd_baseline", name, files, files[-1], fedd.baseline_spec(chosen))
    record = f"{plan.config.results}/fedd/tables/summary.json"
    measured = ("predictions.csv", "weights.safetensors")
    needs = (*main, *(f"{folder}/{measured['/probe/' not in folder]}" for folder in fedd.runs))
    yield Job("fedd_tables", "tables", (record,), record, fedd.tables_spec(), needs)


def _photos(plan: Plan) -> Iterator[Job]:
    root = plan.config.results
    for cohort, batches in plan.batches.items():
        for batch, photos in batches.items():
            files = _archive(f"{root}/masks/{cohort}/{batch}")
            spec, source = plan.masks_spec(cohort, batch), plan.masks_settings(cohort).source
            needs = ()
            if source == "fedd":
                weights = f"{plan.fedd.segmenter(plan.fedd.masks_from)}/weights.safetensors"
                needs = (weights, *plan.fedd.mask_features(cohort, batch))
            yield Job(
                "masks", f"{cohort} {batch}", files, files[2], spec, needs,
                concept=photos[0].concept, amount=len(photos), unit="images", on_cpu=source != "sam3",
            )  # fmt: skip
    for cohort, batches in plan.healthy_batches.items():
        for batch, images in batches.items():
            files = _archive(f"{root}/healthy/{cohort}/{batch}")
            needs = (f"{root}/masks/{cohort}/{batch}.jsonl",)
            concept = batch.rsplit(".", 1)[0]
            spec = plan.healthy_spec(cohort, batch)
            yield Job("healthy", f"{cohort} {batch}", files, files[2], spec, needs, concept, len(images), "images")
        files = _archive(f"{root}/canvases/{cohort}")
        needs = tuple(f"{root}/healthy/{cohort}/{batch}.jsonl" for batch in batches)
        yield Job("canvases", cohort, files, files[2], plan.canvases_spec(cohort), needs)
    for cohort, donor in plan.pairs:
        files = _archive(f"{root}/lesion_mapped/{cohort}/{donor.image_id}")
        needs = (
            f"{root}/masks/{donor.cohort}/{plan.batch_of[donor.image_id]}.jsonl",
            f"{root}/canvases/{cohort}.jsonl",
        )
        spec = plan.lesion_mapped_spec(cohort, donor.image_id)
        yield Job("lesion_mapped", f"{donor.image_id} onto {cohort}", files, files[2], spec, needs, donor.concept)


def _generators(plan: Plan) -> Iterator[Job]:
    root, config = plan.config.results, plan.config

    def photos(stage: str, scope: str, concept: str) -> tuple[str, ...]:
        chosen = plan.generator_photos(stage, scope, concept)
        return tuple(sorted({f"{root}/masks/{p.cohort}/{plan.batch_of[p.image_id]}.jsonl" for p in chosen}))

    priors = tuple(f"{root}/canvases/{cohort}.jsonl" for cohort in plan.canvas_cohorts[:1])
    for scope, concept in plan.adapters:
        token = f"{root}/embedding/{scope}/{concept}/learned_embeds.safetensors"
        adapter = f"{root}/lora/{scope}/{concept}/pytorch_lora_weights.safetensors"
        for stage, weights, needs, extra, steps in (
            ("embedding", token, photos("embedding", scope, concept), (), config.embedding.steps),
            ("lora", adapter, (*photos("lora", scope, concept), *priors, token), ("samples.png",), config.lora.steps),
        ):
            folder = weights.rsplit("/", 1)[0]
            record = f"{folder}/record.json"
            files = (weights, *(f"{folder}/{name}" for name in extra), record)
            spec = plan.generator_spec(stage, scope, concept)
            yield Job(stage, f"{concept} ({scope})", files, record, spec, needs, concept, steps, "steps")
    amounts = {pair: _samples(plan, *pair) for pair in {(scope, cohort) for scope, cohort, _ in plan.samples}}
    for scope, cohort, concept in plan.samples:
        files = _archive(f"{root}/semantic/{scope}/{cohort}/{concept}")
        needs = (
            f"{root}/canvases/{cohort}.jsonl",
            f"{root}/embedding/{scope}/{concept}/learned_embeds.safetensors",
            f"{root}/lora/{scope}/{concept}/pytorch_lora_weights.safetensors",
        )
        spec = plan.semantic_spec(scope, cohort, concept)
        amount = amounts[scope, cohort]
        yield Job(
            "semantic", f"{concept} on {cohort} ({scope})", files, files[2], spec, needs, concept, amount, "images"
        )


def _samples(plan: Plan, scope: str, cohort: str) -> int:
    """Images of a semantic job, if review keeps every canvas."""
    settings = plan.config.semantic
    roles = plan.roles.get(scope)
    canvases = sum(1 for p in plan.masked(cohort) if roles is None or roles.get(p.image_id) == "train")
    if settings.max_canvases is not None:
        canvases = min(canvases, settings.max_canvases)
    per_tone = canvases * settings.repeats
    if settings.per_tone is not None:
        per_tone = min(per_tone, settings.per_tone)
    return 3 * per_tone


def _measures(plan: Plan) -> Iterator[Job]:
    root, config = plan.config.results, plan.config
    audits, predictions = [], []
    for split in config.splits:
        scope = plan.scope_of(split)
        table = f"{root}/index/{split}.parquet"
        needs = (
            *(f"{root}/masks/{c}/{batch}.jsonl" for c in plan.split_cohorts(split) for batch in plan.batches[c]),
            *(f"{root}/healthy/{c}/{batch}.jsonl" for c, batches in plan.healthy_batches.items() for batch in batches),
            *(f"{root}/lesion_mapped/{c}/{donor.image_id}.jsonl" for c, donor in plan.pairs),
            *(f"{root}/semantic/{s}/{c}/{concept}.jsonl" for s, c, concept in plan.samples if s == scope),
        )
        record = f"{root}/index/{split}.json"
        yield Job("index", split, (table, record), record, plan.index_spec(split), needs)
        for kind in ("leakage", "quality", "tone", "memorisation"):
            report = f"{root}/audit/{split}/{kind}.json"
            audits.append(report)
            spec = plan.spec("audit", kind=kind, split=split)
            yield Job("audit", f"{kind} ({split})", (report,), report, spec, (table,), on_cpu=kind != "quality")
        for regime in plan.regimes:
            start = config.regime(regime).init
            for method in config.runs.methods:
                for seed in config.runs.seeds:
                    folder = f"{root}/classify/{split}/{regime}/{method}/{seed}"
                    files = tuple(
                        f"{folder}/{name}" for name in ("predictions.csv", "weights.safetensors", "record.json")
                    )
                    first = f"{root}/classify/{split}/{start}/{method}/{seed}/predictions.csv"
                    needs = (table, f"{root}/audit/{split}/leakage.json", *((first,) if start else ()))
                    spec = plan.classify_spec(split, regime, method, seed)
                    yield Job("classify", f"{method} on {regime}, seed {seed} ({split})", files, files[2], spec, needs)
                    predictions += [files[0]] if regime in config.runs.regimes else []
    summary = f"{root}/fairness/summary.json"
    yield Job("fairness", "tables", (summary,), summary, plan.spec("fairness"), tuple(predictions))
    page = f"{root}/report/index.html"
    study = (f"{root}/fedd/tables/summary.json",) if config.fedd.study else ()
    yield Job("report", "page", (page,), None, plan.report_spec(), (summary, *audits, *study))
