"""What stands in a job's spec for settings, photos, labels and models. Light: read at every parse.

Labels come to a job by its spec, where it uses them (`core.labels`): a corrected one makes again what learnt from it and no more.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from cgddi.core.archive import sha256
from cgddi.core.errors import Problem
from cgddi.core.source import PACKAGE
from cgddi.fedd.plan import FeddPlan
from cgddi.plan.config import Config
from cgddi.plan.content import Contents, spec_hash
from cgddi.plan.photos import Photos
from cgddi.plan.sections import Model
from cgddi.plan.sheets import Photo
from cgddi.plan.specs import SpecFiles, revision
from cgddi.plan.splits import gaps


class Described(Photos):
    """The photos of one configuration, and how a job is told what it is made from.

    Args:
        main: whether this process steers the run: it alone writes specs and remembers digests.
    """

    def __init__(self, config: Config, main: bool = False):
        config = config.model_copy(update={"results": results_of(config)})
        super().__init__(config)
        self.contents = contents_of(config.results, main)
        self.specs = SpecFiles(config.results, self.contents, main)
        self.fedd = FeddPlan(self)
        self._sections: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def spec(self, stage: str, settings: Any = None, **facts: Any) -> dict[str, Any]:
        """A job's spec: its stage's REVISION, its settings, the rows it depends on, its seed."""
        deciding, neutral = self._section(stage) if settings is None else self.contents.settings(settings)
        if neutral:
            self.specs.neutral[spec_hash(deciding)] = neutral
        return {
            "stage": stage,
            "revision": revision(stage, facts.get("job")),
            "settings": deciding,
            "seed": self.config.seed,
            **facts,
        }

    def _section(self, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """A stage's section of the config, as (what decides a result, what does not)."""
        if stage not in self._sections:
            settings = getattr(self.config, stage, None)
            self._sections[stage] = self.contents.settings(settings) if settings else ({}, {})
        return self._sections[stage]

    def model(self, model: Model) -> dict[str, Any]:
        """What stands for a model in a spec (see `Contents.model`)."""
        return self.contents.model(model.source, model.revision, model.variant)

    def photo(self, photo: Photo, mask: str | None = None) -> dict[str, Any]:
        """Id and content of a photo, and of the mask given, for a spec."""
        self._read_photos()
        return {
            "image_id": photo.image_id,
            "file": self.contents.file(photo.file),
            "mask": self.contents.file(mask) if mask else None,
        }

    def _read_photos(self) -> None:
        """Read all photos and masks at once, before the first of them is asked for."""
        if not self.__dict__.setdefault("_photos_read", False):
            self._photos_read = True
            self.contents.read_all(path for p in self.photos for path in (p.file, p.mask) if path)

    def labels(self, photos: Iterable[Photo], *names: str) -> list[dict[str, Any]]:
        """Rows `labels` of a spec: image_id and those named of concept, tone, malignant and group."""
        return [
            {"image_id": p.image_id, **{name: p.skin_tone if name == "tone" else getattr(p, name) for name in names}}
            for p in photos
        ]

    def indexed(self, photo: Photo, role: str | None) -> bool:
        """Whether a split's index tells a photo's labels. Those of test photos it does not, so that a corrected one trains nothing
        again: unless epochs are chosen by them, images on or of test photos are learnt from, or the concept leaves the index."""
        config, ways = self.config, self.config.index.drop_touching
        told = config.classify.selection == "test" or "donor" not in ways or "own_canvas" in ways
        return role in ("train", "validation") or told or photo.concept in config.drop_concepts

    @cached_property
    def test_labels(self) -> list[dict[str, Any]]:
        """Labels of the test photos of all splits."""
        tested = {image for roles in self.roles.values() for image, role in roles.items() if role == "test"}
        return self.labels((p for p in self.photos if p.image_id in tested), "concept", "tone", "malignant")

    @cached_property
    def out_of_tone(self) -> set[str]:
        """Splits of which no tone is both learnt and tested."""
        found = set()
        for split, roles in self.roles.items():
            tones: dict[str, set[str]] = defaultdict(set)
            for photo in self.photos:
                tones[roles.get(photo.image_id, "")].add(photo.skin_tone)
            found |= set() if tones["train"] & tones["test"] else {split}
        return found

    def concept_label(self, scope: str, concept: str) -> bool | None:
        """Malignancy that samples of a concept carry: the one its training photos agree on, else None."""
        labels = {photo.malignant for photo in self.training[scope, concept]}
        return labels.pop() if len(labels) == 1 else None

    @cached_property
    def untestable(self) -> list[Problem]:
        """What keeps splits from being tested: classes and tones without a test photo. It matters where classifiers are trained."""
        settings, dropped = self.config.classify, self.config.drop_concepts
        photos = [photo for photo in self.photos if photo.concept not in dropped]
        classes = settings.partition if settings.task == "partition" else {}
        class_of = None if settings.task == "malignancy" else lambda photo: classes.get(photo.concept, photo.concept)
        return [
            self.config.problem(f"splits.{name}", f"the split has {gap}", "Change its method, seed or shares.")
            for name, split in self.config.splits.items()
            for gap in gaps(photos, self.roles[name], split, class_of)
        ]


def results_of(config: Config) -> str:
    """The folder of a configuration's results: one of its own where it is for some concepts only."""
    return f"{config.results}/{only_name(config.only_concepts)}" if config.only_concepts else config.results


def contents_of(results: str, main: bool = False) -> Contents:
    """What files hold, as a results folder remembers it; main: whether what is read now is remembered too."""
    return Contents(Path(results) / ".plan/digests.json", main)


def only_name(concepts: Iterable[str]) -> str:
    """Folder, below the results, of a run for some concepts only: it neither uses nor changes those of the whole."""
    concepts = sorted(concepts)
    return f"only-{concepts[0]}" + (f"-and-{len(concepts) - 1}-{spec_hash(concepts)[:6]}" if concepts[1:] else "")


def page_hash(stage: str) -> str:
    """Hash of a stage's page templates: another one makes another page."""
    files = sorted(p for p in (PACKAGE / "stages" / stage).rglob("*.*") if p.suffix in (".html", ".css", ".js", ".in"))
    return spec_hash([[path.name, sha256(path.read_bytes())] for path in files])
