"""Regimes: which rows are trained on, with which labels, and what is refused before training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cgddi.core.errors import UserError
from cgddi.core.lineage import real_lineage
from cgddi.stages.classify.rows import choose_rows
from cgddi.stages.classify.settings import DEFAULTS, REGIMES, ClassifySettings, Regime, Training, training_of
from pydantic import ValidationError

from tests.stages.index.world import CONCEPTS, make_world

SETTINGS = ClassifySettings(min_concept_images=1)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return pd.read_parquet(make_world(tmp_path_factory.mktemp("world"), per_cell=12).write_index())


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("real", {"real"}),
        ("synthetic", {"healthy", "lesion_mapped", "semantic"}),
        ("synthetic_real", {"real"}),
        ("mixed", {"real", "healthy", "lesion_mapped", "semantic"}),
        ("healthy_mapped", {"healthy", "lesion_mapped"}),
        ("semantic", {"semantic"}),
    ],
)
def test_regimes_take_their_sources_and_test_on_real_images(index, name, kinds):
    rows = choose_rows(index, REGIMES[name], SETTINGS, 1)
    assert set(rows.train["kind"]) == kinds and set(rows.train["role"]) == {"train"}
    assert set(rows.test["kind"]) == {"real"} == set(rows.validation["kind"])
    assert len(rows.test) == 12 and not set(rows.test["id"]) & set(rows.train["id"])
    assert sum(rows.counts()["train"].values()) == len(rows.train)


def test_labels(index):
    rows = choose_rows(index, REGIMES["mixed"], SETTINGS, 1)
    assert rows.classes == ("benign", "malignant")
    expected = rows.train["concept"].map({**CONCEPTS, "healthy": False}).astype(int)
    assert (rows.train["label"] == expected).all()
    rows = choose_rows(index, REGIMES["mixed"], SETTINGS.model_copy(update={"task": "concept"}), 1)
    assert rows.classes == tuple(sorted(CONCEPTS)) and "healthy" not in set(rows.train["kind"])
    only = Regime(name="skin", sources=("healthy",))
    with pytest.raises(UserError, match="trains on healthy images only"):
        choose_rows(index, only, SETTINGS.model_copy(update={"task": "concept"}), 1)
    parts = {"nevus": "benign", "wart": "non-neoplastic", "melanoma": "malignant", "lymphoma": "malignant"}
    rows = choose_rows(index, REGIMES["real"], SETTINGS.model_copy(update={"task": "partition", "partition": parts}), 1)
    assert rows.classes == ("benign", "malignant", "non-neoplastic")
    with pytest.raises(UserError, match="gives no class to 1 concept.*wart"):
        del parts["wart"]
        choose_rows(index, REGIMES["real"], SETTINGS.model_copy(update={"task": "partition", "partition": parts}), 1)


def test_rows_without_malignancy_are_left_out_and_counted(index):
    unknown = index.copy()
    unknown.loc[unknown["concept"] == "wart", "malignant"] = pd.NA
    rows = choose_rows(unknown, REGIMES["mixed"], SETTINGS, 1)
    assert "wart" not in set(rows.train["concept"]) | set(rows.test["concept"])
    assert rows.left_out["malignant is null"] == (index["concept"] == "wart").sum()


def test_cut_off_limits_the_semantic_source_by_real_training_images(index):
    real = index[(index["kind"] == "real") & (index["role"] == "train")]
    fewer = index.drop(real[real["concept"] == "wart"].index[:25])
    rows = choose_rows(fewer, REGIMES["synthetic"], ClassifySettings(min_concept_images=11), 1)
    semantic = set(rows.train[rows.train["kind"] == "semantic"]["concept"])
    assert semantic == set(CONCEPTS) - {"wart"} and "wart" in set(rows.train["concept"]), "mapped lesions stay"
    assert rows.left_out["semantic of concepts with fewer than 11 real training images"] > 0
    own = REGIMES["synthetic"].model_copy(update={"min_concept_images": 5})
    assert "wart" in set(choose_rows(fewer, own, ClassifySettings(), 1).train.query("kind == 'semantic'")["concept"])
    with pytest.raises(UserError, match="no synthetic image is left to train on.*fewer than 99"):
        choose_rows(index, REGIMES["semantic"], ClassifySettings(min_concept_images=99), 1)


def test_learning_curves_are_nested_and_balanced(index):
    parts = [choose_rows(index, REGIMES[f"real_{p}"], SETTINGS, 1).train for p in (5, 10, 15, 20)]
    whole = choose_rows(index, REGIMES["real"], SETTINGS, 1).train
    for small, large in zip(parts, [*parts[1:], whole], strict=True):
        assert set(small["id"]) <= set(large["id"]) and len(small) < len(large)
        assert set(small["tone"]) == {"light", "medium", "dark"} and set(small["label"]) == {0, 1}
    assert len(parts[3]) == round(0.2 * len(whole))
    other = choose_rows(index, REGIMES["real_20"], SETTINGS, 2).train
    assert set(other["id"]) != set(parts[3]["id"]), "the seed decides which"
    per_tone = choose_rows(index, Regime(name="ten", sources=("real",), real_per_tone=10), SETTINGS, 1).train
    assert per_tone.groupby(["tone", "label"]).size().tolist() == [5] * 6
    with pytest.raises(UserError, match="wants 50 real training images per tone and class"):
        choose_rows(index, Regime(name="many", sources=("real",), real_per_tone=100), SETTINGS, 1)


def test_shares_of_uneven_groups_are_rounded_and_never_empty(index):
    """Of each (tone, class) the share, to the nearest whole, one at least; numbers per tone are nested too."""
    train = index[(index["kind"] == "real") & (index["role"] == "train")]
    drop = train[(train["tone"] == "dark") & (train["malignant"] == True)].index[:13]  # noqa: E712
    uneven = index.drop([*drop, *train[(train["tone"] == "light") & (train["concept"] == "wart")].index[:3]])
    sizes = {("dark", 0): 20, ("dark", 1): 7, ("light", 0): 17, ("light", 1): 20, ("medium", 0): 20, ("medium", 1): 20}
    for share, wanted in ((0.05, [1, 1, 1, 1, 1, 1]), (0.2, [4, 1, 3, 4, 4, 4]), (0.7, [14, 5, 12, 14, 14, 14])):
        regime = Regime(name="r", sources=("real", "semantic"), real_fraction=share, synthetic_per_real=1.5)
        rows = choose_rows(uneven, regime, SETTINGS, 1)
        real = rows.train[rows.train["kind"] == "real"]
        assert real.groupby(["tone", "label"]).size().to_dict() == dict(zip(sizes, wanted, strict=True))
        assert (rows.train["kind"] == "semantic").sum() == min(round(1.5 * sum(wanted)), _inside(uneven, real))
    few, more = (
        set(choose_rows(uneven, Regime(name="r", sources=("real",), real_per_tone=n), SETTINGS, 1).train["id"])
        for n in (4, 10)
    )
    assert len(few) == 3 * 4 and len(more) == 3 * 10 and few < more


def _inside(index, real):
    """Semantic images whose canvas is one of the real images used."""
    return int(((index["kind"] == "semantic") & index["canvas"].isin(real["image_id"])).sum())


def test_the_built_in_regimes():
    synthetic = ("healthy", "lesion_mapped", "semantic")
    expected = {"real": (("real",), {}), "synthetic": (synthetic, {}), "semantic": (("semantic",), {})}
    expected |= {"synthetic_real": (("real",), {"init": "synthetic"}), "mixed": (("real", *synthetic), {"ratio": 1.0})}
    expected |= {"healthy_mapped": (("healthy", "lesion_mapped"), {})}
    for percent, share in ((5, 0.05), (10, 0.1), (15, 0.15), (20, 0.2)):
        part = {"real_fraction": share}
        within = {**part, "generators": "inside"}
        expected[f"real_{percent}"] = (("real",), part)
        expected[f"synthetic_real_{percent}"] = (("real",), {**part, "init": "synthetic"})
        expected[f"within_{percent}"] = (synthetic, within)
        expected[f"within_real_{percent}"] = (("real",), {**within, "init": f"within_{percent}"})
    expected |= {f"synthetic_x{n}": (synthetic, {"synthetic_per_real": n}) for n in (1, 5, 20, 100)}
    found = {
        name: (regime.sources, regime.model_dump(exclude={"name", "sources"}, exclude_defaults=True))
        for name, regime in REGIMES.items()
    }
    assert found == expected and all(name == regime.name for name, regime in REGIMES.items())


@pytest.mark.parametrize(("least", "stays"), [(20, True), (21, False)])
def test_the_cut_off_is_met_by_as_many_real_training_images(index, least, stays):
    train = index[(index["kind"] == "real") & (index["role"] == "train") & (index["concept"] == "wart")]
    uneven = index.drop(train.index[: len(train) - 20])
    rows = choose_rows(uneven, REGIMES["semantic"], ClassifySettings(min_concept_images=least), 1)
    assert ("wart" in set(rows.train["concept"])) == stays


def test_an_image_of_a_mixed_concept_has_its_own_label_and_its_samples_none(index):
    """Of nevus two real photos are malignant; the plan gives its samples no malignancy."""
    mixed = index.copy()
    nevi = mixed[(mixed["concept"] == "nevus") & (mixed["kind"] == "real") & (mixed["role"] == "train")].index
    mixed.loc[nevi[:2], "malignant"] = True
    mixed.loc[(mixed["concept"] == "nevus") & (mixed["kind"] == "semantic"), "malignant"] = pd.NA
    rows = choose_rows(mixed, REGIMES["mixed"], SETTINGS, 1)
    nevus = rows.train[rows.train["concept"] == "nevus"]
    assert nevus[nevus["label"] == 1]["image_id"].tolist() == sorted(mixed.loc[nevi[:2], "image_id"])
    assert set(nevus["kind"]) == {"real", "lesion_mapped"}
    assert rows.left_out["malignant is null"] == ((mixed["concept"] == "nevus") & (mixed["kind"] == "semantic")).sum()


def test_synthetic_images_of_a_small_real_set_descend_from_it(index):
    regime = Regime(name="few", sources=("real", "healthy", "lesion_mapped"), real_fraction=0.5)
    rows = choose_rows(index, regime, SETTINGS, 1)
    known = set(rows.train[rows.train["kind"] == "real"]["image_id"])
    made = rows.train[rows.train["kind"] != "real"]
    assert set(made["canvas"].dropna()) | set(made["donor"].dropna()) <= known
    assert rows.left_out["donor or canvas outside the real images used"] > 0


def test_generators_that_saw_more_than_the_subset_are_counted_or_left_out(index):
    """Each generator learnt from every training image of its concept, so a subset of half is beyond its knowledge."""
    few = Regime(name="few", sources=("lesion_mapped", "semantic"), real_fraction=0.5)
    rows = choose_rows(index, few, SETTINGS, 1)
    outside = real_lineage(rows.train) & rows.unused_real
    assert "semantic" in set(rows.train["kind"]) and outside and not outside & rows.used_real
    assert real_lineage(rows.train[rows.train["kind"] == "lesion_mapped"]) <= rows.used_real
    kept = choose_rows(index, few.model_copy(update={"generators": "inside"}), SETTINGS, 1)
    assert set(kept.train["kind"]) == {"lesion_mapped"} and real_lineage(kept.train) <= kept.used_real
    assert kept.left_out["generator saw images outside the real images used"] == len(rows.train) - len(kept.train)
    whole = choose_rows(index, REGIMES["synthetic"], SETTINGS, 1)
    assert not whole.unused_real and real_lineage(whole.train) <= whole.used_real


def test_a_generator_inside_the_subset_stays(tmp_path):
    """A generator whose every training image is used is no reason to leave its images out."""
    world = make_world(tmp_path, per_cell=6, generator_images={})
    index = pd.read_parquet(world.write_index())
    few = Regime(name="few", sources=("semantic",), real_fraction=0.5, generators="inside")
    with pytest.raises(UserError, match="no synthetic image is left"):
        choose_rows(index, few, SETTINGS, 1)
    used = sorted(choose_rows(index, Regime(name="r", sources=("real",), real_fraction=0.5), SETTINGS, 1).used_real)
    for path in world.semantic:
        record = Path(path).with_suffix(".json")
        facts = json.loads(record.read_text()) | {"generator_images": used[:3], "prior_images": used[3:5]}
        record.write_text(json.dumps(facts))
    kept = choose_rows(index, few, SETTINGS, 1)
    assert set(kept.train["kind"]) == {"semantic"} and real_lineage(kept.train) <= kept.used_real


def test_synthetic_images_per_real_one(index):
    sizes = {}
    for n in (1, 2):
        rows = choose_rows(index, Regime(name="x", sources=("semantic",), synthetic_per_real=n), SETTINGS, 1)
        sizes[n] = set(rows.train["id"])
    real = len(choose_rows(index, REGIMES["real"], SETTINGS, 1).train)
    assert len(sizes[1]) == real and sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda i: i[~((i["role"] == "train") & (i["malignant"] == True))], "class malignant is absent from the train"),  # noqa: E712
        (lambda i: i[~((i["role"] == "test") & (i["malignant"] == True))], "class malignant is absent from the test"),  # noqa: E712
        (lambda i: i[~((i["role"] == "train") & (i["tone"] == "dark"))], "tone dark is absent from the train"),
        (lambda i: i[~((i["role"] == "test") & (i["tone"] == "dark"))], "tone dark is absent from the test"),
        (lambda i: i[i["role"] != "validation"], "no validation images"),
        (lambda i: i[i["role"] != "test"], "no test images"),
    ],
)
def test_gaps_are_refused_before_training(index, change, text):
    with pytest.raises(UserError, match=text):
        choose_rows(change(index), REGIMES["real"], SETTINGS, 1)


def test_one_image_classes_strange_classes_and_absent_sources(index):
    malignant = index[(index["role"] == "train") & (index["kind"] == "real") & (index["malignant"] == True)]  # noqa: E712
    with pytest.raises(UserError, match="class malignant has one train image"):
        choose_rows(index.drop(malignant.index[1:]), REGIMES["real"], SETTINGS, 1)
    with pytest.raises(UserError, match="class.es. without a real training image: wart"):
        no_wart = index[~((index["role"] == "train") & (index["concept"] == "wart"))]
        choose_rows(no_wart, REGIMES["real"], SETTINGS.model_copy(update={"task": "concept"}), 1)
    with pytest.raises(UserError, match="the index has no semantic images"):
        choose_rows(index[index["kind"] != "semantic"], REGIMES["semantic"], SETTINGS, 1)


def test_out_of_tone_splits_are_no_mistake(index):
    dark = index["tone"] == "dark"
    split = index[(dark & (index["role"] == "test")) | (~dark & (index["role"] != "test"))]
    rows = choose_rows(split, REGIMES["real"], SETTINGS, 1)
    assert set(rows.train["tone"]) == {"light", "medium"} and set(rows.test["tone"]) == {"dark"}
    partly = index[~((index["role"] == "test") & dark)]
    assert (
        len(choose_rows(partly, REGIMES["real"], SETTINGS.model_copy(update={"allow_absent_tones": True}), 1).test) == 8
    )


def test_settings_resolve_own_over_shared_over_published():
    settings = ClassifySettings(
        training=Training(epochs=3), methods={"patchalign": Training(epochs=7, backbone="test_vit")}
    )
    assert training_of(settings, "patchalign").epochs == 7 and training_of(settings, "baseline").epochs == 3
    assert training_of(settings, "patchalign").clip_norm == 1.0 and training_of(settings, "baseline").lr_step == 2
    published = DEFAULTS["patchalign"]
    assert (published.frozen_tensors, published.batch_size, published.epochs) == (50, 32, 20)
    assert DEFAULTS["fairdisco"].batch_size == 64 and DEFAULTS["fairdisco"].epochs == 15


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "a", "sources": ()},
        {"name": "a", "sources": ("real",), "ratio": 1.0},
        {"name": "a", "sources": ("semantic",), "ratio": 1.0},
        {"name": "a", "sources": ("real",), "init": "a"},
        {"name": "a", "sources": ("real",), "real_fraction": 0.1, "real_per_tone": 10},
        {"name": "A b", "sources": ("real",)},
        {"name": "a", "sources": ("real",), "colour": 1},
        {"name": "a", "sources": ("real",), "labels": "shuffled"},
    ],
)
def test_regimes_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValidationError):
        Regime(**bad)


def test_shuffled_lesions_tell_nothing_and_keep_their_numbers(index):
    own = choose_rows(index, REGIMES["synthetic"], SETTINGS, 1).train.set_index("id")
    control = Regime(name="c", sources=REGIMES["synthetic"].sources, labels="shuffled")
    rows = choose_rows(index, control, SETTINGS, 1).train.set_index("id").loc[own.index]
    assert (rows["label"] == rows["concept"].map({**CONCEPTS, "healthy": False})).all(), "label and concept go together"
    assert (rows["label"] == rows["malignant"].fillna(False)).all()
    for (kind, tone), before in own.groupby(["kind", "tone"]):
        after = rows.loc[before.index]
        assert sorted(after["concept"]) == sorted(before["concept"]), (kind, tone)
        assert (after["concept"] == before["concept"]).all() == (kind == "healthy")
    lesions = own["kind"] != "healthy"
    agree = (own["label"] == rows["label"])[lesions].mean()
    assert abs(agree - 0.5) < 3 * np.sqrt(0.25 / lesions.sum()), "half the lesions are malignant: no better than a coin"
    others = [choose_rows(index, control, SETTINGS, seed).train.set_index("id")["label"] for seed in (1, 2)]
    assert (others[0].loc[own.index] == rows["label"]).all() and (others[1].loc[own.index] != rows["label"]).any()


def test_healthy_skin_is_called_what_its_photo_showed(index):
    rows = choose_rows(index, Regime(name="c", sources=("healthy",), labels="canvas"), SETTINGS, 1).train
    shown = index[index["kind"] == "real"].set_index("image_id")["concept"]
    assert len(rows) and (rows["concept"].to_numpy() == shown.loc[rows["canvas"]].to_numpy()).all()
    assert (rows["label"] == rows["concept"].map(CONCEPTS)).all() and rows["label"].nunique() == 2
    stray = index.assign(canvas=index["canvas"].mask(index["id"] == rows["id"].iloc[0], "not-a-training-photo"))
    left = choose_rows(stray, Regime(name="c", sources=("healthy",), labels="canvas"), SETTINGS, 1).train
    assert list(left["id"]) == list(rows["id"].iloc[1:])


def test_rows_do_not_depend_on_the_order_of_the_index(index):
    shuffled = index.sample(frac=1, random_state=np.random.RandomState(3))
    for name in ("mixed", "real_10"):
        a, b = (choose_rows(table, REGIMES[name], SETTINGS, 1) for table in (index, shuffled))
        assert list(a.train["id"]) == list(b.train["id"]) and list(a.test["id"]) == list(b.test["id"])
