"""What stands in a job's spec for settings, photos and models. Light: read at every parse."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cgddi.core.archive import sha256
from cgddi.core.source import PACKAGE
from cgddi.fedd.plan import FeddPlan
from cgddi.plan.config import Config
from cgddi.plan.content import Contents, spec_hash
from cgddi.plan.labels import LabelledPhotos
from cgddi.plan.sections import Model
from cgddi.plan.sheets import Photo
from cgddi.plan.specs import SpecFiles, revision


class Described(LabelledPhotos):
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
