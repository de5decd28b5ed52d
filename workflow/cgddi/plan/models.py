"""The models a config names, and the commit of each that is not on this disk: `models.lock.yaml` in the working folder, written by
`cgddi fetch`. Specs name commits, so that no weights change under a run. Light: read at every parse of the Snakefile."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cgddi.core.errors import Problem, refuse
from cgddi.plan.config import Config
from cgddi.plan.configfile import read
from cgddi.plan.intact import faults, hub_home, snapshot
from cgddi.plan.sections import Model
from cgddi.stages.audit.settings import hub_file
from cgddi.stages.classify.settings import Training, training_of

LOCK = Path("models.lock.yaml")
"""Name as the config has it -> commit."""

COMMIT = re.compile(r"[0-9a-f]{40}")
READERS = {
    "models.base": ("embedding", "lora", "semantic"),
    "models.inpainting": ("healthy",),
    "models.fedd": ("fedd_features",),
    "models.sam3": ("sam3_masks", "skin"),
    "healthy.prior": ("healthy",),
    "adapters": ("semantic",),
    "classify": ("classify",),
    "audit": ("audit", "audit_pictures"),
    "fedd.baselines": ("fedd_baseline",),
}
"""Key that names models, or what it begins with -> rules whose jobs read them."""


@dataclass(frozen=True)
class HubModel:
    """A model on the hub that a config names.

    Args:
        key: the config key that names it.
        name: hub id, `id@revision` where the config names one, or `timm:backbone`: its key in the lock file.
        kind: which of its files are read.
        files: of kind "files" (a given adapter, weights in one file), those that are read.
    """

    key: str
    name: str
    kind: Literal["pipeline", "text encoder", "transformers", "timm", "smp", "files"]
    variant: str | None = None
    files: tuple[str, ...] = ()


def used_models(config: Config) -> dict[str, bool]:
    """Key below `models` -> whether any job reads that model."""
    sources = {config.masks.source, *(config.masks_of(name).source for name in config.cohorts)}
    generated = bool(config.sources & {"healthy", "lesion_mapped", "semantic"})
    return {
        "base": "semantic" in config.sources,
        "inpainting": config.healthy.method != "heal" and generated,
        "fedd": config.fedd.study or "fedd" in sources,
        "sam3": "sam3" in sources,
    }


def named_models(config: Config) -> Iterator[HubModel]:
    """The hub models of a config, those only that its jobs read; local folders and files are none."""
    used, study = used_models(config), config.fedd.study
    for part, wanted in used.items():
        model: Model = getattr(config.models, part)
        if wanted and is_hub(model.source):
            kind = "transformers" if part == "sam3" else "pipeline"
            yield HubModel(f"models.{part}", _name(model.source, model.revision), kind, model.variant)
    for slug, adapter in config.adapters.items() if "semantic" in config.sources else ():
        if is_hub(adapter.source) and not adapter.is_file:
            name = _name(adapter.source, adapter.revision)
            yield HubModel(f"adapters.{slug}", name, "files", files=adapter.files)
    healthy = config.healthy
    if used["inpainting"] and "kandinsky" in config.models.inpainting.source.lower() and is_hub(healthy.prior):
        yield HubModel("healthy.prior", _name(healthy.prior, healthy.prior_revision), "pipeline")
    if "patchalign" in config.runs.methods and is_hub(texts := _text_encoder(config)):
        yield HubModel("classify.label_texts.text_encoder", texts, "text encoder")
    for method in config.runs.methods:
        training = training_of(config.classify, method)
        if training.weights == "hub":
            yield HubModel(f"classify (method {method})", f"timm:{training.backbone}", "timm")
        elif is_hub(training.weights):
            yield HubModel(f"classify (method {method})", training.weights, "timm")
    for key in ("inception", "lpips"):
        if (place := hub_file(getattr(config.audit, key) or "")) and not Path(getattr(config.audit, key)).exists():
            yield HubModel(f"audit.{key}", _name(place[0], place[2]), "files", files=(place[1],))
    if config.audit.features.weights == "hub":
        yield HubModel("audit.features", f"timm:{config.audit.features.backbone}", "timm")
    baselines = config.fedd.baselines
    for task, kind in (("classification", "timm"), ("segmentation", "smp")):
        for network in getattr(baselines, task) if study else ():
            if baselines.weights_of(task, network) == "hub":
                yield HubModel(f"fedd.baselines.{task}", f"{kind}:{network}", kind)


def is_hub(source: str | None) -> bool:
    """Whether a source is a hub id: `owner/name`, no folder of that name here."""
    return bool(source) and re.fullmatch(r"[\w-]+/[\w.-]+(@.+)?", source) is not None and not Path(source).exists()


def _name(source: str, revision: str | None) -> str:
    return f"{source}@{revision}" if revision else source


def _text_encoder(config: Config) -> str | None:
    """Where label texts are embedded: at the base model's revision, where that is the model."""
    texts, base = config.classify.label_texts.text_encoder, config.models.base
    return _name(texts, base.revision) if texts == base.source else texts


def read_lock(path: Path = LOCK) -> dict[str, str]:
    """The lock file: name -> commit; empty where there is none.

    Raises:
        InvalidInput: a line of it is no commit.
    """
    if not path.exists():
        return {}
    given = read([path])
    wrong = [
        given.problem((name,), "no commit", "Delete the line and run `cgddi fetch` again.", commit)
        for name, commit in given.values.items()
        if not COMMIT.fullmatch(str(commit))
    ]
    refuse(wrong)
    return given.values


def locked(config: Config, lock: Mapping[str, str] | None = None) -> Config:
    """The config with the commit of each hub model in the place of its revision, as far as the lock file knows it.

    Args:
        lock: name -> commit; None reads the lock file.
    """
    lock = read_lock() if lock is None else lock

    def pinned(model: Model) -> Model:
        commit = lock.get(_name(model.source, model.revision)) if is_hub(model.source) else None
        return model.model_copy(update={"revision": commit}) if commit else model

    parts = config.models
    models = parts.model_copy(update={name: pinned(getattr(parts, name)) for name in type(parts).model_fields})
    healthy, audit, classify = config.healthy, config.audit, config.classify
    if commit := lock.get(_name(healthy.prior, healthy.prior_revision)):
        healthy = healthy.model_copy(update={"prior_revision": commit})
    if commit := lock.get(f"timm:{audit.features.backbone}") if audit.features.weights == "hub" else None:
        features = audit.features.model_copy(update={"weights": f"hub@{commit}"})
        audit = audit.model_copy(update={"features": features})
    for key in ("inception", "lpips"):
        if (place := hub_file(getattr(audit, key) or "")) and (commit := lock.get(_name(place[0], place[2]))):
            audit = audit.model_copy(update={key: f"{place[0]}/{place[1]}@{commit}"})
    if is_hub(texts := _text_encoder(config)):
        commit = lock.get(texts)
        update = {"text_encoder": f"{texts.split('@')[0]}@{commit}" if commit else texts}
        classify = classify.model_copy(update={"label_texts": classify.label_texts.model_copy(update=update)})
    methods = dict(classify.methods)
    for method in config.runs.methods:
        training = training_of(classify, method)
        weights = training.weights
        commit = lock.get(f"timm:{training.backbone}" if weights == "hub" else weights)
        if commit and (weights == "hub" or is_hub(weights)):
            pinned_weights = {"weights": f"{weights.partition('@')[0]}@{commit}"}
            methods[method] = methods.get(method, Training()).model_copy(update=pinned_weights)
    classify = classify.model_copy(update={"methods": methods})
    adapters = {
        slug: adapter.model_copy(update={"revision": commit}) if commit else adapter
        for slug, adapter in config.adapters.items()
        for commit in [lock.get(_name(adapter.source, adapter.revision)) if is_hub(adapter.source) else None]
    }
    baselines, files = config.fedd.baselines, dict(config.fedd.baselines.weight_files)
    for network in baselines.classification:
        if baselines.weights_of("classification", network) == "hub" and (commit := lock.get(f"timm:{network}")):
            files[f"classification/{network}"] = f"hub@{commit}"
    fedd = config.fedd.model_copy(update={"baselines": baselines.model_copy(update={"weight_files": files})})
    update = {"models": models, "healthy": healthy, "audit": audit, "classify": classify, "adapters": adapters}
    return config.model_copy(update=update | {"fedd": fedd})


def unlocked(config: Config) -> list[str]:
    """A warning where models have no commit yet, so that their weights may change under a run; else nothing."""
    lock = read_lock()
    names = sorted({m.name for m in named_models(config) if not _commit(m, lock)})
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [
        f"No commit is noted of {', '.join(names[:5])}{more}: run `cgddi fetch`, which downloads them and writes {LOCK}."
    ]


def _commit(model: HubModel, lock: Mapping[str, str]) -> str | None:
    named = model.name.partition("@")[2]
    return named if COMMIT.fullmatch(named) else lock.get(model.name)


def absent(config: Config, rules: Collection[str] | None = None) -> list[Problem]:
    """Hub models that a run would not find whole on this disk, each with its key.

    Args:
        config: as read, or with commits in the place of revisions.
        rules: only what jobs of these read; None: all.
    """
    lock, problems = read_lock(), []
    for model in named_models(config):
        readers = next(rules for key, rules in READERS.items() if model.key.startswith(key))
        if rules is not None and not {*rules} & {*readers}:
            continue
        commit = _commit(model, lock)
        folder = snapshot(model.name, commit)
        again = f"Run `cgddi fetch`, with the jobs' HF_HOME (now {hub_home()})."
        if folder is None:
            problems.append(config.problem(model.key, f"{model.name.split('@')[0]} is not on this disk", again))
            continue
        if model.kind == "files":
            wrong = [f"{name} is missing" for name in model.files if not (folder / name).exists()]
        else:
            parts = ("tokenizer", "text_encoder") if model.kind == "text encoder" else ()
            wrong = faults(folder, model.variant, parts)
        remedy = f"Delete {folder} and run `cgddi fetch` again." if wrong else ""
        problems += [config.problem(model.key, f"{model.name.split('@')[0]}: {text}", remedy) for text in wrong]
    return problems
