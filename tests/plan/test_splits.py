"""Splits: published assignments, strata, groups, and stability when other cohorts arrive."""

import hashlib
import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from cgddi.core.errors import InvalidInput
from cgddi.plan.sheets import Photo
from cgddi.plan.splits import SplitSettings, assign, draw_stratified, gaps, published_test
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

TONES = ("light", "medium", "dark")


def photo(i, concept="a", tone="light", malignant=False, group=None, cohort="ddi"):
    return Photo(
        image_id=f"{i:06d}",
        file=f"{i}.png",
        cohort=cohort,
        disease=concept,
        concept=concept,
        skin_tone=tone,
        malignant=malignant,
        mask=None,
        group=group,
        row=i + 2,
    )


def many(n=300, cohort="ddi"):
    return [photo(i, f"c{i % 7}", TONES[i % 3], i % 4 == 0, cohort=cohort) for i in range(n)]


@pytest.mark.parametrize("seed", (12140420, 4242, 123, 0, 52, 64))  # FairDisCo's and PatchAlign's
@pytest.mark.parametrize("n", [10, 656])
def test_published_split_is_scikit_learns(n, seed):
    _, test = train_test_split(list(range(n)), test_size=0.2, random_state=seed)
    assert published_test(n, seed, 0.2) == set(test)


def test_ddi_test_has_132_photos():
    assert len(published_test(656, 12140420, 0.2)) == 132


def test_stratified_keeps_shares_of_tone_and_malignancy():
    photos = many()
    roles = assign(photos, "development", SplitSettings(validation=0.1))
    test = [p for p in photos if roles[p.image_id] == "test"]
    assert 54 <= len(test) <= 66
    for tone in TONES:
        share = sum(p.skin_tone == tone for p in test) / len(test)
        assert abs(share - 1 / 3) < 0.05
    assert Counter(roles.values())["validation"] == pytest.approx(24, abs=5)


def place_of(*names):
    """Where a name stands in an order by hashes."""
    return hashlib.sha256("\x1f".join(map(str, names)).encode()).hexdigest()[:16]


def drawn_by_hand(photos, share, seed, name):
    """Tone by tone and class by class, groups in the order of their hashes, until so many photos (rounded) are drawn; a group that
    would be too many, or would take a concept's last photo, is passed over."""
    drawn = []
    for tone, malignant in itertools.product(sorted(TONES), (False, True)):
        groups = {}
        for p in photos:
            groups.setdefault(p.group or p.image_id, []).append(p)
        groups = {key: members for key, members in groups.items()
                  if (members[0].skin_tone, members[0].malignant) == (tone, malignant)}  # fmt: skip
        wanted = math.floor(share * sum(map(len, groups.values())) + 0.5)
        for key in sorted(groups, key=lambda key: int(place_of(seed, name, key), 16) >> 1):
            kept = [p.concept for p in photos if p not in drawn and p not in groups[key]]
            if len(groups[key]) <= wanted and {p.concept for p in groups[key]} <= set(kept):
                drawn += groups[key]
                wanted -= len(groups[key])
    return {p.image_id for p in drawn}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_roles_of_an_uneven_cohort_are_those_of_a_second_writing(seed):
    draw = random.Random(seed)
    photos = [
        photo(i, f"c{draw.choice((0, 0, 0, 1, 2, i))}", draw.choice(("light",) * 5 + ("medium", "medium", "dark")),
              draw.random() < 0.2, f"g{i // 2}" if i % 6 < 2 else None)
        for i in range(97)
    ]  # fmt: skip
    test = drawn_by_hand(photos, 0.3, seed, "test")
    rest = [p for p in photos if p.image_id not in test]
    validation = drawn_by_hand(rest, 0.15, seed, "validation")
    expected = {p.image_id: "validation" if p.image_id in validation else "train" for p in rest}
    expected |= dict.fromkeys(test, "test")
    assert assign(photos, "development", SplitSettings(seed=seed, test=0.3, validation=0.15)) == expected
    assert Counter(expected.values())["validation"] > 5 and len(test) > 15


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 2), st.booleans(), st.integers(0, 20)), min_size=1, max_size=80
    )
)
def test_groups_stay_together_and_no_concept_loses_its_last_photo(rows):
    photos = [photo(i, f"c{c}", TONES[t], m, f"g{g}") for i, (c, t, m, g) in enumerate(rows)]
    drawn = draw_stratified(photos, 0.4, 7, "test")
    for group in {p.group for p in photos}:
        members = {p.image_id for p in photos if p.group == group}
        assert members <= drawn or not members & drawn
    for concept in {p.concept for p in photos}:
        assert any(p.concept == concept and p.image_id not in drawn for p in photos)


def test_a_new_cohort_moves_no_old_photo():
    """Each cohort is assigned by itself, so nothing of another cohort can enter."""
    old = many(60)
    settings_ = SplitSettings(method="published")
    before = assign(old, "development", settings_)
    assign(many(30, cohort="new"), "development", settings_)
    assert assign(old, "development", settings_) == before


def test_growing_a_cohort_moves_few_photos():
    before = assign(many(300), "development", SplitSettings())
    after = assign(many(306), "development", SplitSettings())
    moved = sum(before[i] != after[i] for i in before)
    assert moved <= 6


def test_evaluation_cohort_is_the_test_of_a_holdout_and_no_part_of_a_stratified_split():
    photos = many(30)
    assert set(assign(photos, "evaluation", SplitSettings(method="holdout")).values()) == {"test"}
    assert set(assign(photos, "development", SplitSettings(method="holdout")).values()) == {"train", "validation"}
    assert assign(photos, "evaluation", SplitSettings()) == {}


def test_a_group_of_an_earlier_cohort_is_followed():
    """A near-duplicate that arrives later carries the first photo's id as its group."""
    new = [photo(i, tone=TONES[i % 3], group="000007", cohort="new") for i in range(100, 110)]
    for role in ("test", "train", "validation"):
        assert set(assign(new, "development", SplitSettings(), {"000007": role}).values()) == {role}


def test_out_of_tone_and_cross_cohort():
    photos = many(60)
    roles = assign(photos, "development", SplitSettings(method="out_of_tone", test_tones=("dark",)))
    assert all((roles[p.image_id] == "test") == (p.skin_tone == "dark") for p in photos)
    assert set(assign(photos, "development", SplitSettings(method="cohorts", test_cohorts=("ddi",))).values()) == {
        "test"
    }


def test_gaps_name_what_the_test_lacks():
    photos = [photo(0, tone="light", malignant=True), photo(1, tone="dark")]
    assert gaps(photos, {"000000": "train"}, SplitSettings()) == ["no test photo at all"]
    found = gaps(photos, {"000000": "test", "000001": "train"}, SplitSettings())
    assert found == ["no benign test photo", "no test photo of dark skin"]


def test_the_published_split_follows_the_numbers_of_photos_not_their_rows():
    """DDI's order, whatever a sheet's: scikit-learn's own draw over photos 1 to 30."""
    photos = [replace(photo(number), image_id=f"x{number}") for number in range(1, 31)]
    _, test = train_test_split([p.image_id for p in photos], test_size=0.2, random_state=12140420)
    rows = sorted(photos, key=lambda p: p.image_id)
    roles = assign(rows, "development", SplitSettings(method="published", validation=0))
    assert {image for image, role in roles.items() if role == "test"} == set(test)


def frozen(tmp_path, roles, extra=()):
    path = tmp_path / "split.csv"
    path.write_text("image_id,role\n" + "".join(f"{image},{role}\n" for image, role in [*roles.items(), *extra]))
    return SplitSettings(method="file", file=str(path))


def test_a_split_of_a_file_stays_when_labels_are_corrected(tmp_path):
    """A stratified one is drawn by labels: this keeps the one that a run was made with."""
    photos = many()
    drawn = assign(photos, "development", SplitSettings())
    left_out = next(iter(drawn))
    settings = frozen(tmp_path, drawn | {left_out: ""}, [("999999", "test")])
    corrected = [replace(p, malignant=p.malignant != (n % 5 == 0)) for n, p in enumerate(photos)]
    assert assign(corrected, "development", SplitSettings()) != drawn
    expected = {image: role for image, role in drawn.items() if image != left_out}
    assert assign(corrected, "development", settings) == assign(photos, "evaluation", settings) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,role\n000000,train\n", "no row for 2 photo.s. of cohort ddi: 000001, 000002"),
        (
            "image_id,role\n000000,train\n000001,Test\n000002,test\n",
            "row 3, column role: no role of a split .found 'Test'",
        ),
        ("image,role\n000000,train\n", "column 'image_id' is missing"),
        (None, "no such file"),
    ],
)
def test_a_split_s_file_that_says_too_little_is_named(tmp_path, text, message):
    path = tmp_path / "split.csv"
    if text:
        path.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        assign(many(3), "development", SplitSettings(method="file", file=str(path)))


@pytest.mark.parametrize("values", [{"method": "file"}, {"file": "split.csv"}])
def test_a_file_and_its_method_go_together(values):
    with pytest.raises(ValueError, match="go together"):
        SplitSettings(**values)


def _with_unknown(**changes):
    photos = [photo(i, concept=f"c{i % 4}", tone=TONES[i % 3], malignant=bool(i % 2)) for i in range(60)]
    return photos + [photo(100 + i, concept=f"c{i % 4}", tone="unknown", **changes) for i in range(30)]


METHODS = [
    SplitSettings(),
    SplitSettings(method="published"),
    SplitSettings(method="out_of_tone", test_tones=("dark",)),
    SplitSettings(method="cohorts", test_cohorts=("other",)),
]


@pytest.mark.parametrize("split", METHODS, ids=lambda split: split.method)
def test_photos_of_unknown_tone_are_never_held_out_and_move_no_other(split):
    photos = _with_unknown()
    roles = assign(photos, "development", split)
    assert {roles[p.image_id] for p in photos if p.skin_tone == "unknown"} == {"train"}
    known = [p for p in photos if p.skin_tone != "unknown"]
    assert {p.image_id: roles[p.image_id] for p in known} == assign(known, "development", split)


def test_a_photo_of_unknown_tone_stays_out_of_training_where_its_patient_is_tested():
    photos = [replace(p, group=f"patient-{n % 60}") for n, p in enumerate(_with_unknown())]
    roles = assign(photos, "development", SplitSettings())
    held = {p.group for p in photos if roles.get(p.image_id) in ("test", "validation")}
    assert held and all((p.image_id in roles) == (p.group not in held) for p in photos if p.skin_tone == "unknown")


def test_photos_of_unknown_tone_take_no_part_where_a_cohort_only_tests():
    photos = _with_unknown()
    for role, split in (
        ("evaluation", SplitSettings(method="holdout")),
        ("development", SplitSettings(method="cohorts", test_cohorts=("ddi",))),
    ):
        roles = assign(photos, role, split)
        assert set(roles) == {p.image_id for p in photos if p.skin_tone != "unknown"} and {*roles.values()} == {"test"}


def test_an_unknown_tone_is_no_tone_that_the_test_lacks():
    photos = _with_unknown()
    assert gaps(photos, assign(photos, "development", SplitSettings()), SplitSettings()) == []
