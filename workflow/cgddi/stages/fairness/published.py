"""Which published figures belong beside a setting: those of the same method, network, regime, splits and data sets only."""

from collections.abc import Mapping, Sequence
from typing import Any

from cgddi.core.bootstrap import Setting
from cgddi.core.published import BACKBONES, Figure, figures, same_splits


def describe(setting: Setting, datasets: Mapping[str, str]) -> dict[str, Any]:
    """What decides whether a published figure may stand beside a setting.

    Args:
        setting: its runs; their records hold `split_settings`, where those are known.
        datasets: cohort -> published data set.

    Returns:
        train, test: published data sets ("ddi", "ddi+f17k"), None where another cohort takes part; method, regime, backbone, task,
        selection, clean (of leaks), equal_steps; splits: name -> settings; seeds.
    """
    first = setting.runs[0].record
    sides = {}
    for side in ("train", "test"):
        cohorts = first["cohorts"][side]
        known = bool(cohorts) and set(cohorts) <= set(datasets)
        sides[side] = "+".join(sorted({datasets[cohort] for cohort in cohorts})) if known else None
    return {
        **sides,
        "method": setting.method,
        "regime": setting.regime,
        "backbone": first.get("training", {}).get("backbone"),
        "task": first["task"],
        "selection": first["selection"],
        "equal_steps": first.get("spec", {}).get("settings", {}).get("images_per_epoch") is not None,
        "clean": all(run.record["leakage"]["clean"] for run in setting.runs),
        "splits": {run.record["split"]: run.record.get("split_settings", {}) for run in setting.runs},
        "seeds": sorted({run.seed for run in setting.runs}),
    }


def published_for(setting: Setting, metric: str, group: str, datasets: Mapping[str, str]) -> Figure | None:
    """The published figure of exactly this setting, or None."""
    about = describe(setting, datasets)
    if about["task"] != "malignancy" or BACKBONES.get(setting.method) != about["backbone"]:
        return None
    key = (about["train"], about["test"], setting.method, setting.regime, metric, group)
    return next((one for one in figures() if one.key == key and same_splits(about["splits"], one)), None)


def columns(figure: Figure | None) -> dict[str, float | None]:
    """The columns of a table that hold a published figure."""
    return {"published": figure and figure.value, "published_std": figure and figure.std}


def with_splits(runs: Sequence[Any], splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Note in each run's record how its split was drawn, as the plan knows it (split -> settings)."""
    for run in runs:
        run.record["split_settings"] = dict(splits.get(run.record["split"], {}))
