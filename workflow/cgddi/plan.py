"""The plan: which jobs exist and what each depends on, from the config and the sheets alone. Read at every parse: light."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from cgddi.artefacts import canonical
from cgddi.config import Cohort, Config, Model
from cgddi.errors import InvalidInput, Problem, UserError
from cgddi.fedd.plan import FeddPlan
from cgddi.healthy.verdicts import read_review, read_verdicts
from cgddi.masks.settings import SOURCE_MODULES, SOURCE_VERSIONS, MasksSettings, Sam3Settings
from cgddi.packs import packs_of
from cgddi.sheets import Concept, Photo, check_files, load_sheets
from cgddi.sourcehash import pinned_versions, source_hash
from cgddi.splits import SplitSettings, assign, gaps

STAGES = {
    "masks": "masks",
    "healthy": "healthy",
    "canvases": "canvases",
    "lesion_mapped": "mapping",
    "embedding": "embedding",
    "fedd": "fedd",
    "lora": "lora",
    "semantic": "semantic",
    "index": "index",
    "audit": "audit",
    "classify": "classify",
    "fairness": "fairness",
    "report": "report",
    "export": "export",
}
"""Stage (rule, config section) -> subpackage of cgddi that holds it."""


@cache
def stage_versions(stage: str, more: tuple[str, ...] = ()) -> dict[str, str]:
    """Pinned versions of the distributions that shape a stage's result (its settings module's VERSIONS, and `more`)."""
    module = __import__(f"cgddi.{STAGES[stage]}.settings", fromlist=["VERSIONS"])
    return {name: pinned_versions().get(name.lower(), "unpinned") for name in (*module.VERSIONS, *more)}


@cache
def model_spec(model: Model) -> dict[str, Any]:
    """A model's identity for a spec. A local folder is fingerprinted: by content up to 64 MB, else by names and sizes."""
    spec = model.model_dump()
    folder = Path(model.source)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        small = sum(path.stat().st_size for path in files) <= 64 << 20
        digest = hashlib.sha256()
        for path in files:
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
            if small or path.suffix == ".json":
                digest.update(path.read_bytes())
        spec["fingerprint"] = digest.hexdigest()[:16]
    elif model.source.startswith((".", "/", "~")):
        raise UserError(
            f"models: {model.source} is no folder. Download the model there, or name a hub id in the config."
        )
    return spec


class Plan:
    """All jobs of one configuration.

    Args:
        config: the checked configuration.

    Raises:
        InvalidInput: the sheets, the review file or a split have problems; all of them at once.
    """

    def __init__(self, config: Config):
        self.config = config
        sheets = load_sheets(config.images, config.diseases)
        self.photos, self.concepts = _resolve_mixed(
            sheets.photos, sheets.concepts, config.mixed_malignancy, config.images
        )
        problems = check_files(sheets)
        unknown = [slug for slug in config.only_concepts if slug not in self.concepts]
        problems += [
            Problem("config", "no such concept", "Name slugs of the disease sheet.", None, "only_concepts", s)
            for s in unknown
        ]
        problems += [
            Problem("config", "no such concept", "Name slugs of the disease sheet.", None, "drop_concepts", s)
            for s in config.drop_concepts
            if s not in self.concepts
        ]
        self.by_cohort: dict[str, list[Photo]] = defaultdict(list)
        for photo in self.photos:
            self.by_cohort[photo.cohort].append(photo)
        problems += [
            Problem("config", "no photo of this cohort in the image sheet", "Mend the name.", None, f"cohorts.{name}")
            for name in config.cohorts
            if name not in self.by_cohort
        ]
        self.roles = {name: self._roles(split) for name, split in config.splits.items()}
        for name, split in config.splits.items():
            problems += [
                Problem("config", f"the split has {gap}", "Change its method, seed or shares.", None, f"splits.{name}")
                for gap in gaps(self.photos, self.roles[name], split)
            ]
        self.fedd = FeddPlan(self)
        problems += self.fedd.problems() if not problems else []
        if problems:
            raise InvalidInput(problems)
        self.verdicts = self._read_verdicts()

    def cohort(self, name: str) -> Cohort:
        """Settings of a cohort."""
        return self.config.cohorts.get(name, Cohort())

    def masks_settings(self, cohort: str) -> MasksSettings:
        """Masks settings of a cohort: the section's, with the keys it has of its own."""
        return self.config.masks_of(cohort)

    def _roles(self, split: SplitSettings) -> dict[str, str]:
        roles: dict[str, str] = {}
        groups: dict[str, str] = {}
        for cohort, photos in self.by_cohort.items():
            new = assign(photos, self.cohort(cohort).role, split, groups)
            roles.update(new)
            for photo in photos:
                if photo.image_id in new:
                    groups.setdefault(photo.group or photo.image_id, new[photo.image_id])
        return roles

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

    @cached_property
    def development(self) -> list[str]:
        """Cohorts from which images are generated, in the sheet's order."""
        return [name for name in self.by_cohort if self.cohort(name).role == "development"]

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
        return ["all"] if self.config.generator_scope == "all" else list(self.config.splits)

    @cached_property
    def training(self) -> dict[tuple[str, str], list[Photo]]:
        """(scope, concept) -> photos its token and adapter train on."""
        found: dict[tuple[str, str], list[Photo]] = defaultdict(list)
        for scope in self.scopes:
            for photo in self.photos:
                if self.generates(photo) and (scope == "all" or self.roles[scope].get(photo.image_id) == "train"):
                    found[scope, photo.concept].append(photo)
        return dict(found)

    @cached_property
    def adapters(self) -> list[tuple[str, str]]:
        """(scope, concept) of every adapter that is wanted: all that can be trained, but for dropped concepts."""
        return [(scope, concept) for scope, concept in self.training if concept not in self.config.drop_concepts]

    @cached_property
    def packs(self) -> dict[tuple[str, str], list[str]]:
        """(scope, pack) -> concepts whose adapters one lora job trains together (`lora.concepts_per_job` above 1)."""
        return packs_of(self.training, self.config.lora.concepts_per_job)

    @cached_property
    def pack_of(self) -> dict[tuple[str, str], str]:
        """(scope, concept) -> its pack."""
        return {(scope, concept): pack for (scope, pack), concepts in self.packs.items() for concept in concepts}

    @cached_property
    def samples(self) -> list[tuple[str, str, str]]:
        """(scope, canvas cohort, concept) of every semantic job."""
        return [
            (scope, cohort, concept)
            for scope, concept in self.adapters
            if len(photos := self.training[scope, concept]) >= self.config.sample_min_images
            for cohort in self.canvases_for({p.cohort for p in photos})
        ]

    @cached_property
    def _labels(self) -> dict[str, set[bool | None]]:
        found: dict[str, set[bool | None]] = defaultdict(set)
        for photo in self.photos:
            found[photo.concept].add(photo.malignant)
        return dict(found)

    def concept_label(self, slug: str) -> bool | None:
        """Malignancy that samples of a concept carry: the one its photos agree on, else None."""
        labels = self._labels.get(slug, set())
        return next(iter(labels)) if len(labels) == 1 else None

    # ---- review ------------------------------------------------------------------------------------

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

    # ---- specs -------------------------------------------------------------------------------------

    def spec(self, stage: str, **facts: Any) -> str:
        """A job's spec as canonical JSON: its settings, the rows it depends on, its seed, code hash and pinned versions."""
        settings = facts.pop("settings", None) or getattr(self.config, stage, None)
        return canonical(
            {
                "stage": stage,
                "settings": settings.model_dump(mode="json") if settings else {},
                "seed": self.config.seed,
                "source": source_hash(f"cgddi.{STAGES[stage]}.command"),
                "versions": stage_versions(stage),
                **facts,
            }
        )

    @cached_property
    def automatic_cohorts(self) -> list[str]:
        """Cohorts whose masks are made, not given."""
        return [name for name in self.by_cohort if self.masks_settings(name).source != "human"]

    @property
    def reports_masks(self) -> bool:
        """Whether the report has a section on masks and FEDD."""
        return bool(self.config.fedd.study or self.automatic_cohorts)

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

    def report_spec(self) -> str:
        """Spec of the report."""
        facts = {"human_masks": self.human_masks} if self.human_masks else {}
        return self.spec("report", triage=self.config.canvases.triage.model_dump(mode="json"), **facts)

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
        if source in SOURCE_MODULES:
            facts["finder"] = source_hash(SOURCE_MODULES[source])
        facts["versions"] = stage_versions("masks", SOURCE_VERSIONS[source])
        return self.spec("masks", settings=chosen, cohort=cohort, batch=batch, rows=rows, **facts)

    def mask_files(self, cohort: str, batch: str) -> list[str]:
        """Mask files of the sheet that a masks job reads."""
        chosen = self.masks_settings(cohort)
        read = chosen.source == "human" or chosen.prefer_human
        return [p.mask for p in self.batches[cohort][batch] if p.mask] if read else []

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

    def generator_photos(self, stage: str, scope: str, concept: str) -> list[Photo]:
        """Photos an embedding or lora job trains on: the concept's, or the whole scope's (`embedding.images: all`)."""
        if stage == "embedding" and self.config.embedding.images == "all":
            return [p for (other, _), photos in self.training.items() if other == scope for p in photos]
        return self.training[scope, concept]

    def generator_spec(self, stage: str, scope: str, concept: str) -> str:
        """Spec of one concept's token or adapter; an adapter trained with others also names them and their images."""
        facts = {}
        if stage == "lora" and self.config.lora.concepts_per_job > 1:
            together = self.packs[scope, self.pack_of[scope, concept]]
            facts["trained_with"] = {c: [p.image_id for p in self.training[scope, c]] for c in together}
        return self.spec(
            stage,
            scope=scope,
            concept=self._concept(concept),
            images=[p.image_id for p in self.generator_photos(stage, scope, concept)],
            model=model_spec(self.config.models.base),
            **facts,
        )

    def pack_spec(self, scope: str, pack: str) -> str:
        """Spec of a lora job that trains several concepts: their specs, in the pack's order."""
        specs = [json.loads(self.generator_spec("lora", scope, concept)) for concept in self.packs[scope, pack]]
        return canonical({"pack": specs})

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

    def index_spec(self, split: str) -> str:
        """Spec of an index job."""
        dropped = {"drop_concepts": sorted(self.config.drop_concepts)} if self.config.drop_concepts else {}
        return self.spec("index", split=split, **dropped)

    # ---- classifiers -------------------------------------------------------------------------------

    @cached_property
    def regimes(self) -> list[str]:
        """Regimes that are trained: those of `runs.regimes`, and those they start from."""
        found = dict.fromkeys(self.config.runs.regimes)
        for name in self.config.runs.regimes:
            while (name := self.config.regime(name).init) is not None:
                found[name] = None
        return list(found)

    def classify_spec(self, split: str, regime: str, method: str, run_seed: int) -> str:
        """Spec of a classify job."""
        chosen = self.config.regime(regime).model_dump(mode="json")
        return self.spec("classify", split=split, regime=chosen, method=method, run_seed=run_seed)

    # ---- splits ------------------------------------------------------------------------------------

    def split_rows(self, split: str, cohort: str) -> list[tuple[str, str]]:
        """(image_id, role) of one cohort in one split, in the sheet's order."""
        roles = self.roles[split]
        return [(p.image_id, roles[p.image_id]) for p in self.by_cohort[cohort] if p.image_id in roles]

    def split_cohorts(self, split: str) -> list[str]:
        """Cohorts that take part in a split."""
        return [cohort for cohort in self.by_cohort if self.split_rows(split, cohort)]

    def split_hash(self, split: str, cohort: str) -> str:
        """Hash of one cohort's assignment."""
        return hashlib.sha256(canonical(self.split_rows(split, cohort)).encode()).hexdigest()[:16]

    def write_split(self, split: str, cohort: str, path: str) -> None:
        """Write one cohort's assignment as csv (image_id, role)."""
        with open(path, "w", newline="", encoding="ascii") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(["image_id", "role"])
            writer.writerows(self.split_rows(split, cohort))


def _resolve_mixed(
    photos: Iterable[Photo], concepts: Mapping[str, Concept], policy: str, source: str
) -> tuple[list[Photo], dict[str, Concept]]:
    """Apply the policy on concepts that hold malignant and benign photos (config key `mixed_malignancy`)."""
    photos, concepts = list(photos), dict(concepts)
    labels = defaultdict(set)
    for photo in photos:
        labels[photo.concept].add(photo.malignant)
    mixed = {slug for slug, seen in labels.items() if {True, False} <= seen}
    if policy == "error" and mixed:
        raise InvalidInput(
            [
                Problem(
                    source,
                    f"concept {slug} has malignant and benign photos",
                    "Split it in the disease sheet, or set mixed_malignancy.",
                )
                for slug in sorted(mixed)
            ]
        )
    if policy != "split":
        return photos, concepts
    names = {True: "malignant", False: "benign", None: "unlabelled"}
    for slug in mixed:
        whole = concepts.pop(slug)
        for label in labels[slug]:
            new = f"{slug}-{names[label]}"
            concepts[new] = replace(whole, slug=new, name=f"{whole.name} ({names[label]})", token=f"<{new}>")
    renamed = [replace(p, concept=f"{p.concept}-{names[p.malignant]}") if p.concept in mixed else p for p in photos]
    return renamed, concepts


def safe_pattern(names: Iterable[str]) -> str:
    """A wildcard constraint that matches exactly the given names."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"
