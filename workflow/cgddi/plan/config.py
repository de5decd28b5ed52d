"""The configuration as typed models: they are its schema, its defaults and its documentation. Light: read at every parse."""

from __future__ import annotations

import os
import posixpath
import re
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import PrivateAttr, field_validator, model_validator

from cgddi.core.errors import Problem
from cgddi.core.lineage import KINDS
from cgddi.core.settings import Settings, neutral, setting
from cgddi.fedd.settings import FeddSettings
from cgddi.plan.configfile import Mistakes, Values, check, merge, read, unknown
from cgddi.plan.given import GivenAdapter, GivenImages, source_names
from cgddi.plan.sections import BASE_MODEL, Cohort, Models, Runs
from cgddi.plan.splits import SplitSettings
from cgddi.stages.audit.settings import AuditSettings
from cgddi.stages.calibration.settings import CalibrationSettings
from cgddi.stages.canvases.settings import CanvasesSettings
from cgddi.stages.classify.settings import METHODS, REGIMES, ClassifySettings, LabelTexts, Regime, training_of
from cgddi.stages.embedding.settings import EmbeddingSettings
from cgddi.stages.export.settings import ExportSettings
from cgddi.stages.fairness.settings import FairnessSettings
from cgddi.stages.healthy.settings import HealthySettings
from cgddi.stages.index.settings import IndexSettings
from cgddi.stages.lesion_mapped.settings import LesionMappedSettings
from cgddi.stages.lora.settings import LoraSettings
from cgddi.stages.masks.settings import MasksSettings
from cgddi.stages.published.settings import PublishedSettings
from cgddi.stages.report.settings import ReportSettings
from cgddi.stages.semantic.settings import SemanticSettings

DEFAULT_FILE = "config/config.yaml"
"""The config file of a run that names none, in the working directory."""

SAFE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class Config(Settings):
    """The whole configuration."""

    results: str = setting("results/ddi", "folder of all outputs, relative to the working directory")
    cache: str = setting(
        ".cache/cgddi",
        "folder of cached latents and text embeddings, and of what a GPU made, by the content of all that made it; may "
        "be deleted any time",
    )
    cache_gb: float = neutral(
        100.0,
        "GB of inpainted photos, tokens, adapters and samples that are still kept there when a run starts, those used "
        "last: a corrected photo or mask, or another try, then costs only what it touches",
        ge=0,
    )
    container: str | None = setting(
        None,
        "image that the jobs run in with `--software-deployment-method apptainer`: a .sif file or docker://...; a "
        "site names its own in its profile",
        pattern=r"[^\s'\"]+",
    )
    max_runtime: int | None = neutral(
        None, "minutes that no job asks for more of, a later attempt neither; a site names its own in its profile", ge=1
    )
    max_mem: int | None = neutral(
        None, "MB of memory that no job asks for more of; a site names its own in its profile", ge=1024
    )
    allocations: bool = neutral(
        False, "run cluster jobs inside allocations that `cgddi work` holds; profiles/allocations sets it"
    )
    wandb: str | None = neutral(
        None,
        "project of Weights & Biases that trainings report to beside TensorBoard; needs `pip install -e '.[wandb]'` "
        "and `wandb login`, or WANDB_MODE=offline",
        pattern=r"^[A-Za-z0-9._-]+$",
    )
    seed: int = setting(2026, "the project's seed; every draw derives from it and from its own name", ge=0)
    images: str = setting("config/images.csv", "image sheet, written by `cgddi ingest`")
    diseases: str = setting("builtin:ddi", "disease sheet, or builtin:ddi, builtin:fitzpatrick17k")
    review: str | None = setting(None, "review.csv exported from the review page; null: triage decides")
    models: Models = setting(Models(), "the diffusion models")
    cohorts: dict[str, Cohort] = setting({}, "per-cohort settings, by cohort name")
    images_per_job: int = setting(64, "photos of one (cohort, concept) per job; 1: one job a photo", ge=1, le=256)
    canvas_cohorts: Literal["own_and_first", "all"] = setting(
        "own_and_first",
        "canvases a lesion or concept meets: those of its own cohort and of the first one (so a new cohort adds "
        "no job to old concepts), or those of every cohort",
    )
    first_cohort: str | None = setting(
        None,
        "development cohort whose canvases every lesion and concept meets and every adapter's prior images come from; "
        "null: the one with the most photos, which a larger one that is added would displace",
    )
    only_concepts: tuple[str, ...] = setting((), "slugs to generate for, e.g. for a smoke test; empty: all")
    drop_concepts: tuple[str, ...] = setting(
        (),
        "slugs taken out of the pooled results (index, classifiers, tables), with all images that show them or were "
        "made with them; what other concepts generated stays as it is, which removing the rows from the sheet would make again",
    )
    mixed_malignancy: Literal["error", "unlabelled", "split"] = setting(
        "unlabelled",
        "a concept with malignant and benign photos: error; unlabelled (its samples carry no malignancy and stay "
        "out of malignancy training); split (one concept for each malignancy)",
    )
    generator_scope: Literal["split", "all"] = setting(
        "split", "photos a generator trains on: the split's training photos, or all (paper; leaks into the test)"
    )
    sample_min_images: int = setting(
        2, "concepts with fewer training photos get an adapter but no samples (paper: 2)", ge=1
    )
    synthetic: dict[str, GivenImages] = setting(
        {},
        "sets of images that others generated, by name, written by `cgddi ingest synthetic`; each name is a source of "
        "regimes, and the regimes `NAME` and `NAME_real` (then fine-tuned on real photos) are there",
    )
    adapters: dict[str, GivenAdapter] = setting(
        {}, "concept slug -> a ready adapter and token, in the place of training"
    )
    splits: dict[str, SplitSettings] = setting({"main": SplitSettings()}, "named splits", min_length=1)
    masks: MasksSettings = MasksSettings()
    healthy: HealthySettings = HealthySettings()
    canvases: CanvasesSettings = CanvasesSettings()
    lesion_mapped: LesionMappedSettings = LesionMappedSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    lora: LoraSettings = LoraSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    semantic: SemanticSettings = SemanticSettings()
    index: IndexSettings = IndexSettings()
    audit: AuditSettings = AuditSettings()
    runs: Runs = Runs()
    regimes: dict[str, Regime] = setting({}, "regimes of your own, by name, beside the built-in ones")
    classify: ClassifySettings = ClassifySettings(label_texts=LabelTexts(text_encoder=BASE_MODEL))
    fairness: FairnessSettings = FairnessSettings()
    published: PublishedSettings = PublishedSettings()
    fedd: FeddSettings = FeddSettings()
    report: ReportSettings = ReportSettings()
    export: ExportSettings = ExportSettings()
    _given: Values = PrivateAttr(default_factory=Values)

    def problem(self, key: str, message: str, remedy: str, value: object = None) -> Problem:
        """A problem of a key (`splits.main`), with the file and line that gave it where they are known."""
        return self._given.problem(tuple(key.split(".")), message, remedy, value)

    def absent_sheets(self) -> list[Problem]:
        """The image or disease sheet that is not there, with the key that names it."""
        remedy = "Correct the path, or write the sheet with `cgddi ingest` (see README.md)."
        named = {"images": self.images, "diseases": self.diseases}
        return [
            self.problem(key, "no such file", remedy, path)
            for key, path in named.items()
            if not path.startswith("builtin:") and not os.path.exists(path)
        ]

    @field_validator("splits", "cohorts", "synthetic")
    @classmethod
    def _safe_names(cls, named: dict[str, Any]) -> dict[str, Any]:
        for name in named:
            if not SAFE_NAME.fullmatch(name) or name == "all":
                raise ValueError(f"{name!r} is no safe name: lowercase letters, digits, - and _, not 'all'")
        return named

    @field_validator("regimes", mode="before")
    @classmethod
    def _named(cls, regimes: Any) -> Any:
        """A regime's name is that of its key."""
        if not isinstance(regimes, Mapping):
            return regimes
        return {
            name: {"name": name, **values} if isinstance(values, Mapping) else values
            for name, values in regimes.items()
        }

    @field_validator("classify", mode="before")
    @classmethod
    def _file_or_encoder(cls, values: Any) -> Any:
        """A file of label texts takes the place of the default encoder."""
        texts = values.get("label_texts") if isinstance(values, Mapping) else None
        if isinstance(texts, Mapping) and texts.get("file") and texts.get("text_encoder") == BASE_MODEL:
            return {**values, "label_texts": {**texts, "text_encoder": None}}
        return values

    @field_validator("results", "cache")
    @classmethod
    def _own_folder(cls, path: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._/-]+", path):
            raise ValueError("only letters, digits, '.', '_', '-' and '/' may stand in this path")
        path = posixpath.normpath(path)
        if set(path) <= {".", "/"} or path.endswith("/.."):
            raise ValueError("this is no folder of the run's own; name one, such as results/ddi")
        return path

    @model_validator(mode="after")
    def _runs_known(self) -> Config:
        if found := [*self._unknown_names(), *self._odd_regimes()]:
            raise Mistakes(found)
        known = self._known_regimes()
        if self.classify.images_per_epoch:
            wanted = {*self.runs.regimes, *(name for own in self.runs.regimes_of.values() for name in own)}
            if found := [each for name in sorted(wanted) if known[name].init for each in self._turn(name, known)]:
                raise Mistakes(found)
        return self

    def _known_regimes(self) -> dict[str, Regime]:
        return {**REGIMES, **self._given_regimes(), **self.regimes}

    def _unknown_names(self) -> Iterator[tuple[str, str, str]]:
        """Names that stand for something else in the config, which is not there."""
        sources = [*KINDS, *(source for name in self.synthetic for source in source_names(name))]
        known = self._known_regimes()
        named = [
            *((f"regimes.{name}.sources", regime.sources, sources) for name, regime in self.regimes.items()),
            ("runs.methods", self.runs.methods, METHODS),
            ("runs.splits", self.runs.splits or (), self.splits),
            *((f"fairness.families.{name}", own, self.splits) for name, own in self.fairness.families.items()),
            ("runs.regimes", self.runs.regimes, known),
            *((f"runs.regimes_of.{name}", own, known) for name, own in self.runs.regimes_of.items()),
            *((f"fairness.compare.{n}", pair, known) for n, pair in enumerate(self.fairness.compare)),
        ]
        for key, names, there in named:
            yield from (unknown(f"{key}.{n}", name, there) for n, name in enumerate(names) if name not in there)
        yield from (
            unknown(f"runs.regimes_of.{name}", name, METHODS) for name in self.runs.regimes_of if name not in METHODS
        )
        for name, regime in self.regimes.items():
            if regime.init not in (None, *known):
                yield unknown(f"regimes.{name}.init", regime.init, known)
        if self.export.split not in (None, *self.splits):
            yield unknown("export.split", self.export.split, self.splits)

    def _odd_regimes(self) -> Iterator[tuple[str, str, str]]:
        for name in self.synthetic:
            if name in (*KINDS, *REGIMES) or not re.fullmatch(r"[a-z0-9_]+", name):
                yield (
                    f"synthetic.{name}",
                    "this name is taken or no safe one",
                    "Take another, of lowercase letters, digits and _.",
                )
        texts = self.classify.label_texts
        if "patchalign" in self.runs.methods and texts.file is None and texts.text_encoder is None:
            what, remedy = (
                "patchalign needs label texts",
                "Give classify.label_texts.file or .text_encoder, or leave patchalign out.",
            )
            yield "runs.methods", what, remedy
        for name, regime in self.regimes.items():
            if regime.name != name:
                yield f"regimes.{name}", f"its name is {regime.name!r}", "Give both the same."

    def _turn(self, name: str, known: Mapping[str, Regime]) -> Iterator[tuple[str, str, str]]:
        """A regime that starts from another where both cannot take the same number of train steps."""
        init, tail = known[name].init, " or set classify.images_per_epoch: null, and its epochs come on top."
        if known[init].init is not None:
            yield f"regimes.{name}.init", f"{init!r} starts from another regime itself", f"Name that one,{tail}"
            return
        for method in self.runs.methods:
            if (epochs := training_of(self.classify, method).epochs) <= self.classify.finetune_epochs:
                own = self.classify.finetune_epochs
                what = (
                    f"{own} of the {epochs} epochs of {method} leave none to the weights that regime {name} starts from"
                )
                yield "classify.finetune_epochs", what, f"Lower it,{tail}"

    def masks_of(self, cohort: str) -> MasksSettings:
        """Masks settings of a cohort: the section's, with the keys the cohort has of its own."""
        own = self.cohorts[cohort].masks if cohort in self.cohorts else None
        if own is None:
            return self.masks
        return _over(self.masks, own)

    def regime(self, name: str) -> Regime:
        """A regime by name: one of the config's own, one of a set of given images, or a built-in one."""
        return self.regimes.get(name) or self._given_regimes().get(name) or REGIMES[name]

    @property
    def trained_regimes(self) -> list[str]:
        """Regimes that are trained: those of `runs`, and those they start from."""
        found = {name: None for method in self.runs.methods for name in self.runs.of(method)}
        for name in list(found):
            while (name := self.regime(name).init) is not None:
                found[name] = None
        return list(found)

    @property
    def sources(self) -> set[str]:
        """What some regime learns from: real, healthy, lesion_mapped, semantic; sets of given images, as regimes name them."""
        return {source for name in self.trained_regimes for source in self.regime(name).sources}

    def _given_regimes(self) -> dict[str, Regime]:
        made = {}
        for name in self.synthetic:
            made[name] = Regime(name=name, sources=(name,))
            made[f"{name}_real"] = Regime(name=f"{name}_real", sources=("real",), init=name)
        return made


def _over(base: Settings, own: Settings) -> Settings:
    """A section with the keys that its special case names, also those in parts of it."""
    update = {}
    for key in own.model_fields_set:
        below, value = getattr(base, key), getattr(own, key)
        update[key] = _over(below, value) if isinstance(value, Settings) and isinstance(below, Settings) else value
    return base.model_copy(update=update)


def parse_config(values: Mapping[str, Any] | Values, source: str = "config") -> Config:
    """Check configuration values.

    Args:
        values: as read from files, or a mapping.
        source: what the values are from, for messages.

    Raises:
        InvalidInput: every unknown key and bad value at once, with its file and line where they are known.
    """
    if not isinstance(values, Values):
        given = Values(files=[source])
        merge(given.values, values)
        values = given
    config = check(Config, values)
    config._given = values
    return config


def load_config(*paths: str | Path) -> Config:
    """Read and check config files (YAML); as with Snakemake, a later one changes keys of those before it."""
    return parse_config(read(paths))


def snakemake_config(workflow: Any, config: Mapping[str, Any]) -> Config:
    """The configuration of a Snakemake run: what Snakemake was given by `--configfile` and `--config`, or by the workflow that
    uses this one as a module. Nothing is laid beneath it; only where it was given no file, `config/config.yaml` is read.

    Args:
        config: Snakemake's `config`, its files merged by Snakemake itself. They are read again, for what it is silent on
            (a key that stands twice) and for the lines of mistakes; values of `--config` have no line.
    """
    module = workflow.modifier.skip_configfile
    given = read([_short(file) for file in workflow.configfiles or ([] if module else [DEFAULT_FILE])])
    if module:
        given.values = {}
    merge(given.values, config)
    return parse_config(given)


def _short(path: str | Path) -> str:
    """A path as the user gave it: relative to the working directory where it lies in it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def config_option(parser: ArgumentParser) -> None:
    """Add `--configfile FILE [FILE ...]`, as Snakemake takes it."""
    parser.add_argument(
        "--configfile",
        nargs="+",
        default=[DEFAULT_FILE],
        metavar="FILE",
        help=f"as for snakemake: one or more, a later one changes keys of those before it (default: {DEFAULT_FILE})",
    )
