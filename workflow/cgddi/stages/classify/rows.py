"""Which rows of an index a regime trains, selects and tests on, and with which labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from cgddi.core.archive import sha256
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.stages.classify.reach import generator_images
from cgddi.stages.classify.settings import ClassifySettings, Regime


@dataclass
class Rows:
    """Labelled rows of one run; `label` indexes `classes`, `tone_id` indexes `cgddi.core.images.TONES`."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    classes: tuple[str, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    used_real: frozenset[str] = frozenset()
    unused_real: frozenset[str] = frozenset()
    """Real training images (ids) inside and outside the regime's subset; without a learning curve none is outside."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by role and "kind/tone/class"."""
        found = {}
        for role in ("train", "validation", "test"):
            rows = getattr(self, role)
            sizes = rows.groupby(["kind", "tone", "label"], sort=True).size()
            found[role] = {f"{kind}/{tone}/{self.classes[label]}": int(n) for (kind, tone, label), n in sizes.items()}
        return found


def choose_rows(index: pd.DataFrame, regime: Regime, settings: ClassifySettings, seed: int) -> Rows:
    """Rows and labels of one run.

    Args:
        index: a split's index.
        regime: what is trained on.
        settings: task, cut-off, label of healthy images, selection.
        seed: the project's seed: it orders the nested subsets of the learning curves.

    Raises:
        UserError: a class or tone is absent from training or test, a class has one training image, a source has no image,
            or there is nothing to select on.
    """
    left_out: dict[str, int] = {}
    index, classes = _labelled(index, settings, left_out)
    real = index[index["kind"] == "real"]
    train_real = real[real["role"] == "train"]
    used_real = _nested(train_real, regime, seed)
    parts = [used_real] if "real" in regime.sources else []
    unlabelled = {"healthy"} if _leaves_healthy_out(settings) else set()
    synthetic = [kind for kind in regime.sources if kind != "real" and kind not in unlabelled]
    if set(regime.sources) <= unlabelled:
        raise UserError(
            f"regime {regime.name} trains on healthy images only, which this task leaves out (classify.healthy_label)."
        )
    if synthetic:
        parts.append(_synthetic(index, synthetic, train_real, used_real, regime, settings, seed, left_out))
    train = pd.concat(parts).sort_values("id", ignore_index=True)
    rows = Rows(
        train,
        real[real["role"] == "validation"].sort_values("id", ignore_index=True),
        real[real["role"] == "test"].sort_values("id", ignore_index=True),
        classes,
        left_out,
        frozenset(used_real["image_id"]),
        frozenset(train_real["image_id"]) - frozenset(used_real["image_id"]),
    )
    _check(rows, regime, settings, set(train_real["tone"]))
    return rows


def _leaves_healthy_out(settings: ClassifySettings) -> bool:
    return settings.healthy_label == "exclude" or settings.task == "concept"


def _labelled(index: pd.DataFrame, settings: ClassifySettings, left_out: dict[str, int]):
    """Rows that have a label, with columns label and tone_id, and the classes."""

    def drop(mask: pd.Series, why: str) -> None:
        nonlocal index
        if mask.any():
            left_out[why] = int(mask.sum())
            index = index[~mask]

    healthy = index["kind"] == "healthy"
    if _leaves_healthy_out(settings):
        drop(healthy, "healthy")
    else:
        index = index.assign(malignant=index["malignant"].mask(healthy, False))
    if settings.task == "malignancy":
        drop(index["malignant"].isna(), "malignant is null")
        classes = ("benign", "malignant")
        label = index["malignant"].astype("int64")
    else:
        if settings.task == "partition":
            kinds = settings.partition | {"healthy": "benign"}
            unknown = sorted(set(index["concept"]) - set(kinds))
            if unknown:
                raise UserError(
                    f"classify.partition gives no class to {len(unknown)} concept(s): {', '.join(unknown[:5])}. Add them."
                )
            names = index["concept"].map(kinds)
        else:
            names = index["concept"]
        classes = tuple(sorted(set(names[(index["kind"] == "real") & (index["role"] == "train")])))
        stray = names[(index["kind"] == "real") & ~names.isin(classes)]
        if len(stray):
            raise UserError(
                f"{len(stray)} validation or test image(s) are of {stray.nunique()} class(es) without a real training image: "
                f"{', '.join(sorted(set(stray))[:5])}. Join rare diseases by task `partition`, or make another split."
            )
        drop(~names.isin(classes), "class without a real training image")
        label = names.loc[index.index].map({name: place for place, name in enumerate(classes)}).astype("int64")
    if len(classes) < 2:
        raise UserError(
            f"task {settings.task} has {len(classes)} class(es) in the training images; a classifier needs two."
        )
    return index.assign(
        label=label, tone_id=index["tone"].map({t: i for i, t in enumerate(TONES)}).astype("int64")
    ), classes


def _by_name(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows in an order that depends on their ids and the seed alone, so that smaller subsets are nested in larger ones."""
    key = [sha256(f"{seed}\x1flearning curve\x1f{name}") for name in rows["id"]]
    return rows.assign(_key=key).sort_values("_key").drop(columns="_key")


def _nested(rows: pd.DataFrame, regime: Regime, seed: int) -> pd.DataFrame:
    """The real training images a regime uses: a share of each (tone, class), or a number per tone, half of each class."""
    if regime.real_per_tone:
        short = []
        groups = rows.groupby(["tone", "label"])
        half = regime.real_per_tone // 2
        for name, group in groups:
            if len(group) < half:
                short.append(f"{name[0]}/class {name[1]} has {len(group)}")
        if short:
            raise UserError(
                f"regime {regime.name} wants {half} real training images per tone and class: {'; '.join(short)}. "
                "Lower real_per_tone."
            )
        return _by_name(rows, seed).groupby(["tone", "label"]).head(half)
    if regime.real_fraction is None or regime.real_fraction == 1:
        return rows
    ordered = _by_name(rows, seed)
    rank = ordered.groupby(["tone", "label"]).cumcount()
    size = ordered.groupby(["tone", "label"])["id"].transform("size")
    return ordered[rank < (size * regime.real_fraction).round().clip(lower=1)]


def _synthetic(index, kinds, train_real, used_real, regime: Regime, settings: ClassifySettings, seed: int, left_out):
    rows = index[(index["role"] == "train") & index["kind"].isin(kinds)]
    absent = sorted(set(kinds) - set(rows["kind"]))
    if absent:
        raise UserError(
            f"regime {regime.name}: the index has no {absent[0]} images to train on. Make them, or take them out of its sources."
        )
    cut_off = regime.min_concept_images or settings.min_concept_images
    sizes = train_real.groupby("concept").size()
    rare = (rows["kind"] == "semantic") & (rows["concept"].map(sizes).fillna(0) < cut_off)
    if rare.any():
        left_out[f"semantic of concepts with fewer than {cut_off} real training images"] = int(rare.sum())
        rows = rows[~rare]
    if len(used_real) < len(train_real):
        known = set(used_real["image_id"])
        strange = (rows["donor"].notna() & ~rows["donor"].isin(known)) | (
            rows["canvas"].notna() & ~rows["canvas"].isin(known)
        )
        left_out["donor or canvas outside the real images used"] = int(strange.sum())
        rows = rows[~strange]
        if regime.generators == "inside":
            outside = {name for name, images in generator_images(rows).items() if not images <= known}
            strange = rows["generator"].isin(outside)
            left_out["generator saw images outside the real images used"] = int(strange.sum())
            rows = rows[~strange]
    if regime.synthetic_per_real is not None:
        rows = _by_name(rows, seed).head(round(regime.synthetic_per_real * len(used_real)))
    if rows.empty:
        raise UserError(
            f"regime {regime.name}: no synthetic image is left after the cut-off of {cut_off} images per concept "
            f"({left_out}). Lower min_concept_images or make more images."
        )
    return rows


def _check(rows: Rows, regime: Regime, settings: ClassifySettings, learnt: set[str]) -> None:
    """Refuse what cannot be learnt or tested. `learnt` are the tones of the split's real training images: where the test has
    none of them, the split is out-of-tone by design and absent tones are no mistake."""
    problems = []
    out_of_tone = not learnt & set(rows.test["tone"])
    for role in ("train", "test") + (("validation",) if settings.selection == "validation" else ()):
        part = getattr(rows, role)
        if part.empty:
            problems.append(f"no {role} images")
            continue
        sizes = part["label"].value_counts()
        for label, name in enumerate(rows.classes):
            if label not in sizes:
                problems.append(f"class {name} is absent from the {role} images")
            elif role == "train" and sizes[label] == 1:
                problems.append(f"class {name} has one {role} image; two are needed")
        absent = [tone for tone in TONES if tone not in set(part["tone"])]
        if absent and role != "validation" and not (out_of_tone or settings.allow_absent_tones):
            problems.append(f"tone {', '.join(absent)} is absent from the {role} images")
    if problems:
        raise UserError(
            f"regime {regime.name} cannot be trained and tested on this split: {'; '.join(problems)}. "
            "Make another split, add images, or set what is at fault: classify.selection, classify.allow_absent_tones."
        )
