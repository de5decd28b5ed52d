"""Which jobs the FEDD study and automatic masks take, on which photos, and where their files lie. Light: read at every parse."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from cgddi.core.errors import InvalidInput, Problem
from cgddi.core.seeds import seed_for
from cgddi.fedd.subsets import Study, study
from cgddi.plan.photos import Photos
from cgddi.plan.sheets import Photo

STUDY = "study"
"""The batch of the study's own photos: one job per timestep holds them all, whatever their concepts."""
LAST_TIMESTEP = 999


class Segmenter(NamedTuple):
    """One trained segmenter."""

    variant: str
    subset: str
    seed: int


class Baseline(NamedTuple):
    """One trained network that sees the photos themselves."""

    task: str
    network: str
    subset: str
    seed: int


class FeddWorklist:
    """The FEDD jobs of a project's photos.

    Args:
        plan: the plan whose config and photos count.
    """

    def __init__(self, plan: Photos):
        self.plan = plan
        self.settings = plan.config.fedd

    # ---- on which photos -----------------------------------------------------------------------------

    @cached_property
    def mask_cohorts(self) -> list[str]:
        """Cohorts whose masks the segmenter makes."""
        return [name for name in self.plan.by_cohort if self.plan.masks_settings(name).source == "fedd"]

    @cached_property
    def cohort(self) -> str:
        """The labelled cohort of the study.

        Raises:
            InvalidInput: there is none.
        """
        plan, named = self.plan, self.settings.cohort
        masked = {name: sum(bool(p.mask) for p in photos) for name, photos in plan.by_cohort.items()}
        if named is not None:
            if masked.get(named):
                return named
            what = "no such cohort in the image sheet" if named not in masked else "none of its photos has a mask file"
            counts = ", ".join(f"{name} {n}" for name, n in masked.items())
            raise InvalidInput(
                [Problem("config", what, f"Name one with masks ({counts}).", None, "fedd.cohort", named)]
            )
        for name in plan.development:
            if masked[name]:
                return name
        raise InvalidInput(
            [
                Problem(
                    "config",
                    f"the FEDD segmenter learns from photos with mask files, and no development cohort has any "
                    f"({', '.join(f'{name}: 0 of {len(plan.by_cohort[name])}' for name in plan.development) or 'none'})",
                    "Give masks for some photos in the image sheet, or take masks.source: sam3, which needs none.",
                    None,
                    "fedd.cohort",
                )
            ]
        )

    @cached_property
    def study(self) -> Study:
        """The study's photos; they depend on its cohort, the splits' roles and the project's seed alone."""
        sizes = self.settings.subsets
        roles = self.plan.roles if sizes.keep_to_training else {}
        return study(self.plan.by_cohort[self.cohort], roles, sizes, self.plan.config.seed)

    @cached_property
    def showcase(self) -> list[str]:
        """Test photos with K-means pictures: the first of each tone in the order in which predicted masks are shown."""
        ranked: dict[str, list[str]] = {}
        for photo in sorted(
            self.study.test, key=lambda p: seed_for(self.plan.config.seed, "fedd pictures", p.image_id)
        ):
            ranked.setdefault(photo.skin_tone, []).append(photo.image_id)
        return sorted(i for images in ranked.values() for i in images[: self.settings.features.showcase])

    # ---- jobs ----------------------------------------------------------------------------------------

    @property
    def timestep(self) -> int:
        """Timestep of the segmenter's features."""
        return min(self.settings.features.timestep, LAST_TIMESTEP)

    @cached_property
    def timesteps(self) -> list[int]:
        """Timesteps of the probe: the segmenter's and those of the ablation."""
        wanted = [self.timestep, *(min(t, LAST_TIMESTEP) for t in self.settings.features.ablation_timesteps)]
        return sorted(dict.fromkeys(wanted))

    @property
    def subsets(self) -> list[str]:
        """Names of the training subsets, by size."""
        sizes = self.settings.subsets.train_per_tone
        return sorted(sizes, key=lambda name: (sizes[name], name))

    @property
    def masks_from(self) -> Segmenter:
        """The segmenter behind automatic masks."""
        chosen = self.settings.masks_from
        return Segmenter(chosen.variant, chosen.subset, chosen.seed)

    @cached_property
    def segmenters(self) -> list[Segmenter]:
        """Segmenters of the study."""
        settings = self.settings
        return [
            Segmenter(v, s, seed) for v in settings.variants for s in self.subsets for seed in settings.subsets.seeds
        ]

    @cached_property
    def probes(self) -> list[tuple[str, int]]:
        """(subset, timestep) of the study's probes."""
        return [(subset, timestep) for subset in self.subsets for timestep in self.timesteps]

    @cached_property
    def baselines(self) -> list[Baseline]:
        """Baselines of the study."""
        tasks = {task: getattr(self.settings.baselines, task) for task in ("segmentation", "classification")}
        return [
            Baseline(task, network, subset, seed)
            for task, networks in tasks.items()
            for network in networks
            for subset in self.subsets
            for seed in self.settings.subsets.seeds
        ]

    @cached_property
    def mask_photos(self) -> dict[tuple[str, str], list[Photo]]:
        """(cohort, batch) -> photos that need a mask from the segmenter."""
        found = {}
        for cohort in self.mask_cohorts:
            keep = self.plan.masks_settings(cohort).prefer_human
            for batch, photos in self.plan.batches[cohort].items():
                found[cohort, batch] = [p for p in photos if not (keep and p.mask)]
        return found

    @cached_property
    def own_features(self) -> dict[tuple[str, str], list[Photo]]:
        """(cohort, batch) -> photos outside the study whose features automatic masks need; empty batches are left out."""
        inside = {p.image_id for p in self.study.photos} if self.mask_cohorts else set()
        rest = {key: [p for p in photos if p.image_id not in inside] for key, photos in self.mask_photos.items()}
        return {key: photos for key, photos in rest.items() if photos}

    def features_photos(self, cohort: str, batch: str) -> list[Photo]:
        """Photos of a features job."""
        return list(self.study.photos) if batch == STUDY else self.own_features[cohort, batch]

    # ---- files ---------------------------------------------------------------------------------------

    def features(self, timestep: int, cohort: str | None = None, batch: str = STUDY) -> str:
        """A feature file; without a cohort, the study's own."""
        return f"{self.plan.config.results}/fedd/features/{cohort or self.cohort}/t{timestep:04d}/{batch}.safetensors"

    def segmenter(self, chosen: Segmenter) -> str:
        """Folder of a segmenter."""
        return f"{self.plan.config.results}/fedd/segmenter/{chosen.variant}/{chosen.subset}/{chosen.seed}"

    def probe(self, subset: str, timestep: int) -> str:
        """Folder of the probes of one subset and timestep."""
        return f"{self.plan.config.results}/fedd/probe/{subset}/t{timestep:04d}"

    def baseline(self, chosen: Baseline) -> str:
        """Folder of a baseline."""
        root = f"{self.plan.config.results}/fedd/baseline"
        return f"{root}/{chosen.task}/{chosen.network}/{chosen.subset}/{chosen.seed}"

    @cached_property
    def runs(self) -> list[str]:
        """Folders of all trained networks of the study."""
        return [
            *(self.segmenter(chosen) for chosen in self.segmenters),
            *(self.probe(subset, timestep) for subset, timestep in self.probes),
            *(self.baseline(chosen) for chosen in self.baselines),
        ]

    def mask_features(self, cohort: str, batch: str) -> list[str]:
        """Feature files that hold the photos a masks job segments."""
        photos = self.mask_photos.get((cohort, batch), [])
        own = self.own_features.get((cohort, batch), [])
        files = [self.features(self.timestep, cohort, batch)] if own else []
        return files + ([self.features(self.timestep)] if len(own) < len(photos) else [])
