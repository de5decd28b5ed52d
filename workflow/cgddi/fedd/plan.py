"""The jobs of the FEDD study and of automatic masks, from the config and the sheet alone. Light: read at every parse."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from cgddi.errors import InvalidInput, Problem, UserError
from cgddi.fedd.settings import FeaturesSettings
from cgddi.fedd.subsets import Study, study
from cgddi.seeds import seed_for
from cgddi.sheets import Photo
from cgddi.sourcehash import source_hash
from cgddi.specs import model_spec

if TYPE_CHECKING:
    from cgddi.plan import Plan

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


class FeddPlan:
    """What the FEDD stages do for a plan.

    Args:
        plan: the plan whose config and photos count.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.settings = plan.config.fedd

    # ---- whether, and on which photos --------------------------------------------------------------

    @cached_property
    def mask_cohorts(self) -> list[str]:
        """Cohorts whose masks the segmenter makes."""
        return [name for name in self.plan.by_cohort if self.plan.masks_settings(name).source == "fedd"]

    def check(self) -> None:
        """Raise InvalidInput when the study cannot be made: for a run that names it as its target."""
        if problems := self.problems(study=True):
            raise InvalidInput(problems)

    def problems(self, study: bool = False) -> list[Problem]:
        """What keeps the study or automatic masks from being made; looked at only where they are asked for.

        Args:
            study: whether the study is asked for, also where `fedd.study` is false.
        """
        study = study or self.settings.study
        if not (study or self.mask_cohorts):
            return []
        found: list[Problem] = []
        try:
            _ = self.model
        except UserError as error:
            found.append(Problem("config", str(error).rstrip("."), "It is used by fedd.", None, "models.fedd"))
        try:
            _ = self.study
        except InvalidInput as error:
            found += error.problems
        else:
            found += self._one_sided() if study else []
        return found + (self._mask_problems() if self.mask_cohorts else [])

    def _one_sided(self) -> list[Problem]:
        """Subsets from which no classifier can learn: only malignant or only benign photos (possible with balance `tone`)."""
        return [
            Problem(
                "config",
                f"the {len(photos)} training photos of subset {name} are all {'malignant' if kinds == {True} else 'benign'}",
                "Raise its size, or set fedd.subsets.balance: tone_and_malignancy.",
                None,
                "fedd.subsets.train_per_tone",
            )
            for name, photos in self.study.train.items()
            for kinds in [{photo.malignant for photo in photos}]
            if len(kinds) < 2
        ]

    def _mask_problems(self) -> list[Problem]:
        found, subsets = [], self.settings.subsets
        chosen = self.settings.masks_from
        if chosen.subset not in subsets.train_per_tone:
            known = ", ".join(subsets.train_per_tone)
            found.append(
                Problem(
                    "config",
                    f"the segmenter behind automatic masks is trained on subset {chosen.subset}, which is none of {known}",
                    "Name one of them.",
                    None,
                    "fedd.masks_from.subset",
                )
            )
        if not subsets.keep_to_training:
            found.append(
                Problem(
                    "config",
                    f"masks of {', '.join(self.mask_cohorts)} come from the segmenter, which may then not learn from photos "
                    "that a split holds out",
                    "Set it to true.",
                    None,
                    "fedd.subsets.keep_to_training",
                )
            )
        return found

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

    def baseline_weights(self, task: str, network: str) -> list[str]:
        """File of a baseline's starting weights, where the config names one."""
        named = self.settings.baselines.weight_files.get(f"{task}/{network}")
        return [named] if named else []

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

    # ---- specs ---------------------------------------------------------------------------------------

    @cached_property
    def model(self) -> dict[str, Any]:
        """Identity of the frozen diffusion model.

        Raises:
            UserError: its folder does not exist.
        """
        try:
            return model_spec(self.plan.config.models.fedd)
        except UserError as error:
            raise UserError(
                f"{error} `cgddi fedd convert` writes the paper's from OpenAI's 256x256_diffusion_uncond.pt."
            ) from None

    def _spec(self, command: str, settings: Any, **facts: Any) -> str:
        source = source_hash(f"cgddi.fedd.{command}_command")
        return self.plan.spec("fedd", settings=settings, source=source, job=command, **facts)

    def features_spec(self, cohort: str, timestep: int, batch: str) -> str:
        """Spec of a features job: what a photo's features depend on, and which of them are kept."""
        chosen = self.settings.features
        shared = FeaturesSettings(size=chosen.size, batch=chosen.batch)
        main, own = timestep == self.timestep, batch == STUDY
        blocks = chosen.ablation_blocks
        return self._spec(
            "features",
            shared,
            model=self.model,
            cohort=cohort,
            batch=batch,
            timestep=timestep,
            crop=self.plan.masks_settings(cohort).crop,
            rows=[{"image_id": p.image_id, "file": p.file} for p in self.features_photos(cohort, batch)],
            maps=list(chosen.blocks) if main else [],
            pooled=[] if not own else None if blocks is None else list(blocks),
            showcase=self.showcase if main and own else [],
        )

    @cached_property
    def showcase(self) -> list[str]:
        """Test photos with K-means pictures: the first of each tone in the order in which predicted masks are shown."""
        ranked: dict[str, list[str]] = {}
        for photo in sorted(
            self.study.test, key=lambda p: seed_for(self.plan.config.seed, "fedd pictures", p.image_id)
        ):
            ranked.setdefault(photo.skin_tone, []).append(photo.image_id)
        return sorted(i for images in ranked.values() for i in images[: self.settings.features.showcase])

    def _rows(self, photos: Iterable[Photo]) -> list[dict[str, Any]]:
        return [
            {
                "image_id": p.image_id,
                "file": p.file,
                "mask": p.mask,
                "skin_tone": p.skin_tone,
                "malignant": p.malignant,
                "concept": p.concept,
            }
            for p in photos
        ]

    def _parts(self, subset: str) -> dict[str, Any]:
        chosen = self.study
        parts = {"train": chosen.train[subset], "validation": chosen.validation, "test": chosen.test}
        return {"subset": subset, **{role: self._rows(photos) for role, photos in parts.items()}}

    def _truth(self) -> dict[str, Any]:
        masks = self.plan.masks_settings(self.cohort)
        return {"size": self.settings.features.size, "crop": masks.crop, "id_map": masks.id_map}

    @property
    def _geometry(self) -> dict[str, Any]:
        return {"timestep": self.timestep, "blocks": list(self.settings.features.blocks)}

    def segmenter_spec(self, chosen: Segmenter) -> str:
        """Spec of a segmenter job."""
        facts = {"variant": chosen.variant, "run_seed": chosen.seed, **self._truth(), **self._geometry}
        return self._spec("segmenter", self.settings.segmenter, **facts, **self._parts(chosen.subset))

    def probe_spec(self, subset: str, timestep: int) -> str:
        """Spec of a probe job: every block and seed at one timestep."""
        blocks = self.settings.features.ablation_blocks
        facts = {
            "timestep": timestep,
            "blocks": None if blocks is None else list(blocks),
            "seeds": list(self.settings.subsets.seeds),
        }
        return self._spec("probe", self.settings.probe, **facts, **self._parts(subset))

    def baseline_spec(self, chosen: Baseline) -> str:
        """Spec of a baseline job."""
        facts = {"task": chosen.task, "network": chosen.network, "run_seed": chosen.seed, **self._truth()}
        settings = self.settings.baselines
        own = {"segmentation": (), "classification": (), chosen.task: (chosen.network,)}
        files = {k: v for k, v in settings.weight_files.items() if k == f"{chosen.task}/{chosen.network}"}
        return self._spec(
            "baseline",
            settings.model_copy(update={**own, "weight_files": files}),
            **facts,
            **self._parts(chosen.subset),
        )

    def tables_spec(self) -> str:
        """Spec of the tables."""
        sizes = self.settings.subsets.train_per_tone
        shown = [photo for photo in self.study.test if photo.image_id in self.showcase]
        return self._spec(
            "tables",
            self.settings.tables,
            cohort=self.cohort,
            crop=self.plan.masks_settings(self.cohort).crop,
            showcase=[{"image_id": p.image_id, "file": p.file, "skin_tone": p.skin_tone} for p in shown],
            subsets=[{"name": name, "per_tone": sizes[name]} for name in self.subsets],
            variants=list(self.settings.variants),
            baselines={k: list(getattr(self.settings.baselines, k)) for k in ("segmentation", "classification")},
            size=self.settings.features.size,
            **self._geometry,
        )

    def masks_facts(self) -> dict[str, Any]:
        """What a masks job with source fedd has in its spec beside its rows."""
        return {"segmenter": self.masks_from._asdict(), "size": self.settings.features.size, **self._geometry}
