"""The FEDD part of the plan: on which photos the study and automatic masks work, and what each of their jobs depends on.

Light: read at every parse.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cgddi.core.errors import InvalidInput, Problem, UserError, refuse
from cgddi.core.seeds import seed_for
from cgddi.fedd.settings import NETWORKS, FeaturesSettings
from cgddi.fedd.subsets import Study, draw_study, published_study
from cgddi.plan.sheets import TONES, Photo
from cgddi.plan.specs import Job

if TYPE_CHECKING:
    from cgddi.plan.jobs import Plan

STUDY = "study"
"""The batch of the study's own photos: one job per timestep holds them all, whatever their concepts."""
LAST_TIMESTEP = 999


class FeddPlan:
    """The FEDD jobs of a plan."""

    def __init__(self, plan: Plan):
        self.plan, self.settings = plan, plan.config.fedd

    # ---- photos --------------------------------------------------------------------------------------

    @cached_property
    def cohort(self) -> str:
        """The labelled cohort of the study.

        Raises:
            InvalidInput: there is none.
        """
        named = self.settings.cohort
        masked = {name: sum(bool(p.mask) for p in photos) for name, photos in self.plan.by_cohort.items()}
        if named is not None:
            if masked.get(named):
                return named
            what = "no such cohort in the image sheet" if named not in masked else "none of its photos has a mask file"
            counts = ", ".join(f"{name} {n}" for name, n in masked.items())
            raise InvalidInput([_problem("cohort", what, f"Name one with masks ({counts}).", named)])
        for name in self.plan.development:
            if masked[name]:
                return name
        counts = ", ".join(f"{name}: 0 of {len(self.plan.by_cohort[name])}" for name in self.plan.development) or "none"
        what = f"the FEDD segmenter learns from photos with mask files, and no development cohort has any ({counts})"
        remedy = "Give masks for some photos in the image sheet, or take masks.source: sam3, which needs none."
        raise InvalidInput([_problem("cohort", what, remedy)])

    @cached_property
    def study(self) -> Study:
        """The study's photos; they depend on its cohort, the splits' roles and the project's seed alone."""
        roles = self.plan.roles if self.settings.subsets.keep_to_training else {}
        photos, subsets = self.plan.by_cohort[self.cohort], self.settings.subsets
        if subsets.folder:
            return published_study(photos, subsets)
        return draw_study(photos, roles, subsets, self.plan.config.seed)

    @cached_property
    def showcase(self) -> list[str]:
        """Test photos with K-means pictures: the first of each tone in the order in which predicted masks are shown."""
        ranked: dict[str, list[str]] = {}
        seed = self.plan.config.seed
        for photo in sorted(self.study.test, key=lambda p: seed_for(seed, "fedd pictures", p.image_id)):
            ranked.setdefault(photo.skin_tone, []).append(photo.image_id)
        return sorted(i for images in ranked.values() for i in images[: self.settings.features.showcase])

    @cached_property
    def mask_cohorts(self) -> list[str]:
        """Cohorts whose masks the segmenter makes."""
        return [name for name in self.plan.by_cohort if self.plan.config.masks_of(name).source == "fedd"]

    def mask_photos(self, cohort: str, batch: str) -> list[Photo]:
        """Photos of a batch that need a mask from the segmenter."""
        keep = self.plan.config.masks_of(cohort).prefer_human
        return [p for p in self.plan.batches[cohort][batch] if not (keep and p.mask)]

    def features_photos(self, cohort: str, batch: str) -> list[Photo]:
        """Photos of a features job: the study's, or those of a batch that need a mask and are not of the study."""
        if batch == STUDY:
            return list(self.study.photos)
        inside = {p.image_id for p in self.study.photos}
        return [p for p in self.mask_photos(cohort, batch) if p.image_id not in inside]

    # ---- jobs and their files ------------------------------------------------------------------------

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

    def features(self, timestep: int, cohort: str | None = None, batch: str = STUDY) -> str:
        """A feature file; without a cohort, the study's own."""
        names = {"cohort": cohort or self.cohort, "timestep": f"{timestep:04d}", "features_batch": batch}
        return self.plan.paths.file("fedd_features", **names)

    def mask_features(self, cohort: str, batch: str) -> list[str]:
        """Feature files that hold the photos a masks job segments."""
        photos, own = self.mask_photos(cohort, batch), self.features_photos(cohort, batch)
        files = [self.features(self.timestep, cohort, batch)] if own else []
        return files + ([self.features(self.timestep)] if len(own) < len(photos) else [])

    @property
    def mask_segmenter(self) -> str:
        """Folder of the segmenter behind automatic masks."""
        chosen = self.settings.masks_from
        names = {"variant": chosen.variant, "subset": chosen.subset, "run_seed": chosen.seed}
        return self.plan.paths.folder("fedd_segmenter", **names)

    @cached_property
    def runs(self) -> list[str]:
        """Folders of all trained networks of the study: segmenters, probes and baselines."""
        folder, subsets, seeds = self.plan.paths.folder, self.subsets, self.settings.subsets.seeds
        each = [(subset, seed) for subset in subsets for seed in seeds]
        runs = [
            folder("fedd_segmenter", variant=variant, subset=subset, run_seed=seed)
            for variant in self.settings.variants
            for subset, seed in each
        ]
        runs += [
            folder("fedd_probe", subset=subset, timestep=f"{timestep:04d}")
            for subset in subsets
            for timestep in self.timesteps
        ]
        rules = {"segmentation": "fedd_baseline", "classification": "fedd_classifier"}
        return runs + [
            folder(rule, network=network, subset=subset, run_seed=seed)
            for task, rule in rules.items()
            for network in getattr(self.settings.baselines, task)
            for subset, seed in each
        ]

    # ---- what each job is made from --------------------------------------------------------------------

    def job(self, rule: str, **wildcards: str) -> Job:
        """A job of one of the rules `fedd_...`."""
        return getattr(self, f"_{rule.removeprefix('fedd_')}")(**wildcards)

    @cached_property
    def model(self) -> dict[str, Any]:
        """Identity of the frozen diffusion model.

        Raises:
            UserError: its folder does not exist.
        """
        try:
            return self.plan.model(self.plan.config.models.fedd)
        except UserError as error:
            raise UserError(
                f"{error} `cgddi fedd convert` writes the paper's from OpenAI's 256x256_diffusion_uncond.pt."
            ) from None

    def _features(self, cohort: str, timestep: str, features_batch: str) -> Job:
        """What a photo's features depend on, and which of them are kept."""
        chosen, batch = self.settings.features, features_batch
        main, own = int(timestep) == self.timestep, batch == STUDY
        spec = self.plan.spec(
            "fedd",
            FeaturesSettings(**{name: getattr(chosen, name) for name in ("size", "batch", "precision", "noise")}),
            job="features",
            model=self.model,
            cohort=cohort,
            batch=batch,
            timestep=int(timestep),
            crop=self.plan.config.masks_of(cohort).crop,
            rows=[
                {k: v for k, v in self.plan.photo(p).items() if k != "mask"}
                for p in self.features_photos(cohort, batch)
            ],
            maps=list(chosen.blocks) if main else [],
            pooled=own,
            showcase=self.showcase if main and own else [],
        )
        return Job(spec)

    def _study_rows(self, subset: str, masks: bool = False) -> dict[str, Any]:
        """The malignancy of what is only tested is told to the tables alone: a corrected one trains nothing again."""
        learnt = {"train": self.study.train[subset], "validation": self.study.validation}
        further = self.study.further_masks if masks else self.study.further
        tested = {"test": self.study.test} | ({"further": further} if further else {})
        rows = {role: self._rows(photos, "skin_tone", "malignant") for role, photos in learnt.items()}
        return {"subset": subset, **rows, **{role: self._rows(photos, "skin_tone") for role, photos in tested.items()}}

    def _rows(self, photos: Iterable[Photo], *names: str) -> list[dict[str, Any]]:
        return [{**self.plan.photo(p, p.mask), **{name: getattr(p, name) for name in names}} for p in photos]

    def _truth(self) -> dict[str, Any]:
        masks = self.plan.config.masks_of(self.cohort)
        return {"size": self.settings.features.size, "crop": masks.crop, "id_map": masks.id_map}

    @property
    def _geometry(self) -> dict[str, Any]:
        return {"timestep": self.timestep, "blocks": list(self.settings.features.blocks)}

    def _segmenter(self, variant: str, subset: str, run_seed: str) -> Job:
        facts = {"variant": variant, "run_seed": int(run_seed), **self._truth(), **self._geometry}
        facts |= self._study_rows(subset, True)
        spec = self.plan.spec("fedd", self.settings.segmenter, job="segmenter", **facts)
        return Job(spec, {"features": [self.features(self.timestep)]})

    def _probe(self, subset: str, timestep: str) -> Job:
        """Every block and seed at one timestep."""
        facts = {"timestep": int(timestep), "seeds": list(self.settings.subsets.seeds), **self._study_rows(subset)}
        spec = self.plan.spec("fedd", self.settings.probe, job="probe", **facts)
        return Job(spec, {"features": [self.features(int(timestep))]})

    def _classifier(self, network: str, subset: str, run_seed: str) -> Job:
        return self._baseline(network, subset, run_seed, "classification")

    def _baseline(self, network: str, subset: str, run_seed: str, task: str = "segmentation") -> Job:
        settings, key = self.settings.baselines, f"{task}/{network}"
        own = {**dict.fromkeys(NETWORKS, ()), task: (network,)}
        own["weight_files"] = {k: v for k, v in settings.weight_files.items() if k == key}
        rows = self._study_rows(subset, task == "segmentation")
        facts = {"task": task, "network": network, "run_seed": int(run_seed), **self._truth(), **rows}
        return Job(self.plan.spec("fedd", settings.model_copy(update=own), job="baseline", **facts))

    def _tables(self) -> Job:
        self.check()
        study, sizes = self.study, self.settings.subsets.train_per_tone
        if self.settings.subsets.folder:  # which decides, whatever the config says
            sizes = {name: round(len(photos) / len(TONES)) for name, photos in study.train.items()}
        subsets = [{"name": name, "per_tone": sizes[name]} for name in self.subsets]
        tested = {photo.image_id: photo for photo in (*study.test, *study.further, *study.further_masks)}
        labels = self.plan.labels((tested[image] for image in sorted(tested)), "malignant")
        facts = {"cohort": self.cohort, "subsets": subsets, "labels": labels, **self._geometry}
        spec, features = (
            self.plan.spec("fedd", self.settings.tables, job="tables", **facts),
            self.features(self.timestep),
        )
        records = [f"{folder}/record.json" for folder in self.runs]
        return Job(spec, {"features": [features], "runs": records}, {"features": [features], "runs": self.runs})

    def masks_facts(self) -> dict[str, Any]:
        """What a masks job with source fedd has in its spec beside its rows."""
        chosen = self.settings.masks_from.model_dump(mode="json")
        return {"segmenter": chosen, "size": self.settings.features.size, **self._geometry}

    # ---- what cannot be made -------------------------------------------------------------------------

    def check(self) -> None:
        """Raise InvalidInput when the study cannot be made: where its tables are asked for."""
        refuse(self.why_impossible(study=True))

    def why_impossible(self, study: bool = False) -> list[Problem]:
        """What keeps the study or automatic masks from being made; looked at only where they are asked for.

        Args:
            study: whether the study is asked for, also where `fedd.study` is false.
        """
        study = study or self.settings.study
        if not (study or self.mask_cohorts):
            return []
        problems: list[Problem] = []
        try:
            _ = self.model
        except UserError as error:
            problems.append(self.plan.config.problem("models.fedd", str(error).rstrip("."), "It is used by fedd."))
        try:
            photos = self.study
        except InvalidInput as error:
            problems += error.problems
        else:
            problems += _one_sided(photos) if study else []
        return problems + (self._why_no_masks() if self.mask_cohorts else [])

    def _why_no_masks(self) -> list[Problem]:
        problems, subsets, chosen = [], self.settings.subsets, self.settings.masks_from
        for name, known in (("subset", list(subsets.train_per_tone)), ("seed", list(subsets.seeds))):
            if getattr(chosen, name) not in known:
                what = f"the segmenter behind automatic masks has {name} {getattr(chosen, name)}, which is none of "
                problems.append(_problem(f"masks_from.{name}", what + ", ".join(map(str, known)), "Name one of them."))
        if not subsets.keep_to_training or subsets.folder:
            what = f"masks of {', '.join(self.mask_cohorts)} come from the segmenter, which may then not learn from photos that "
            remedy = "Set it to true, and fedd.subsets.folder to null."
            problems.append(_problem("subsets.keep_to_training", what + "a split holds out", remedy))
        return problems


def _problem(key: str, message: str, remedy: str, value: object = None) -> Problem:
    return Problem("config", message, remedy, value=value, key=f"fedd.{key}")


def _one_sided(study: Study) -> list[Problem]:
    """Subsets from which no classifier can learn: only malignant or only benign photos (possible with balance `tone`)."""
    problems = []
    for name, photos in study.train.items():
        kinds = {photo.malignant for photo in photos}
        if len(kinds) < 2:
            kind = "malignant" if kinds == {True} else "benign"
            what = f"the {len(photos)} training photos of subset {name} are all {kind}"
            remedy = "Raise its size, or set fedd.subsets.balance: tone_and_malignancy."
            problems.append(_problem("subsets.train_per_tone", what, remedy))
    return problems
