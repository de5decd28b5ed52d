"""What others released, as a config names it: images in the place of generated ones, adapters in the place of trained ones.

Light: read at every parse of the Snakefile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from cgddi.core.errors import Problem, UserError
from cgddi.core.settings import Settings, setting
from cgddi.ingest.diseases import read_diseases
from cgddi.ingest.table import read_table
from cgddi.stages.classify.settings import SYNTHETIC

if TYPE_CHECKING:
    from cgddi.plan.photos import Photos

UnknownLineage = Literal["leak", "waive"]
WAIVER = (
    "what counts whose lineage is not known: `leak`, it is learnt from in no split; `waive`, it is learnt from as if it were "
    "clean, and the leakage gate and every table say so"
)


class GivenImages(Settings):
    """Images that others generated. The set's name is a source of regimes: all its images, or `name/semantic` and the like."""

    archive: str = Field(description="the .tar that `cgddi ingest synthetic` wrote")
    unknown_lineage: UnknownLineage = setting("leak", WAIVER)


class GivenAdapter(Settings):
    """A ready LoRA adapter and token of a concept, used instead of training them."""

    source: str = Field(description="a .safetensors file, a folder, or a hub id owner/name")
    revision: str | None = setting(None, "hub commit or tag; `cgddi fetch` notes the commit")
    weights: str = setting("pytorch_lora_weights.safetensors", "the adapter's file in that folder or hub id")
    embedding: str | None = setting(
        "learned_embeds.safetensors",
        "the token's file: its name in the folder or hub id, or a path; null: the adapter has no learnt token",
    )
    words: str | None = setting(
        None, "with no learnt token: the words of prompts that the adapter was trained on, e.g. `melanoma`"
    )
    learnt_from: Literal["unknown"] | tuple[str, ...] = setting(
        "unknown",
        "the photos it was trained on: a list of `cohort:NAME` (all photos of a cohort), `split:NAME` (its training "
        "photos) and files of image ids; [] where it saw none of these; `unknown`",
    )
    unknown_lineage: UnknownLineage = setting("leak", WAIVER)

    @model_validator(mode="after")
    def _prompted(self) -> GivenAdapter:
        if (self.embedding is None) != (self.words is not None):
            raise ValueError(
                "give embedding, or with `embedding: null` the words that stand for the disease in prompts"
            )
        return self

    @property
    def is_file(self) -> bool:
        """Whether the source is one file."""
        return self.source.endswith(".safetensors")

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that jobs read of the folder or hub id."""
        beside = self.embedding is not None and not os.path.isfile(self.embedding)
        return (self.weights, self.embedding) if beside and self.embedding else (self.weights,)


def source_names(name: str) -> list[str]:
    """What of a set of given images a regime can name."""
    return [name, *(f"{name}/{kind}" for kind in SYNTHETIC)]


def problems(plan: Photos) -> list[Problem]:
    """Given images and adapters that are not there, and adapters of no concept."""
    config, found = plan.config, []
    for name, images in config.synthetic.items():
        manifest = Path(images.archive).with_suffix(".jsonl")
        absent = [
            str(part) for part in (Path(images.archive), manifest, manifest.with_suffix(".json")) if not part.is_file()
        ]
        if absent:
            remedy = "Write it with `cgddi ingest synthetic`; its three files lie side by side."
            found.append(config.problem(f"synthetic.{name}.archive", "no such file", remedy, absent[0]))
    known = {concept.slug for concept in read_diseases(config.diseases)[0].values()} if config.adapters else set()
    for slug, adapter in config.adapters.items():
        key = f"adapters.{slug}"
        if slug not in known and slug not in plan.concepts:
            found.append(config.problem(key, "no such concept", "Name slugs of the disease sheet.", slug))
        local = adapter.is_file or adapter.source.startswith((".", "/", "~")) or os.path.isdir(adapter.source)
        if local:
            files = [adapter.source] if adapter.is_file else [os.path.join(adapter.source, n) for n in adapter.files]
            if adapter.is_file and adapter.embedding:
                files.append(adapter.embedding)
            found += [
                config.problem(
                    f"{key}.source", "no such file", "Fix the path, or the names `weights` and `embedding`.", file
                )
                for file in files
                if not os.path.isfile(file)
            ]
        elif not re.fullmatch(r"[\w.-]+/[\w.-]+", adapter.source):
            remedy = "Name a .safetensors file, a folder, or a hub id owner/name."
            found.append(config.problem(f"{key}.source", "no such file or folder", remedy, adapter.source))
        try:
            learnt_from(plan, adapter)
        except UserError as error:
            found.append(
                config.problem(f"{key}.learnt_from", str(error), "`cgddi config adapters` tells what stands there.")
            )
    return found


def unused(plan: Photos) -> list[str]:
    """A line where given adapters draw nothing, since the plan has no such concept."""
    slugs = [slug for slug in plan.config.adapters if "semantic" in plan.sources and slug not in plan.concepts]
    if not slugs:
        return []
    split = [slug for slug in slugs if any(f"{slug}-{label}" in plan.concepts for label in ("malignant", "benign"))]
    why = f"; mixed_malignancy split {', '.join(split)}: name its parts" if split else ""
    return [f"adapters: not used for want of photos: {', '.join(slugs[:5])}{' ...' if slugs[5:] else ''}{why}."]


def learnt_from(plan: Photos, adapter: GivenAdapter) -> list[str] | None:
    """Ids of the photos an adapter was trained on, sorted; None where that is not known.

    Raises:
        UserError: a cohort, split or file that is not there.
    """
    if adapter.learnt_from == "unknown":
        return None
    ids: set[str] = set()
    for entry in adapter.learnt_from:
        kind, _, name = entry.partition(":")
        if kind == "cohort" and name in plan.by_cohort:
            ids.update(photo.image_id for photo in plan.by_cohort[name])
        elif kind == "split" and name in plan.roles:
            ids.update(image for image, role in plan.roles[name].items() if role == "train")
        elif os.path.isfile(entry):
            ids.update(ids_of(entry))
        else:
            raise UserError(f"{entry!r} is no cohort:NAME of the sheet, no split:NAME of the config and no file")
    return sorted(ids)


ID_COLUMNS = ("image_id", "md5hash", "DDI_file")
"""Columns that name photos: of the image sheet, of Fitzpatrick17k, of DDI."""


def ids_of(path: str) -> list[str]:
    """Image ids in a table (column image_id, md5hash or DDI_file), or in a plain list, one a line; of a table with a column role
    (an export's split.csv) those of the training photos.

    Raises:
        UserError: it is neither.
    """
    table = read_table(path)
    column = next((name for name in ID_COLUMNS if name in table.columns), None)
    if column is None and len(table.columns) == 1 and not table.problems:  # a plain list has no header
        return [table.columns[0], *(cells[table.columns[0]] for _, cells in table.rows)]
    if table.problems or column is None:
        raise UserError(f"{path} is no list of image ids and no table with a column {' or '.join(ID_COLUMNS)}")
    return [cells[column].rsplit(".", 1)[0] for _, cells in table.rows if cells.get("role", "train") == "train"]


def waived(
    adapters: Mapping[str, GivenAdapter], images: Mapping[str, GivenImages], sources: Sequence[str]
) -> list[str]:
    """Names of sets and `adapters.<concept>` whose unknown lineage is waived, among what the regimes use."""
    names = [
        name
        for name, given in images.items()
        if given.unknown_lineage == "waive" and {*source_names(name)} & {*sources}
    ]
    if "semantic" in sources:
        names += [f"adapters.{slug}" for slug, given in adapters.items() if given.unknown_lineage == "waive"]
    return sorted(names)


def adapter_spec(plan: Any, adapter: GivenAdapter) -> dict[str, Any]:
    """What stands for a given adapter in a spec: the content of its files, or its hub id and commit; what it learnt from."""
    if adapter.is_file:
        place = {"weights": plan.contents.file(adapter.source)}
    else:
        place = {"weights": adapter.weights, "model": plan.contents.model(adapter.source, adapter.revision)}
    own = adapter.embedding is not None and (adapter.is_file or os.path.isfile(adapter.embedding))
    embedding = plan.contents.file(adapter.embedding) if own else adapter.embedding
    learnt = learnt_from(plan, adapter)
    return {**place, "embedding": embedding, "words": adapter.words, "learnt_from": learnt}
