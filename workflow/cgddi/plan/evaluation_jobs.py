"""Jobs that learn from images and judge them: index, audits, classifiers, tables, report, export. Light: read at every parse."""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from cgddi.core.errors import InvalidInput, refuse
from cgddi.plan.config import Config
from cgddi.plan.content import Contents
from cgddi.plan.described import page_hash
from cgddi.plan.image_jobs import ImageJobs
from cgddi.plan.paths import RESULTS
from cgddi.plan.specs import Job, revision
from cgddi.stages.audit.settings import hub_file
from cgddi.stages.classify.settings import LADDER

KINDS = ("leakage", "quality", "tone", "memorisation")
HELD_OUT = ("validation", "test")
REMEDY = "Write it with `cgddi audit convert`, or name `owner/name/file.safetensors` on the hub."


class EvaluationJobs(ImageJobs):
    """What each job from the index on is made from and which files it reads."""

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
        refuse(problems)

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
        predictions = self._predictions(self.config.trained_regimes)
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
            "template": page_hash("published"),
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
            chosen = self.config.masks_of(name)
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
            "classify": [f"{Path(path).parent}/record.json" for path in self._predictions(self.config.trained_regimes)],
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
        return Job(self.spec("report", template=page_hash("report"), labels=self.test_labels, **facts), inputs)

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


def changed(config: Config, contents: Contents, generated: bool, sampled: bool, masked: bool) -> dict[str, list[Any]]:
    """What differs from the defaults: dotted key -> [value here, default]; places, and sections that no job reads, left out.

    Args:
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
