"""Which jobs there are: what is cut into batches, which lesion meets which canvas, what each generator learns from. Light."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

from cgddi.plan.project import Project
from cgddi.plan.sheets import Photo


class Worklist(Project):
    """The jobs of a project's photos."""

    # ---- photos, batches, canvases -------------------------------------------------------------

    @cached_property
    def batches(self) -> dict[str, dict[str, list[Photo]]]:
        """cohort -> batch name (`<slug>.<k>`) -> photos; a batch holds one concept and is stable when others are added."""
        found: dict[str, dict[str, list[Photo]]] = {}
        for cohort, photos in self.by_cohort.items():
            groups: dict[str, list[Photo]] = defaultdict(list)
            for photo in photos:
                groups[photo.concept].append(photo)
            size = self.config.images_per_job
            found[cohort] = {
                f"{slug}.{k:03d}": group[start : start + size]
                for slug, group in groups.items()
                for k, start in enumerate(range(0, len(group), size))
            }
        return found

    @cached_property
    def batch_of(self) -> dict[str, str]:
        """image_id -> name of its batch."""
        return {p.image_id: name for batches in self.batches.values() for name, batch in batches.items() for p in batch}

    def generates(self, photo: Photo) -> bool:
        """Whether a photo may become a donor, a canvas or a generator's training image."""
        only = self.config.only_concepts
        return photo.cohort in self.development and (not only or photo.concept in only)

    @cached_property
    def _masked(self) -> dict[str, list[Photo]]:
        automatic = {name for name in self.by_cohort if self.masks_settings(name).source != "human"}
        return {
            name: [p for p in photos if (p.mask or name in automatic) and self.generates(p)]
            for name, photos in self.by_cohort.items()
        }

    def masked(self, cohort: str) -> list[Photo]:
        """Photos of a cohort that generate and have a mask file, or get a mask made (which may turn out to be of no use)."""
        return self._masked[cohort]

    def mask_files(self, cohort: str, batch: str) -> list[str]:
        """Mask files of the sheet that a masks job reads."""
        chosen = self.masks_settings(cohort)
        read = chosen.source == "human" or chosen.prefer_human
        return [p.mask for p in self.batches[cohort][batch] if p.mask] if read else []

    @cached_property
    def healthy_batches(self) -> dict[str, dict[str, list[str]]]:
        """cohort -> batch -> ids of its masked photos; batches without any are left out."""
        found: dict[str, dict[str, list[str]]] = {}
        for cohort in self.development:
            for photo in self.masked(cohort):
                batch = found.setdefault(cohort, {}).setdefault(self.batch_of[photo.image_id], [])
                batch.append(photo.image_id)
        return found

    @cached_property
    def canvas_cohorts(self) -> list[str]:
        """Development cohorts that have at least one masked photo."""
        return list(self.healthy_batches)

    def canvases_for(self, cohorts: Iterable[str]) -> list[str]:
        """Canvas cohorts that donors or concepts of the given cohorts meet (config key `canvas_cohorts`)."""
        if self.config.canvas_cohorts == "all":
            return self.canvas_cohorts
        wanted = {*cohorts, *self.canvas_cohorts[:1]}
        return [cohort for cohort in self.canvas_cohorts if cohort in wanted]

    @cached_property
    def pairs(self) -> list[tuple[str, Photo]]:
        """(canvas cohort, donor) of every lesion_mapped job."""
        return [
            (c, donor)
            for d in self.canvas_cohorts
            for donor in self.masked(d)
            if donor.concept not in self.config.drop_concepts
            for c in self.canvases_for([d])
        ]

    # ---- generators ------------------------------------------------------------------------------

    @cached_property
    def scopes(self) -> list[str]:
        """Sets of photos that generators train on: the splits' names, or "all"."""
        return list(dict.fromkeys(map(self.scope_of, self.config.splits)))

    def scope_of(self, split: str) -> str:
        """The scope whose generators serve a split."""
        return "all" if self.config.generator_scope == "all" else split

    @cached_property
    def training(self) -> dict[tuple[str, str], list[Photo]]:
        """(scope, concept) -> photos its token and adapter train on."""
        found: dict[tuple[str, str], list[Photo]] = defaultdict(list)
        for scope in self.scopes:
            for photo in self.photos:
                if self.generates(photo) and (scope == "all" or self.roles[scope].get(photo.image_id) == "train"):
                    found[scope, photo.concept].append(photo)
        return dict(found)

    def generator_photos(self, stage: str, scope: str, concept: str) -> list[Photo]:
        """Photos an embedding or lora job trains on: the concept's, or the whole scope's (`embedding.images: all`)."""
        if stage == "embedding" and self.config.embedding.images == "all":
            return [p for (other, _), photos in self.training.items() if other == scope for p in photos]
        return self.training[scope, concept]

    @cached_property
    def adapters(self) -> list[tuple[str, str]]:
        """(scope, concept) of every adapter that is wanted: all that can be trained, but for dropped concepts."""
        return [(scope, concept) for scope, concept in self.training if concept not in self.config.drop_concepts]

    @cached_property
    def samples(self) -> list[tuple[str, str, str]]:
        """(scope, canvas cohort, concept) of every semantic job."""
        return [
            (scope, cohort, concept)
            for scope, concept in self.adapters
            if len(photos := self.training[scope, concept]) >= self.config.sample_min_images
            for cohort in self.canvases_for({p.cohort for p in photos})
        ]

    # ---- classifiers -------------------------------------------------------------------------------

    @cached_property
    def regimes(self) -> list[str]:
        """Regimes that are trained: those of `runs.regimes`, and those they start from."""
        found = dict.fromkeys(self.config.runs.regimes)
        for name in self.config.runs.regimes:
            while (name := self.config.regime(name).init) is not None:
                found[name] = None
        return list(found)
