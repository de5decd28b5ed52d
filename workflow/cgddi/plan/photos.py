"""The photos of one configuration: their concepts, roles and batches, and what is made of each. Light: read at every parse.

Nothing here depends on the order of the sheet's rows: photos stand in the order of their ids, concepts of their slugs, and of the
cohorts the largest is first.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property

from cgddi.core.errors import InvalidInput, Problem, refuse
from cgddi.ingest.names import UNKNOWN
from cgddi.plan import given
from cgddi.plan.config import Config
from cgddi.plan.models import locked
from cgddi.plan.paths import Paths
from cgddi.plan.sections import Cohort
from cgddi.plan.sheets import Concept, Photo, check_files, check_same_file, load_sheets, padded
from cgddi.plan.splits import SplitSettings, assign, taking_part
from cgddi.stages.canvases.verdicts import read_review, verdicts_of


class Photos:
    """The photos of one configuration, by cohort, with their concepts, roles and settings.

    Raises:
        InvalidInput: the sheets or the config's names have problems; all of them at once.
    """

    def __init__(self, config: Config):
        config = locked(config)
        if config.runs.splits:
            config = config.model_copy(update={"splits": {name: config.splits[name] for name in config.runs.splits}})
        self.config = config
        refuse(config.absent_sheets())
        sheets = load_sheets(config.images, config.diseases)
        self.photos, self.concepts = self._resolve_mixed(sheets.photos, sheets.concepts)
        cohorts: dict[str, list[Photo]] = defaultdict(list)
        for photo in self.photos:
            cohorts[photo.cohort].append(photo)
        self.by_cohort = {name: cohorts[name] for name in sorted(cohorts, key=lambda c: (-len(cohorts[c]), c))}
        """Cohort -> its photos, the largest cohort first."""
        problems = [*check_files(sheets), *check_same_file(sheets)]
        problems += [
            config.problem(key, "no such concept", "Name slugs of the disease sheet.", slug)
            for key in ("only_concepts", "drop_concepts")
            for slug in getattr(config, key)
            if slug not in self.concepts
        ]
        named = [*((f"cohorts.{name}", name) for name in config.cohorts), ("first_cohort", config.first_cohort)]
        problems += [
            config.problem(key, "no photo of this cohort in the image sheet", "Fix the name.", name)
            for key, name in named
            if name is not None and name not in self.by_cohort
        ]
        refuse(problems)
        self.paths = Paths(config.results, config.published.table)
        self.roles = {name: self._roles(split) for name, split in config.splits.items()}
        refuse(given.problems(self))

    def _resolve_mixed(
        self, photos: Iterable[Photo], concepts: Mapping[str, Concept]
    ) -> tuple[list[Photo], dict[str, Concept]]:
        """Photos by id and concepts by slug, after the policy on concepts that hold malignant and benign photos (config key
        `mixed_malignancy`). Photos that only test classifiers make no concept mixed."""
        photos = sorted(photos, key=lambda photo: photo.image_id)
        concepts = {slug: concepts[slug] for slug in sorted(concepts)}
        labels: dict[str, set[bool | None]] = defaultdict(set)
        for photo in photos:
            if self.cohort(photo.cohort).role == "development":
                labels[photo.concept].add(photo.malignant)
        mixed = sorted(slug for slug, seen in labels.items() if {True, False} <= seen)
        policy = self.config.mixed_malignancy
        if policy == "error" and mixed:
            what, remedy = "has malignant and benign photos", "Split it in the disease sheet, or set mixed_malignancy."
            raise InvalidInput([Problem(self.config.images, f"concept {slug} {what}", remedy) for slug in mixed])
        if policy != "split":
            return photos, concepts
        names = {True: "malignant", False: "benign", None: "unlabelled"}
        renamed = [replace(p, concept=f"{p.concept}-{names[p.malignant]}") if p.concept in mixed else p for p in photos]
        for slug in mixed:
            whole = concepts.pop(slug)
            for label in {p.malignant for p in photos if p.concept == slug}:
                new = f"{slug}-{names[label]}"
                concepts[new] = replace(whole, slug=new, name=f"{whole.name} ({names[label]})", token=f"<{new}>")
        return renamed, {slug: concepts[slug] for slug in sorted(concepts)}

    def cohort(self, name: str) -> Cohort:
        """Settings of a cohort."""
        return self.config.cohorts.get(name, Cohort())

    @cached_property
    def automatic_cohorts(self) -> list[str]:
        """Cohorts whose masks are made, not given."""
        return [name for name in self.by_cohort if self.config.masks_of(name).source != "human"]

    @cached_property
    def development(self) -> list[str]:
        """Cohorts from which images are generated."""
        return [name for name in self.by_cohort if self.cohort(name).role == "development"]

    # ---- splits ------------------------------------------------------------------------------------

    def _roles(self, split: SplitSettings) -> dict[str, str]:
        roles: dict[str, str] = {}
        groups: dict[str, str] = {}
        for cohort, photos in self.by_cohort.items():
            new = taking_part(cohort, assign(photos, self.cohort(cohort).role, split, groups), split)
            roles.update(new)
            for photo in photos:
                if photo.image_id in new:
                    groups.setdefault(photo.group or photo.image_id, new[photo.image_id])
        return roles

    def split_rows(self, split: str, cohort: str) -> list[tuple[str, str]]:
        """(image_id, role) of one cohort in one split."""
        roles = self.roles[split]
        return [(p.image_id, roles[p.image_id]) for p in self.by_cohort[cohort] if p.image_id in roles]

    def split_cohorts(self, split: str) -> list[str]:
        """Cohorts that take part in a split."""
        return [cohort for cohort in self.by_cohort if self.split_rows(split, cohort)]

    def learnt_cohorts(self, split: str) -> list[str]:
        """Cohorts whose photos a split trains on."""
        roles = self.roles[split]
        return [c for c, photos in self.by_cohort.items() if any(roles.get(p.image_id) == "train" for p in photos)]

    def made_for(self, split: str) -> dict[str, list[str]]:
        """Archives of generated images by kind that a split may learn from: made of photos of cohorts it trains on, on canvases of
        cohorts that take part in it, and of concepts it trains on."""
        learnt, present, roles = self.learnt_cohorts(split), self.split_cohorts(split), self.roles[split]
        concepts = {p.concept for p in self.photos if roles.get(p.image_id) == "train"}
        file = self.paths.file
        canvases = [c for c in self.canvas_cohorts if c in learnt]
        mapped = [
            names for names in self.mapped_batches if names["canvas_cohort"] in present and names["cohort"] in learnt
        ]
        scope = self.scope_of(split)
        samples = [(c, slug) for s, c, slug in self.samples if s == scope and c in present and slug in concepts]
        made = {
            "healthy": [file("canvases", cohort=c) for c in canvases],
            "lesion_mapped": [file("lesion_mapped", **names) for names in mapped],
            "semantic": [file("semantic", scope=scope, canvas_cohort=c, concept=slug) for c, slug in samples],
        }
        return {kind: sorted(archives) for kind, archives in made.items() if kind in self.sources}

    # ---- batches and canvases ----------------------------------------------------------------------

    @cached_property
    def batches(self) -> dict[str, dict[str, list[Photo]]]:
        """cohort -> batch name (`<group>.<k>`) -> photos.

        A batch holds one concept (`nevus.000`), its photos without a mask apart (`nevus.unmasked.000`), since no healthy skin is
        made of them. Photos that only test classifiers are `test.000` and on, so that a corrected disease moves none.
        """
        found: dict[str, dict[str, list[Photo]]] = {}
        size, automatic, development = self.config.images_per_job, set(self.automatic_cohorts), set(self.development)
        for cohort, photos in self.by_cohort.items():
            groups: dict[str, list[Photo]] = defaultdict(list)
            for photo in photos:
                masked = photo.mask or cohort in automatic
                name = photo.concept if masked else f"{photo.concept}.unmasked"
                groups[name if cohort in development else "test"].append(photo)
            found[cohort] = {
                f"{slug}.{k:03d}": groups[slug][start : start + size]
                for slug in sorted(groups)
                for k, start in enumerate(range(0, len(groups[slug]), size))
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
        automatic = set(self.automatic_cohorts)
        return {
            name: [p for p in photos if (p.mask or name in automatic) and self.generates(p)]
            for name, photos in self.by_cohort.items()
        }

    def masked(self, cohort: str) -> list[Photo]:
        """Photos of a cohort that generate and have a mask file, or get a mask made (which may turn out to be of no use)."""
        return self._masked[cohort]

    @cached_property
    def scales(self) -> dict[str, dict[str, float]]:
        """Cohort -> image id -> millimetres per pixel of its photos that may become canvases, where known."""
        return {c: {p.image_id: p.mm_per_px for p in self.masked(c) if p.mm_per_px} for c in self.canvas_cohorts}

    def mask_file(self, photo: Photo) -> str | None:
        """The mask file of the sheet that a masks job reads for a photo."""
        chosen = self.config.masks_of(photo.cohort)
        return photo.mask if chosen.source == "human" or chosen.prefer_human else None

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
        """Development cohorts that have at least one masked photo: first the one whose canvases every concept meets."""
        return sorted(self.healthy_batches, key=lambda name: name != self.config.first_cohort)

    def canvases_for(self, cohorts: Iterable[str]) -> list[str]:
        """Canvas cohorts that donors or concepts of the given cohorts meet (config key `canvas_cohorts`)."""
        if self.config.canvas_cohorts == "all":
            return self.canvas_cohorts
        wanted = {*cohorts, *self.canvas_cohorts[:1]}
        return [cohort for cohort in self.canvas_cohorts if cohort in wanted]

    @cached_property
    def pairs(self) -> list[tuple[str, Photo]]:
        """(canvas cohort, donor) of every lesion and the canvases it is transplanted onto."""
        return [
            (c, donor)
            for d in self.canvas_cohorts
            for donor in self.masked(d)
            if donor.concept not in self.config.drop_concepts
            for c in self.canvases_for([d])
        ]

    @cached_property
    def mapped_batches(self) -> list[dict[str, str]]:
        """Wildcards of every lesion_mapped job: a canvas cohort, and the donors' cohort and batch. A batch holds one concept, so
        that all its masked photos are donors, or none."""
        jobs = dict.fromkeys((c, donor.cohort, self.batch_of[donor.image_id]) for c, donor in self.pairs)
        return [{"canvas_cohort": c, "cohort": cohort, "batch": batch} for c, cohort, batch in jobs]

    # ---- generators --------------------------------------------------------------------------------

    @cached_property
    def scopes(self) -> list[str]:
        """Sets of photos that generators train on: the splits' names, or "all"."""
        return list(dict.fromkeys(map(self.scope_of, self.config.splits)))

    def scope_of(self, split: str) -> str:
        """The scope whose generators serve a split."""
        return "all" if self.config.generator_scope == "all" else split

    @cached_property
    def training(self) -> dict[tuple[str, str], list[Photo]]:
        """(scope, concept) -> photos its token and adapter train on: of known skin tone, since prompts name it."""
        found: dict[tuple[str, str], list[Photo]] = defaultdict(list)
        for scope in self.scopes:
            for photo in self.photos:
                if photo.skin_tone == UNKNOWN or not self.generates(photo):  # prompts name the tone
                    continue
                if scope == "all" or self.roles[scope].get(photo.image_id) == "train":
                    found[scope, photo.concept].append(photo)
        return dict(found)

    def generator_photos(self, stage: str, scope: str, concept: str) -> list[Photo]:
        """Photos an embedding or lora job trains on: the concept's, or all of its cohorts (`embedding.images: all`)."""
        if stage == "embedding" and self.config.embedding.images == "all":
            cohorts = {p.cohort for p in self.training[scope, concept]}
            everything = [p for (other, _), photos in self.training.items() if other == scope for p in photos]
            return sorted((p for p in everything if p.cohort in cohorts), key=lambda photo: photo.image_id)
        return self.training[scope, concept]

    @cached_property
    def adapters(self) -> list[tuple[str, str]]:
        """(scope, concept) of every adapter that is wanted and not given: all that can be trained, but for dropped concepts."""
        left_out = {*self.config.drop_concepts, *self.config.adapters}
        return [(scope, concept) for scope, concept in self.training if concept not in left_out]

    @cached_property
    def samples(self) -> list[tuple[str, str, str]]:
        """(scope, canvas cohort, concept) of every semantic job; what a given adapter learnt from is not ours to count."""
        return [
            (scope, cohort, concept)
            for (scope, concept), photos in self.training.items()
            if concept not in self.config.drop_concepts
            and (concept in self.config.adapters or len(photos) >= self.config.sample_min_images)
            for cohort in self.canvases_for({p.cohort for p in photos})
        ]

    # ---- classifiers -------------------------------------------------------------------------------

    @cached_property
    def sources(self) -> set[str]:
        """What some regime learns from (see `Config.sources`)."""
        return self.config.sources

    @cached_property
    def generated(self) -> bool:
        """Whether some regime learns from images that this run makes."""
        return bool(self.sources & {"healthy", "lesion_mapped", "semantic"})

    # ---- results --------------------------------------------------------------------------------------

    @cached_property
    def reviewed(self) -> list[dict[str, str]]:
        """Rows of the review file (image_id, cohort, verdict, note), notes without a verdict too."""
        if self.config.review is None:
            return []
        if not os.path.isfile(self.config.review):
            remedy = "Export it from the review page, or take the key out."
            raise InvalidInput([self.config.problem("review", "no such file", remedy, self.config.review)])
        cohort_of = {p.image_id: p.cohort for p in self.photos}
        rows, problems = [], []
        for line, row in enumerate(read_review(self.config.review), start=2):
            image = row["image_id"]
            rows.append(row | {"image_id": image if image in cohort_of else padded(image)})
            if cohort_of.get(rows[-1]["image_id"]) != row["cohort"]:
                message = "no such photo in the image sheet"
                problems.append(Problem(self.config.review, message, "Remove the row.", line, "image_id", image))
        refuse(problems)
        return sorted(rows, key=lambda row: (row["cohort"], row["image_id"]))

    @cached_property
    def verdicts(self) -> dict[str, dict[str, str]]:
        """cohort -> image_id -> keep or discard, from the review file."""
        return verdicts_of(self.reviewed)

    def photo_archives(self, photos: Iterable[Photo]) -> list[str]:
        """Masks archives that hold the given photos."""
        pairs = {(p.cohort, self.batch_of[p.image_id]) for p in photos}
        return [self.paths.file("masks", cohort=cohort, batch=batch) for cohort, batch in sorted(pairs)]

    def all_photos(self, cohorts: Iterable[str]) -> list[str]:
        """Masks archives of whole cohorts."""
        return [self.paths.file("masks", cohort=c, batch=b) for c in cohorts for b in self.batches[c]]

    def all_healthy(self, cohorts: Iterable[str]) -> list[str]:
        """Healthy archives of whole cohorts."""
        return [self.paths.file("healthy", cohort=c, batch=b) for c in cohorts for b in self.healthy_batches.get(c, ())]

    def all_canvases(self) -> list[str]:
        """Archives of canvases."""
        return [self.paths.file("canvases", cohort=cohort) for cohort in self.canvas_cohorts]

    def all_mapped(self) -> list[str]:
        """Archives of composites."""
        return [self.paths.file("lesion_mapped", **names) for names in self.mapped_batches]

    def all_samples(self, scope: str | None = None) -> list[str]:
        """Archives of samples; of one scope, or of all."""
        return [
            self.paths.file("semantic", scope=s, canvas_cohort=cohort, concept=concept)
            for s, cohort, concept in self.samples
            if scope in (None, s)
        ]

    def every_archive(self, kinds: Iterable[str]) -> list[str]:
        """The tar of every archive, so that a deleted one is made again; of composites and samples where `kinds` has them."""
        manifests = self.all_photos(self.by_cohort)
        manifests += [*self.all_healthy(self.canvas_cohorts), *self.all_canvases()] if self.generated else []
        manifests += self.all_mapped() if "lesion_mapped" in kinds else []
        manifests += self.all_samples() if "semantic" in kinds else []
        return [manifest.removesuffix("jsonl") + "tar" for manifest in manifests]
