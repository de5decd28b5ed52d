"""Jobs that make images: masks, healthy skin, canvases, composites, tokens, adapters, samples. Light: read at every parse."""

from functools import cached_property
from pathlib import Path
from typing import Any

from cgddi.plan import given
from cgddi.plan.described import Described, page_hash
from cgddi.plan.specs import Files, Job, revision
from cgddi.stages.masks.settings import Sam3Settings


class ImageJobs(Described):
    """What each job that makes images is made from and which files it reads."""

    def _split(self, split: str, cohort: str) -> Job:
        return Job({"stage": "split", "split": split, "cohort": cohort, "rows": self.split_rows(split, cohort)})

    def _canvas_split(self, split: str, cohort: str) -> Job:
        masked = {photo.image_id for photo in self.masked(cohort)}
        rows = [row for row in self.split_rows(split, cohort) if row[0] in masked]
        return Job({"stage": "split", "split": split, "cohort": cohort, "rows": rows})

    def _masks(self, cohort: str, batch: str) -> Job:
        chosen, photos = self.config.masks_of(cohort), self.batches[cohort][batch]
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
        spec = {"stage": "review", "revision": revision("canvases"), "template": page_hash("canvases")}
        return Job(spec | ({"reviewed": self.reviewed} if self.reviewed else {}), inputs)

    def _canvases(self, cohort: str) -> Job:
        verdicts = self.verdicts.get(cohort, {})
        return Job(self.spec("canvases", cohort=cohort, verdicts=verdicts), {"healthy": self.all_healthy([cohort])})

    def _skin(self, cohort: str) -> Job:
        spec = self.spec(
            "masks", self.config.masks_of(cohort), cohort=cohort, model=self.model(self.config.models.sam3)
        )
        return Job(spec, {"canvases": self.paths.file("canvases", cohort=cohort)})

    def _lesion_mapped(self, canvas_cohort: str, cohort: str, batch: str) -> Job:
        images = self.healthy_batches[cohort][batch]
        donors = [p for p in self.batches[cohort][batch] if p.image_id in images]
        names, labels = {"canvas_cohort": canvas_cohort, "cohort": cohort}, self.labels(donors, "concept")
        spec = self.spec("lesion_mapped", **names, images=images, labels=labels)
        known = self.scales[canvas_cohort]
        scales = {donor.image_id: donor.mm_per_px for donor in donors if donor.mm_per_px}
        if known and scales:  # one of both alone brings nothing to scale
            spec["mm_per_px"] = known | scales
        own = self.config.masks_of(canvas_cohort).on_healthy
        inputs = {
            "photos": self.paths.file("masks", cohort=cohort, batch=batch),
            "canvases": self.paths.file("canvases", cohort=canvas_cohort),
            "skin": self.paths.file("skin", cohort=canvas_cohort) if own else "",
        }
        return Job(spec, inputs)

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
