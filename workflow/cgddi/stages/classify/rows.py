"""Which rows of an index a regime trains, selects and tests on, with which labels, and how often each is drawn."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cgddi.core.archive import sha256
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.core.labels import hidden
from cgddi.core.lineage import generator_images
from cgddi.stages.classify.settings import ClassifySettings, Regime


@dataclass
class Rows:
    """Rows of one run; `label` indexes `classes`, `tone_id` indexes `cgddi.core.images.TONES`. Test photos may have neither."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    classes: tuple[str, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    used_real: frozenset[str] = frozenset()
    unused_real: frozenset[str] = frozenset()
    """Real training images (ids) inside and outside the regime's subset; without a learning curve none is outside."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by role and "kind/tone/class"; by kind where they have no labels."""
        found = {}
        for role in ("train", "validation", "test"):
            if "label" not in getattr(self, role):
                found[role] = {"real": len(getattr(self, role))}
                continue
            sizes = getattr(self, role).groupby(["kind", "tone", "label"], sort=True).size()
            found[role] = {f"{kind}/{tone}/{self.classes[label]}": int(n) for (kind, tone, label), n in sizes.items()}
        return found


def choose_rows(
    index: pd.DataFrame, regime: Regime, settings: ClassifySettings, seed: int, out_of_tone: bool = False
) -> Rows:
    """Rows and labels of one run.

    Args:
        index: a split's index; test photos may stand in it without labels, which then are the tables' business.
        seed: the project's seed: it orders the nested subsets of the learning curves.
        out_of_tone: whether no tone is both learnt and tested, where the index does not tell.

    Raises:
        UserError: a class or tone is absent from training or test, a class has one training image, a source has no image,
            or there is nothing to select on.
    """
    left_out: dict[str, int] = {}
    away = hidden(index)
    unseen, (index, classes) = index[away], _labelled(index[~away], settings, left_out)
    real = index[index["kind"] == "real"]
    train_real = real[real["role"] == "train"]
    used_real = _real_subset(train_real, regime, seed)
    known, unused = set(used_real["image_id"]), set(train_real["image_id"]) - set(used_real["image_id"])
    parts = [used_real] if "real" in regime.sources else []
    kinds = set(regime.sources) - {"real"}
    if settings.task == "concept":
        kinds -= {"healthy"}
        if set(regime.sources) == {"healthy"}:
            raise UserError(f"regime {regime.name} trains on healthy images only, which are of no concept.")
    if kinds:
        names = index["source"] + "/" + index["kind"]
        made = index[(index["role"] == "train") & (index["source"].isin(kinds) | names.isin(kinds))]
        if absent := sorted(kinds - set(made["source"]) - set(names)):
            raise UserError(
                f"regime {regime.name}: the index has no {absent[0]} images to train on. Make them (its record says which were "
                "left out, and why), or take them out of its sources."
            )
        sizes = train_real.groupby("concept").size()
        made = _synthetic_subset(made, regime, settings.min_concept_images, sizes, known, bool(unused), left_out)
        if regime.synthetic_per_real is not None:
            made = _by_name(made, seed).head(round(regime.synthetic_per_real * len(used_real)))
        if regime.labels != "own":
            made = _relabelled(made, train_real, regime.labels, seed)
        if made.empty:
            raise UserError(
                f"regime {regime.name}: no synthetic image is left to train on ({left_out}). Lower min_concept_images or make "
                "more images."
            )
        parts.append(made)
    held = {role: real[real["role"] == role].sort_values("id", ignore_index=True) for role in ("validation", "test")}
    if len(unseen):
        held["test"] = unseen.sort_values("id", ignore_index=True)
    train = pd.concat(parts).sort_values("id", ignore_index=True)
    rows = Rows(train, held["validation"], held["test"], classes, left_out, frozenset(known), frozenset(unused))
    _check(rows, regime, settings, set(train_real["tone"]), out_of_tone)
    return rows


def _labelled(index: pd.DataFrame, settings: ClassifySettings, left_out: dict[str, int]):
    """Rows that have a label, with columns label and tone_id, and the classes."""

    def drop(gone: pd.Series, why: str) -> None:
        nonlocal index
        if gone.any():
            left_out[why] = int(gone.sum())
            index = index[~gone]

    healthy = index["kind"] == "healthy"
    if settings.task == "malignancy":
        index = index.assign(malignant=index["malignant"].mask(healthy, False))
        drop(index["malignant"].isna(), "malignant is null")
        classes = ("benign", "malignant")
        label = index["malignant"].astype("int64")
    else:
        names = index["concept"]
        if settings.task == "concept":
            drop(healthy, "healthy")
            names = index["concept"]
        else:
            kinds = settings.partition | {"healthy": "benign"}
            if unknown := sorted(set(names) - set(kinds)):
                raise UserError(
                    f"classify.partition gives no class to {len(unknown)} concept(s): {', '.join(unknown[:5])}. Add them."
                )
            names = names.map(kinds)
        real = index["kind"] == "real"
        classes = tuple(sorted(set(names[real & (index["role"] == "train")])))
        stray = names[real & ~names.isin(classes)]
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
    tone_id = index["tone"].map({tone: place for place, tone in enumerate(TONES)}).astype("int64")
    return index.assign(label=label, tone_id=tone_id), classes


def _by_name(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows in an order that depends on their ids and the seed alone, so that smaller subsets are nested in larger ones."""
    key = [sha256(f"{seed}\x1flearning curve\x1f{name}") for name in rows["id"]]
    return rows.assign(_key=key).sort_values("_key").drop(columns="_key")


def _real_subset(rows: pd.DataFrame, regime: Regime, seed: int) -> pd.DataFrame:
    """The real training images a regime uses: a share of each (tone, class), or a number per tone, half of each class."""
    if regime.real_per_tone is None and regime.real_fraction in (None, 1):
        return rows
    ordered = _by_name(rows, seed)
    groups = ordered.groupby(["tone", "label"])
    size = groups["id"].transform("size")
    if regime.real_per_tone is None:
        return ordered[groups.cumcount() < (size * regime.real_fraction).round().clip(lower=1)]
    half = regime.real_per_tone // 2
    short = [f"{tone}/class {label} has {n}" for (tone, label), n in groups.size().items() if n < half]
    if short:
        raise UserError(
            f"regime {regime.name} wants {half} real training images per tone and class: {'; '.join(short)}. "
            "Lower real_per_tone."
        )
    return groups.head(half)


def _synthetic_subset(rows, regime: Regime, least: int, sizes: pd.Series, known: set[str], partly: bool, left_out):
    """The synthetic images that a regime may use.

    Args:
        rows: of the regime's kinds. least: the stage's cut-off. sizes: real training images by concept.
        known: real images of the regime's subset. partly: the subset is not all of them, so that lineage counts.
        left_out: counts of what is left out, by reason.
    """
    least = regime.min_concept_images or least
    rare = (rows["kind"] == "semantic") & (rows["concept"].map(sizes).fillna(0) < least)
    if rare.any():
        left_out[f"semantic of concepts with fewer than {least} real training images"] = int(rare.sum())
        rows = rows[~rare]
    if partly:
        outside = [rows[way].notna() & ~rows[way].isin(known) for way in ("donor", "canvas")]
        left_out["donor or canvas outside the real images used"] = int((outside[0] | outside[1]).sum())
        rows = rows[~(outside[0] | outside[1])]
        if regime.generators == "inside":
            saw_more = {name for name, images in generator_images(rows).items() if not images <= known}
            strange = rows["generator"].isin(saw_more)
            left_out["generator saw images outside the real images used"] = int(strange.sum())
            rows = rows[~strange]
    return rows


def _relabelled(rows: pd.DataFrame, photos: pd.DataFrame, labels: str, seed: int) -> pd.DataFrame:
    """Synthetic images with the labels of a negative control (see `Regime.labels`): class, malignancy and concept together.

    Args:
        photos: the real training photos. Images on a canvas of another photo, whose label is unknown, are left out of `canvas`.
    """
    rows = rows.sort_values("id", ignore_index=True)
    names = ["label", "malignant", "concept"]
    if labels == "canvas":
        rows = rows[rows["canvas"].isin(photos["image_id"])]
        return rows.assign(**photos.set_index("image_id").loc[rows["canvas"], names].set_index(rows.index))
    for _, group in rows[rows["kind"] != "healthy"].groupby(["tone", "kind"]):
        rows.loc[group.index, names] = _by_name(group, seed)[names].set_index(group.index)
    return rows


def _check(rows: Rows, regime: Regime, settings: ClassifySettings, learnt: set[str], out_of_tone: bool) -> None:
    """Refuse what cannot be learnt or tested. `learnt` are the tones of the split's real training images: where the test has
    none of them, the split is out-of-tone by design and absent tones are no mistake."""
    problems = []
    if "label" in rows.test:
        out_of_tone = not learnt & set(rows.test["tone"])
    for role in ("train", "test", *(["validation"] if settings.selection == "validation" else [])):
        part = getattr(rows, role)
        if part.empty:
            problems.append(f"no {role} images")
            continue
        if "label" not in part:  # what there must be of each the plan has looked at
            if settings.selection == "test":
                problems.append("the epoch is to be chosen on test images whose labels the index does not tell")
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


GROUPS = {
    "class": ["label"],
    "tone_class": ["tone", "label"],
    "tone_class_concept": ["tone", "label", "concept"],
    "none": [],
}


def sampling_weights(rows: pd.DataFrame, sampler: str, ratio: float | None = None) -> np.ndarray:
    """Probability of each row in one draw with replacement.

    Args:
        rows: training rows with columns kind, tone, label, concept.
        sampler: a key of `GROUPS`; every group is drawn equally often. "tone_class_concept": every (tone, class) equally often,
            and within it every concept. "none" draws rows equally often.
        ratio: real : synthetic draws, each with the groups balanced within; None leaves it to the groups.

    Returns:
        float64 (N,), summing to one.
    """
    real = (rows["kind"] == "real").to_numpy()
    keys = [rows[key].to_numpy() for key in GROUPS[sampler]] + ([] if ratio is None else [real])
    weights = np.ones(len(rows))
    if GROUPS[sampler]:
        weights /= pd.Series(weights).groupby(keys).transform("sum").to_numpy()
    if sampler == "tone_class_concept":  # (tone, class) equally often whatever its number of concepts
        outer = [*keys[:2], *keys[3:]]
        weights /= pd.Series(weights).groupby(outer).transform("sum").to_numpy()
    if ratio is not None:
        weights[real] *= ratio / weights[real].sum()
        weights[~real] /= weights[~real].sum()
    return weights / weights.sum()


def draws(
    rows: pd.DataFrame, method: str, settings: ClassifySettings, ratio: float | None, seed: int, epochs: Iterable[int]
) -> Iterator[np.ndarray]:
    """Places of the rows that each epoch draws, int64 (images per epoch,); they depend on the epoch's number and the seed alone.

    Reweighting weighs the loss instead and sees rows in random order, each once before any comes again; resampling draws every
    (tone, class) equally often; other methods draw by `settings.sampler`.
    """
    count = settings.images_per_epoch or len(rows)
    grouping = "tone_class" if method == "resampling" else settings.sampler
    cumulative = np.cumsum(sampling_weights(rows, grouping, ratio))
    for epoch in epochs:
        rng = np.random.default_rng((seed, epoch))
        if method == "reweighting":
            rounds = -(-count // len(rows))
            yield np.concatenate([rng.permutation(len(rows)) for _ in range(rounds)])[:count]
        else:
            yield np.searchsorted(cumulative / cumulative[-1], rng.random(count), side="right")
