"""The plan: which jobs exist and what each depends on, from the config and the sheets alone. Read at every parse: light."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from cgddi.core.archive import canonical
from cgddi.core.errors import InvalidInput, Problem
from cgddi.fedd.plan import FeddPlan
from cgddi.fedd.refusals import refusals
from cgddi.plan.config import Config
from cgddi.plan.specs import model_spec, revision
from cgddi.plan.worklist import Worklist
from cgddi.stages.canvases.verdicts import read_review, read_verdicts
from cgddi.stages.masks.settings import Sam3Settings


class Plan(Worklist):
    """All jobs of one configuration, each with its spec.

    Args:
        config: the checked configuration.

    Raises:
        InvalidInput: the sheets, the review file or a split have problems; all of them at once.
    """

    def __init__(self, config: Config):
        super().__init__(config)
        self.fedd = FeddPlan(self)
        if problems := refusals(self.fedd):
            raise InvalidInput(problems)
        self.verdicts = self._read_verdicts()

    def _read_verdicts(self) -> dict[str, dict[str, str]]:
        """cohort -> image_id -> keep or discard, from the review file."""
        if self.config.review is None:
            return {}
        rows = read_review(self.config.review)
        cohort_of = {p.image_id: p.cohort for p in self.photos}
        problems = [
            Problem(
                self.config.review,
                "no such photo in the image sheet",
                "Remove the row.",
                line,
                "image_id",
                row["image_id"],
            )
            for line, row in enumerate(rows, start=2)
            if cohort_of.get(row["image_id"]) != row["cohort"]
        ]
        if problems:
            raise InvalidInput(problems)
        return read_verdicts(self.config.review)

    def spec(self, stage: str, **facts: Any) -> str:
        """A job's spec as canonical JSON: its stage's REVISION, its settings, the rows it depends on, its seed."""
        settings = facts.pop("settings", None) or getattr(self.config, stage, None)
        return canonical(
            {
                "stage": stage,
                "revision": revision(stage, facts.get("job")),
                "settings": settings.model_dump(mode="json") if settings else {},
                "seed": self.config.seed,
                **facts,
            }
        )

    # ---- photos and canvases -------------------------------------------------------------------

    def masks_spec(self, cohort: str, batch: str) -> str:
        """Spec of a masks job: with an automatic source, also what its masks come from."""
        chosen = self.masks_settings(cohort)
        source, files = chosen.source, self.mask_files(cohort, batch)
        rows = [
            {
                "image_id": p.image_id,
                "file": p.file,
                "mask": p.mask if p.mask in files else None,
                "concept": p.concept,
                "skin_tone": p.skin_tone,
                "malignant": p.malignant,
                "group": p.group,
            }
            for p in self.batches[cohort][batch]
        ]
        facts: dict[str, Any] = {}
        if source == "fedd":
            facts = self.fedd.masks_facts()
        if source == "sam3":
            facts["model"] = model_spec(self.config.models.sam3)
        else:
            chosen = chosen.model_copy(update={"sam3": Sam3Settings()})
        return self.spec("masks", settings=chosen, cohort=cohort, batch=batch, rows=rows, **facts)

    def healthy_spec(self, cohort: str, batch: str) -> str:
        """Spec of a healthy job."""
        model = model_spec(self.config.models.inpainting)
        return self.spec("healthy", cohort=cohort, batch=batch, images=self.healthy_batches[cohort][batch], model=model)

    def canvases_spec(self, cohort: str) -> str:
        """Spec of a canvases job."""
        return self.spec("canvases", cohort=cohort, verdicts=self.verdicts.get(cohort, {}))

    def lesion_mapped_spec(self, cohort: str, donor: str) -> str:
        """Spec of a lesion_mapped job."""
        return self.spec("lesion_mapped", donor=donor, canvas_cohort=cohort)

    # ---- generators ------------------------------------------------------------------------------

    def generator_spec(self, stage: str, scope: str, concept: str) -> str:
        """Spec of one concept's token or adapter."""
        return self.spec(
            stage,
            scope=scope,
            concept=self._concept(concept),
            images=[p.image_id for p in self.generator_photos(stage, scope, concept)],
            model=model_spec(self.config.models.base),
        )

    def semantic_spec(self, scope: str, cohort: str, concept: str) -> str:
        """Spec of a semantic job."""
        return self.spec(
            "semantic",
            scope=scope,
            canvas_cohort=cohort,
            concept=self._concept(concept),
            malignant=self.concept_label(concept),
            model=model_spec(self.config.models.base),
        )

    def _concept(self, slug: str) -> dict[str, str]:
        concept = self.concepts[slug]
        return {"slug": concept.slug, "name": concept.name, "token": concept.token}

    # ---- classifiers and report ----------------------------------------------------------------

    def index_spec(self, split: str) -> str:
        """Spec of an index job."""
        dropped = {"drop_concepts": sorted(self.config.drop_concepts)} if self.config.drop_concepts else {}
        return self.spec("index", split=split, **dropped)

    def classify_spec(self, split: str, regime: str, method: str, run_seed: int) -> str:
        """Spec of a classify job."""
        chosen = self.config.regime(regime).model_dump(mode="json")
        return self.spec("classify", split=split, regime=chosen, method=method, run_seed=run_seed)

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

    @property
    def reports_masks(self) -> bool:
        """Whether the report has a section on masks and FEDD."""
        return bool(self.config.fedd.study or self.automatic_cohorts)

    def report_spec(self) -> str:
        """Spec of the report."""
        facts = {"human_masks": self.human_masks} if self.human_masks else {}
        return self.spec("report", triage=self.config.canvases.triage.model_dump(mode="json"), **facts)


def safe_pattern(names: Iterable[str]) -> str:
    """A wildcard constraint that matches exactly the given names."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"
