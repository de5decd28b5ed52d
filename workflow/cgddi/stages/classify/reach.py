"""Which real training images a run learns from: itself, through what was made of them, and through the weights it starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from cgddi.core.archive import Archive, file_sha256
from cgddi.core.errors import UserError
from cgddi.core.lineage import lineage
from cgddi.stages.classify.settings import REGIMES, Regime


def generator_images(rows: pd.DataFrame) -> dict[str, set[str]]:
    """Generator -> the real images it was trained on (its priors' photos among them), from the records of its archives.

    Args:
        rows: index rows; those without a generator do not count.
    """
    found: dict[str, set[str]] = {}
    made = rows[rows["generator"].notna()].drop_duplicates(["archive", "generator"])
    for archive, generator in zip(made["archive"], made["generator"], strict=True):
        row = {"kind": "semantic", "key": "", "generator": generator}
        found.setdefault(generator, set()).update(lineage(row, Archive(archive).record)["generator"])
    return found


def reached(rows: pd.DataFrame) -> set[str]:
    """Ids of the real images that training rows are, or descend from as donor, canvas or generator image."""
    own = rows.loc[rows["kind"] == "real", "image_id"]
    ids = {*own, *rows["donor"].dropna(), *rows["canvas"].dropna()}
    return ids.union(*generator_images(rows).values())


def regime_of(spec: dict[str, Any]) -> Regime:
    """The regime of a classify job's spec: a name of `REGIMES`, or a regime written out.

    Raises:
        UserError: an unknown name.
        ValidationError: not a regime.
    """
    named = spec["regime"]
    if not isinstance(named, str):
        return Regime(**named)
    if named not in REGIMES:
        raise UserError(
            f"no regime {named!r}; built in are {', '.join(REGIMES)}. Others are written out in the config."
        )
    return REGIMES[named]


def starting_regime(weights: str | Path, index: str | Path) -> Regime:
    """The regime that weights to start from were trained on, from the record beside them.

    Raises:
        UserError: there is no record, or the weights learnt from another index, whose training images may be tested on here.
    """
    path = Path(weights).with_name("record.json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        regime, inputs = regime_of(record["spec"]), set(record["inputs"].values())
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"{path}: cannot be read as the record of the weights to start from ({type(error).__name__}), so what they learnt "
            "from is unknown. Give --init the weights.safetensors of a `cgddi classify` run, with its record beside it."
        ) from error
    if file_sha256(index) not in inputs:
        raise UserError(
            f"{weights}: trained on another index than {index}, so test images may be among what it learnt from. Train that regime "
            "on this split."
        )
    return regime
