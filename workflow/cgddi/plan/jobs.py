"""The jobs: what each is made from and which files it reads, from the config and the sheets alone. Light: read at every parse."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from cgddi.core.archive import canonical, sha256
from cgddi.core.errors import InvalidInput
from cgddi.fedd.plan import FeddPlan
from cgddi.ingest.names import UNKNOWN
from cgddi.plan import given
from cgddi.plan.checked import Checked, Reading
from cgddi.plan.code import PACKAGE
from cgddi.plan.config import Config, Model
from cgddi.plan.content import Contents, spec_hash
from cgddi.plan.labels import LabelledPhotos
from cgddi.plan.paths import RESULTS
from cgddi.plan.power import count_photos, power_note
from cgddi.plan.sheets import Photo
from cgddi.plan.specs import STAGES, Files, Job, SpecFiles, revision, stage_package
from cgddi.stages.audit.settings import hub_file
from cgddi.stages.classify.settings import LADDER
from cgddi.stages.masks.settings import Sam3Settings

KINDS = ("leakage", "quality", "tone", "memorisation")
HELD_OUT = ("validation", "test")
REMEDY = "Write it with `cgddi audit convert`, or name `owner/name/file.safetensors` on the hub."


class Plan(LabelledPhotos):
    """All jobs of one configuration.

    Args:
        config: the checked configuration.
        main: whether this process steers the run: it alone writes specs and remembers digests.

    Raises:
        InvalidInput: the sheets, the review file or the config's names have problems; all of them at once.
    """

    def __init__(self, config: Config, main: bool = False):
        config = config.model_copy(update={"results": results_of(config)})
        super().__init__(config)
        self.contents = contents_of(config.results, main)
        self.specs = SpecFiles(config.results, self.contents, main)
        self.fedd = FeddPlan(self)
        if problems := self.fedd.why_impossible():
            raise InvalidInput(problems)
        _ = self.verdicts  # a mistake in it is told now
        self._sections: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        if main:
            self._look_into_photos()
        self._jobs: dict[tuple[str, tuple[str, ...]], Job] = {}

    def _look_into_photos(self) -> None:
        """Refuse what `cgddi check` refused, of photos and masks as they are now, and masks whose values are no classes.

        Raises:
            InvalidInput: all of it.
        """
        from cgddi.ingest.mask_values import check_values

        settings = {name: self.masks_settings(name) for name in self.by_cohort}
        readings = {name: Reading(masks.id_map, masks.size, masks.crop) for name, masks in settings.items()}
        human = {
            name: readings[name] for name, masks in settings.items() if masks.source == "human" or masks.prefer_human
        }
        problems = check_values(self.photos, human, self.config.images, False)
        checked, read = Checked(self.contents), [(photo, readings[photo.cohort]) for photo in self.photos]
        self._unseen = len(read)
        if checked.path.exists():
            self._read_photos()
            problems += checked.problems(read, self.config.images)
            self._unseen = checked.unseen(read)
        if problems:
            raise InvalidInput(problems)

    # ---- specs -------------------------------------------------------------------------------------

    def spec(self, stage: str, settings: Any = None, **facts: Any) -> dict[str, Any]:
        """A job's spec: its stage's REVISION, its settings, the rows it depends on, its seed."""
        deciding, neutral = self._section(stage) if settings is None else self.contents.settings(settings)
        if neutral:
            self.specs.neutral[spec_hash(deciding)] = neutral
        return {
            "stage": stage,
            "revision": revision(stage, facts.get("job")),
            "settings": deciding,
            "seed": self.config.seed,
            **facts,
        }

    def _section(self, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """A stage's section of the config, as (what decides a result, what does not)."""
        if stage not in self._sections:
            settings = getattr(self.config, stage, None)
            self._sections[stage] = self.contents.settings(settings) if settings else ({}, {})
        return self._sections[stage]

    def model(self, model: Model) -> dict[str, Any]:
        """What stands for a model in a spec (see `Contents.model`)."""
        return self.contents.model(model.source, model.revision, model.variant)

    def photo(self, photo: Photo, mask: str | None = None) -> dict[str, Any]:
        """Id and content of a photo, and of the mask given, for a spec."""
        self._read_photos()
        return {
            "image_id": photo.image_id,
            "file": self.contents.file(photo.file),
            "mask": self.contents.file(mask) if mask else None,
        }

    def _read_photos(self) -> None:
        """Read all photos and masks at once, before the first of them is asked for."""
        if not self.__dict__.setdefault("_photos_read", False):
            self._photos_read = True
            self.contents.read_all(path for p in self.photos for path in (p.file, p.mask) if path)

    @cached_property
    def digest(self) -> str:
        """Hash of what decides the plan: the run's jobs on other nodes must find the same."""
        settings, _ = self.contents.settings(self.config.model_copy(update={"cache": "", "container": None}))
        photos = [
            (p.image_id, p.cohort, p.concept, p.skin_tone, p.malignant, p.group, bool(p.mask), p.mm_per_px)
            for p in self.photos
        ]
        code = {
            stage: __import__(f"{stage_package(stage)}.settings", fromlist=["REVISION"]).REVISION for stage in STAGES
        }
        return sha256(canonical([settings, photos, sorted(self.concepts), self.verdicts, code]))[:16]

    def job(self, rule: str, **wildcards: Any) -> Job:
        """A job by its rule and wildcards."""
        key = rule, tuple(str(wildcards[name]) for name in RESULTS[rule].wildcards)
        if key not in self._jobs:
            own = getattr(self, f"_{rule}", None)
            made = own(**wildcards) if own else self.fedd.job(rule, **wildcards)
            inputs = {name: files for name, files in made.inputs.items() if files}
            root = f"{self.config.results}/"
            options = {
                name: [f.removeprefix(root) for f in files] if isinstance(files, list) else files.removeprefix(root)
                for name, files in (inputs if made.options is None else made.options).items()
                if files
            }
            self._jobs[key] = Job(made.spec | ({"inputs": options} if options else {}), inputs)
        return self._jobs[key]

    def inputs(self, rule: str, **wildcards: Any) -> Files:
        """All files a job reads, its spec first."""
        job = self.job(rule, **wildcards)
        name = ".".join(str(wildcards[key]) for key in RESULTS[rule].wildcards) or rule
        return {
            "spec": self.specs.path(rule, name, job.spec, self.paths.record(rule, **wildcards)),
            **job.inputs,
        }

    def notes(self) -> list[str]:
        """What a person must know of the plan as it is."""
        notes = given.unused(self)
        if self.config.only_concepts:
            named = ", ".join(self.config.only_concepts)
            notes.append(f"only_concepts: a run for {named} alone, with results of its own in {self.paths.root}.")
        if unknown := sum(photo.skin_tone == UNKNOWN for photo in self.photos):
            notes.append(
                f"{unknown} photo(s) of unknown skin tone: donors and canvases where they have a mask, in no index and no figure."
            )
        if self.__dict__.get("_unseen"):
            notes.append(
                f"{self._unseen} photo(s) were not looked into yet: `cgddi check` opens each once, and its mask."
            )
        tested = {split: count_photos(self.photos, roles) for split, roles in self.roles.items()}
        if self.config.runs.regimes and (line := power_note(tested)):
            notes.append(line)
        return notes

    def begin(self, real: bool) -> None:
        """Write where photos and models lie, and in a real run what its plan is (see `SpecFiles.begin`)."""
        self.specs.begin(self.digest, real)

    # ---- photos and canvases -------------------------------------------------------------------

    def _split(self, split: str, cohort: str) -> Job:
        return Job({"stage": "split", "split": split, "cohort": cohort, "rows": self.split_rows(split, cohort)})

    def _canvas_split(self, split: str, cohort: str) -> Job:
        masked = {photo.image_id for photo in self.masked(cohort)}
        rows = [row for row in self.split_rows(split, cohort) if row[0] in masked]
        return Job({"stage": "split", "split": split, "cohort": cohort, "rows": rows})

    def _masks(self, cohort: str, batch: str) -> Job:
        chosen, photos = self.masks_settings(cohort), self.batches[cohort][batch]
        facts: dict[str, Any] = {}
        inputs, options = {}, None
        if chosen.source == "fedd":
            facts = self.fedd.masks_facts()
            features, folder = self.fedd.mask_features(cohort, batch), self.fedd.mask_segmenter
            inputs = {
                "features": features,
                "segmenter": [f"{folder}/{n}" for n in ("weights.safetensors", "record.json")],
            }
            options = {"features": features, "segmenter": folder}
        chosen = chosen.model_copy(update={"on_healthy": False})  # concerns canvases alone
        if chosen.source == "sam3":
            facts["model"] = self.model(self.config.models.sam3)
        else:
            chosen = chosen.model_copy(update={"sam3": Sam3Settings()})
        rows = [self.photo(p, self.mask_file(p)) for p in photos]
        return Job(self.spec("masks", chosen, cohort=cohort, batch=batch, rows=rows, **facts), inputs, options)

    def _healthy(self, cohort: str, batch: str) -> Job:
        images, model = self.healthy_batches[cohort][batch], self.model(self.config.models.inpainting)
        photos = [p for p in self.batches[cohort][batch] if p.image_id in images]
        labels = self.labels(photos, "concept", "tone", "group")
        return Job(
            self.spec("healthy", cohort=cohort, batch=batch, images=images, labels=labels, model=model),
            {"photos": self.paths.file("masks", cohort=cohort, batch=batch)},
        )

    def _review(self) -> Job:
        pairs = [(c, batch) for c in self.canvas_cohorts for batch in self.healthy_batches[c]]
        inputs = {
            "healthy": self.all_healthy(self.canvas_cohorts),
            "photos": [self.paths.file("masks", cohort=cohort, batch=batch) for cohort, batch in pairs],
            "canvases": [self.paths.file("canvases", "record", cohort=cohort) for cohort in self.canvas_cohorts],
        }
        spec = {"stage": "review", "revision": revision("canvases"), "template": _pages("canvases")}
        return Job(spec | ({"reviewed": self.reviewed} if self.reviewed else {}), inputs)

    def _canvases(self, cohort: str) -> Job:
        verdicts = self.verdicts.get(cohort, {})
        return Job(self.spec("canvases", cohort=cohort, verdicts=verdicts), {"healthy": self.all_healthy([cohort])})

    def _skin(self, cohort: str) -> Job:
        spec = self.spec("masks", self.masks_settings(cohort), cohort=cohort, model=self.model(self.config.models.sam3))
        return Job(spec, {"canvases": self.paths.file("canvases", cohort=cohort)})

    def _lesion_mapped(self, canvas_cohort: str, donor: str) -> Job:
        (photos,), labels = self.photo_archives([self.donors[donor]]), self.labels([self.donors[donor]], "concept")
        canvases = self.paths.file("canvases", cohort=canvas_cohort)
        spec = self.spec("lesion_mapped", donor=donor, canvas_cohort=canvas_cohort, labels=labels)
        known, scale = self.scales[canvas_cohort], self.donors[donor].mm_per_px
        if known and scale:  # one of both alone brings nothing to scale
            spec["mm_per_px"] = known | {donor: scale}
        own = self.masks_settings(canvas_cohort).on_healthy
        skin = self.paths.file("skin", cohort=canvas_cohort) if own else ""
        return Job(spec, {"photos": photos, "canvases": canvases, "skin": skin})

    # ---- generators ------------------------------------------------------------------------------

    def _split_of(self, scope: str, cohort: str) -> str:
        """The roles of canvases that keep a scope's generators away from test images; none for scope `all`."""
        return "" if scope == "all" else self.paths.file("canvas_split", split=scope, cohort=cohort)

    def _generator(self, stage: str, scope: str, concept: str) -> Job:
        photos = self.generator_photos(stage, scope, concept)
        images, model = [p.image_id for p in photos], self.model(self.config.models.base)
        facts = {"concept": self._concept(concept), "images": images, "labels": self.labels(photos, "tone")}
        spec = self.spec(stage, scope=scope, **facts, model=model)
        return Job(spec, {"photos": self.photo_archives(photos)})

    def _embedding(self, scope: str, concept: str) -> Job:
        return self._generator("embedding", scope, concept)

    def _lora(self, scope: str, concept: str) -> Job:
        job, priors = self._generator("lora", scope, concept), self.canvas_cohorts[:1]
        more = {
            "canvases": [self.paths.file("canvases", cohort=cohort) for cohort in priors],
            "split": self._split_of(scope, priors[0]) if priors else "",
            "embedding": self.paths.file("embedding", scope=scope, concept=concept),
        }
        return Job(job.spec, job.inputs | more)

    def _semantic(self, scope: str, canvas_cohort: str, concept: str) -> Job:
        names, ready = {"scope": scope, "concept": concept}, self.config.adapters.get(concept)
        spec = self.spec(
            "semantic",
            scope=scope,
            canvas_cohort=canvas_cohort,
            concept=self._concept(concept),
            malignant=self.concept_label(scope, concept),
            model=self.model(self.config.models.base),
            **({"adapter": given.adapter_spec(self, ready)} if ready else {}),
        )
        inputs: Files = {
            "canvases": self.paths.file("canvases", cohort=canvas_cohort),
            "split": self._split_of(scope, canvas_cohort),
        }
        made: Files = {} if ready else {stage: self.paths.file(stage, **names) for stage in ("embedding", "lora")}
        if self.config.semantic.check:
            made["calibration"] = self.paths.file("calibration", scope=scope)
            made["photos"] = [] if ready else self.photo_archives(self.training[scope, concept])
        return Job(spec, inputs | made)

    def _calibration(self, scope: str) -> Job:
        """Pinned to the first cohort, as prior images are: what arrives later moves no limit."""
        first = self.canvas_cohorts[0]
        learnt = {p.image_id for (other, _), photos in self.training.items() if other == scope for p in photos}
        photos = [p for p in self.masked(first) if p.image_id in learnt]
        labels = self.labels(photos, "concept", "tone", "group")
        spec = self.spec("calibration", scope=scope, cohort=first, labels=labels)
        canvases = self.paths.file("canvases", cohort=first)
        return Job(spec, {"photos": self.photo_archives(photos), "canvases": canvases})

    @cached_property
    def given_images(self) -> dict[str, Any]:
        """Spec of the index: given images that regimes learn from, and whose unknown lineage is waived."""
        config = self.config
        used = {name: g for name, g in config.synthetic.items() if self.sources & {*given.source_names(name)}}
        images = {
            name: self.contents.file(f"{Path(g.archive).with_suffix('.jsonl')}") for name, g in sorted(used.items())
        }
        waived = given.waived(config.adapters, used, sorted(self.sources))
        return ({"given": images} if images else {}) | ({"waived": waived} if waived else {})

    def _concept(self, slug: str) -> dict[str, str]:
        concept = self.concepts[slug]
        return {"slug": concept.slug, "name": concept.name, "token": concept.token}

    # ---- classifiers and report ----------------------------------------------------------------

    def _index(self, split: str) -> Job:
        dropped = {"drop_concepts": sorted(self.config.drop_concepts)} if self.config.drop_concepts else {}
        cohorts, made, roles = self.split_cohorts(split), self.made_for(split), self.roles[split]
        photos = [p for p in self.photos if p.cohort in cohorts and self.indexed(p, roles.get(p.image_id))]
        labels = self.labels(photos, "concept", "tone", "malignant")
        inputs = {
            "splits": [self.paths.file("split", split=split, cohort=cohort) for cohort in cohorts],
            "photos": self.all_photos(cohorts),
            "healthy": made.get("healthy", []),
            "mapped": made.get("lesion_mapped", []),
            "semantic": made.get("semantic", []),
        }
        return Job(self.spec("index", split=split, labels=labels, **dropped, **self.given_images), inputs)

    def _audit(self, split: str, kind: str) -> Job:
        inputs = {"index": self.paths.file("index", split=split), "photos": self.all_photos(self.split_cohorts(split))}
        facts = {"waived": w} if kind == "leakage" and (w := self.given_images.get("waived")) else {}
        settings = self.config.audit
        if kind == "quality":
            self._check_weights()
            roles = self.roles[split]
            facts["labels"] = self.labels((p for p in self.photos if roles.get(p.image_id) in HELD_OUT), "tone")
        else:  # weights for quality alone: they must not make the gate run again, and with it the classifiers
            settings = settings.model_copy(update={"inception": None, "lpips": None})
        return Job(self.spec("audit", settings, kind=kind, split=split, **facts), inputs)

    def _check_weights(self) -> None:
        """Refuse weights for quality that are not there, before anything runs."""
        problems = [
            self.config.problem(f"audit.{key}", f"{source} is not there", REMEDY)
            for key in ("inception", "lpips")
            if (source := getattr(self.config.audit, key)) and not hub_file(source) and not Path(source).is_file()
        ]
        if problems:
            raise InvalidInput(problems)

    def _leakage(self, split: str) -> Job:
        return self._audit(split, "leakage")

    def _audit_pictures(self, pictures: str) -> Job:
        spec = {"stage": "audit", "revision": revision("audit"), "seed": self.config.seed, "kind": pictures}
        canvases = [self.paths.file("canvases", "record", cohort=cohort) for cohort in self.canvas_cohorts]
        if pictures == "healthy":
            inputs = {"healthy": self.all_healthy(self.canvas_cohorts), "canvases": canvases}
            return Job(spec, inputs)
        human = {
            cohort: chosen | {"files": {image: self.contents.file(file) for image, file in chosen["files"].items()}}
            for cohort, chosen in self.human_masks.items()
        }
        inputs = {
            "photos": self.all_photos(self.by_cohort),
            "canvases": canvases,
            "mapped": self.all_mapped() if "lesion_mapped" in self.sources else [],
        }
        return Job(spec | {"labels": self.labels(self.photos, "tone", "malignant"), "human_masks": human}, inputs)

    def _classify(self, split: str, regime: str, method: str, run_seed: str) -> Job:
        start = "start" if self.config.classify.images_per_epoch else "weights"
        chosen, names = self.config.regime(regime), {"split": split, "method": method, "run_seed": run_seed}
        facts = {"regime": chosen.model_dump(mode="json"), "run_seed": int(run_seed)}
        facts |= {"out_of_tone": True} if split in self.out_of_tone else {}
        spec = self.spec("classify", split=split, method=method, **facts)
        inputs = {
            "index": self.paths.file("index", split=split),
            "leakage": self.paths.file("leakage", split=split),
            "init": self.paths.file("classify", start, regime=chosen.init, **names) if chosen.init else "",
        }
        return Job(spec, inputs)

    def _predictions(self, regimes: Iterable[str], ladder: bool = False) -> list[str]:
        """Predictions of every split, regime, method that is trained on it, and seed."""
        runs = self.config.runs
        return [
            self.paths.file("classify", split=split, regime=regime, method=method, run_seed=seed)
            for split in self.config.splits
            for regime in regimes
            for method in runs.methods
            if ladder or regime in runs.of(method)
            for seed in runs.seeds
        ]

    def _fairness(self) -> Job:
        predictions = self._predictions(self.regimes)
        splits = {name: split.model_dump(mode="json") for name, split in self.config.splits.items()}
        return Job(self.spec("fairness", splits=splits, labels=self.test_labels), {"predictions": predictions})

    def _published(self) -> Job:
        table, split = self.config.published.table, next(iter(self.config.splits))
        wanted = [table] if table else ["ddi", "quality", *(["fedd"] if self.config.fedd.study else [])]
        of_ddi = {self.config.fairness.published.get(cohort) for cohort in self.split_cohorts(split)} == {"ddi"}
        made = [
            *(self.all_canvases() if "healthy" in self.sources else []),
            *(self.all_mapped() if "lesion_mapped" in self.sources else []),
            *(self.all_samples(self.scope_of(split)) if "semantic" in self.sources else []),
        ]
        inputs = {
            "summary": self.paths.file("fairness") if not {*wanted} <= {"quality", "fedd"} else "",
            "quality": self._audit_file(split, "quality") if "quality" in wanted and of_ddi else "",
            "images": made if {*wanted} & {"quality", "f17k", "cross"} else [],
            "fedd": self.paths.file("fedd_tables") if "fedd" in wanted else "",
        }
        cohorts: dict[str, list[str]] = {}
        for (_, concept), photos in self.training.items():
            cohorts[concept] = sorted({*cohorts.get(concept, ()), *(photo.cohort for photo in photos)})
        facts = {
            "datasets": self.config.fairness.published,
            "concept_cohorts": cohorts,
            "template": _pages("published"),
        }
        return Job(self.spec("published", **facts), inputs)

    def table_files(self) -> list[str]:
        """What the target `tables` makes: the page of the published table, and the tables it is made of."""
        job = self.job("published").inputs
        own = [self.paths.file("published", name) for name in RESULTS["published"].files]
        if "summary" in job:
            own += [self.paths.file("fairness", name) for name in RESULTS["fairness"].files]
        return own + ([job["fedd"]] if "fedd" in job else [])

    def _ladder(self) -> Job:
        absent = {kind for name in LADDER for kind in self.config.regime(name).sources} - self.sources
        if absent:
            what = f"the ladder learns from {', '.join(sorted(absent))} images, which no regime of this run uses"
            raise InvalidInput([self.config.problem("runs.regimes", what, "Add `synthetic`.")])
        predictions = self._predictions(LADDER, ladder=True)
        return Job(self.spec("fairness", job="ladder", labels=self.test_labels), {"predictions": predictions})

    @cached_property
    def human_masks(self) -> dict[str, dict[str, Any]]:
        """Cohorts with automatic masks -> crop, id_map and files (image id -> file) of human masks to compare them with."""
        found = {}
        for name in self.automatic_cohorts:
            files = {p.image_id: p.mask for p in self.by_cohort[name] if p.mask}
            chosen = self.masks_settings(name)
            if files:
                found[name] = {"crop": chosen.crop, "id_map": chosen.id_map, "files": files}
        return found

    def _report(self) -> Job:
        splits, masks = self.config.splits, bool(self.config.fedd.study or self.automatic_cohorts)
        generated = self.adapters if "semantic" in self.sources else []
        inputs = {
            "summary": self.paths.file("fairness"),
            "audits": [self._audit_file(split, kind) for split in splits for kind in KINDS],
            "index": [self.paths.file("index", split=split) for split in splits],
            "samples": [self.paths.file("lora", "samples", scope=s, concept=c) for s, c in generated],
            "semantic": self.all_samples() if "semantic" in self.sources else [],
            "classify": [f"{Path(path).parent}/record.json" for path in self._predictions(self.regimes)],
            "review": self.paths.file("review") if self.generated else "",
            "published": self.paths.file("published"),
            "ladder": self.paths.file("ladder") if self.config.runs.ladder else "",
            "healthy": self.paths.file("audit_pictures", pictures="healthy") if self.generated else "",
            "masks": self.paths.file("audit_pictures", pictures="masks") if masks else "",
            "fedd": self.paths.file("fedd_tables") if self.config.fedd.study else "",
        }
        facts = {"changed": changed(self.config, self.contents, self.generated, bool(generated), masks)}
        if generated:
            facts["models"] = {"base": self.model(self.config.models.base)}
        return Job(self.spec("report", template=_pages("report"), labels=self.test_labels, **facts), inputs)

    def _audit_file(self, split: str, kind: str) -> str:
        return self.paths.file("audit", split=split, kind=kind)

    def _export(self) -> Job:
        split = self.config.export.split or next(iter(self.config.splits))
        scope, base = self.scope_of(split), self.config.export.base_model or self.config.models.base.source
        names = [{"scope": each, "concept": concept} for each, concept in self.adapters if each == scope]
        inputs = {
            "index": self.paths.file("index", split=split),
            "lora": [self.paths.file("lora", **name) for name in names],
            "embedding": [self.paths.file("embedding", **name) for name in names],
        }
        facts: dict[str, Any] = {"names": {slug: concept.name for slug, concept in sorted(self.concepts.items())}}
        if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists():
            facts["base_model"] = base
        if "real" in self.config.export.kinds:
            facts["labels"] = self.test_labels
        return Job(self.spec("export", split=split, **facts), inputs)


def results_of(config: Config) -> str:
    """The folder of a configuration's results: one of its own where it is for some concepts only."""
    return f"{config.results}/{only_name(config.only_concepts)}" if config.only_concepts else config.results


def contents_of(results: str, main: bool = False) -> Contents:
    """What files hold, as a results folder remembers it; main: whether what is read now is remembered too."""
    return Contents(Path(results) / ".plan/digests.json", main)


def only_name(concepts: Iterable[str]) -> str:
    """Folder, below the results, of a run for some concepts only: it neither uses nor changes those of the whole."""
    concepts = sorted(concepts)
    return f"only-{concepts[0]}" + (f"-and-{len(concepts) - 1}-{spec_hash(concepts)[:6]}" if concepts[1:] else "")


def changed(config: Config, contents: Contents, generated: bool, sampled: bool, masked: bool) -> dict[str, list[Any]]:
    """What differs from the defaults: dotted key -> [value here, default]; places, and sections that no job reads, left out.

    Args:
        config: the configuration.
        contents: what stands for files in a spec.
        generated, sampled, masked: whether canvases, samples, automatic masks are made.
    """
    unread = {
        "results",
        "cache",
        "container",
        "images",
        "diseases",
        "review",
        "models",
        "report",
        "export",
        "published",
    }
    unread |= set() if generated else {"healthy", "canvases", "lesion_mapped"}
    unread |= set() if sampled else {"embedding", "lora", "semantic", "calibration", "adapters"}
    unread |= set() if masked else {"fedd"}
    here, usual = (
        {key: value for key, value in contents.settings(each)[0].items() if key not in unread}
        for each in (config, Config())
    )
    return dict(_differences(here, usual))


def _differences(here: Any, usual: Any, key: str = "") -> Iterator[tuple[str, list[Any]]]:
    if isinstance(here, dict) and isinstance(usual, dict):
        for name in sorted({*here, *usual}):
            yield from _differences(here.get(name), usual.get(name), f"{key}.{name}" if key else name)
    elif here != usual:
        yield key, [here, usual]


def _pages(stage: str) -> str:
    """Hash of a stage's page templates: another one makes another page."""
    files = sorted(p for p in (PACKAGE / "stages" / stage).rglob("*.*") if p.suffix in (".html", ".css", ".js", ".in"))
    return spec_hash([[path.name, sha256(path.read_bytes())] for path in files])
