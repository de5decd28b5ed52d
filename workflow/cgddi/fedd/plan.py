"""The FEDD part of the plan: what each job of the study and of automatic masks depends on. Light: read at every parse."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cgddi.core.errors import InvalidInput, UserError
from cgddi.fedd.refusals import refusals
from cgddi.fedd.settings import FeaturesSettings
from cgddi.fedd.worklist import STUDY, Baseline, FeddWorklist, Segmenter
from cgddi.plan.sheets import Photo

if TYPE_CHECKING:
    from cgddi.plan.plan import Plan


class FeddPlan(FeddWorklist):
    """What the FEDD stages do for a plan: their jobs, each with its spec.

    Args:
        plan: the plan whose config and photos count.
    """

    plan: Plan

    def check(self) -> None:
        """Raise InvalidInput when the study cannot be made: for a run that names it as its target."""
        if problems := refusals(self, study=True):
            raise InvalidInput(problems)

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

    def _spec(self, command: str, settings: Any, **facts: Any) -> dict[str, Any]:
        return self.plan.spec("fedd", settings=settings, job=command, **facts)

    # ---- features ------------------------------------------------------------------------------------

    def features_spec(self, cohort: str, timestep: int, batch: str) -> dict[str, Any]:
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
            rows=[self._photo(p) for p in self.features_photos(cohort, batch)],
            maps=list(chosen.blocks) if main else [],
            pooled=[] if not own else None if blocks is None else list(blocks),
            showcase=self.showcase if main and own else [],
        )

    # ---- networks ------------------------------------------------------------------------------------

    def _photo(self, photo: Photo) -> dict[str, Any]:
        return {key: value for key, value in self.plan.photo(photo).items() if key != "mask"}

    def _rows(self, photos: Iterable[Photo]) -> list[dict[str, Any]]:
        return [
            {
                **self.plan.photo(p, p.mask),
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

    def segmenter_spec(self, chosen: Segmenter) -> dict[str, Any]:
        """Spec of a segmenter job."""
        facts = {"variant": chosen.variant, "run_seed": chosen.seed, **self._truth(), **self._geometry}
        return self._spec("segmenter", self.settings.segmenter, **facts, **self._parts(chosen.subset))

    def probe_spec(self, subset: str, timestep: int) -> dict[str, Any]:
        """Spec of a probe job: every block and seed at one timestep."""
        blocks = self.settings.features.ablation_blocks
        facts = {
            "timestep": timestep,
            "blocks": None if blocks is None else list(blocks),
            "seeds": list(self.settings.subsets.seeds),
        }
        return self._spec("probe", self.settings.probe, **facts, **self._parts(subset))

    def baseline_spec(self, chosen: Baseline) -> dict[str, Any]:
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

    # ---- what is made from them ----------------------------------------------------------------------

    def tables_spec(self) -> dict[str, Any]:
        """Spec of the tables."""
        sizes = self.settings.subsets.train_per_tone
        shown = [photo for photo in self.study.test if photo.image_id in self.showcase]
        return self._spec(
            "tables",
            self.settings.tables,
            cohort=self.cohort,
            crop=self.plan.masks_settings(self.cohort).crop,
            showcase=[self._photo(p) | {"skin_tone": p.skin_tone} for p in shown],
            subsets=[{"name": name, "per_tone": sizes[name]} for name in self.subsets],
            variants=list(self.settings.variants),
            baselines={k: list(getattr(self.settings.baselines, k)) for k in ("segmentation", "classification")},
            size=self.settings.features.size,
            **self._geometry,
        )

    def masks_facts(self) -> dict[str, Any]:
        """What a masks job with source fedd has in its spec beside its rows."""
        return {"segmenter": self.masks_from._asdict(), "size": self.settings.features.size, **self._geometry}
