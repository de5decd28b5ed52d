"""The study's subsets: nested, balanced, disjoint, free of test images, and stable."""

from collections import Counter
from dataclasses import replace

import pytest
from cgddi.core.errors import InvalidInput
from cgddi.fedd.settings import SubsetsSettings
from cgddi.fedd.subsets import TONES, class_quota, draw_study, stratified_order
from cgddi.plan.sheets import Photo
from hypothesis import given, settings
from hypothesis import strategies as st


def sizes(**changes) -> SubsetsSettings:
    base = {"train_per_tone": {"20": 8, "5": 2, "15": 6, "10": 4}, "validation_per_tone": 2, "test_per_tone": 4}
    return SubsetsSettings(**base | changes)


def photo(number: int, tone: str, malignant: bool | None, concept: str = "c0", **changes) -> Photo:
    row = Photo(f"i{number:04d}", "f.png", "clinic", concept, concept, tone, malignant, "m.npy", None, number)
    return replace(row, **changes)


def cohort(per_cell: int, concepts: int = 3) -> list[Photo]:
    cells = [(tone, malignant) for tone in TONES for malignant in (True, False) for _ in range(per_cell)]
    return [photo(n, tone, malignant, f"c{n % concepts}") for n, (tone, malignant) in enumerate(cells)]


def cells_of(photos) -> Counter:
    return Counter((p.skin_tone, p.malignant) for p in photos)


worlds = st.tuples(
    st.integers(8, 14),
    st.integers(1, 6),
    st.integers(0, 2**31),
    st.lists(st.lists(st.sampled_from(["train", "train", "train", "validation", "test", None])), max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(worlds, st.randoms())
def test_study_keeps_its_rules_or_says_what_lacks(world, random) -> None:
    per_cell, concepts, seed, draws = world
    photos = cohort(per_cell, concepts)
    groups = [random.choice([None, None, f"g{random.randrange(20)}"]) for _ in photos]
    photos = [replace(p, group=group) for p, group in zip(photos, groups, strict=True)]
    roles = {
        f"s{k}": {p.image_id: role for p, role in zip(photos, draw * len(photos), strict=False) if role}
        for k, draw in enumerate(draws)
    }
    try:
        made = draw_study(photos, roles, sizes(), seed)
    except InvalidInput as error:
        assert error.problems and all("of " in p.message and "fedd." in p.remedy for p in error.problems)
        return
    names = list(made.train)
    assert names == ["5", "10", "15", "20"]
    for smaller, larger in zip(names, names[1:], strict=False):
        assert set(made.train[smaller]) < set(made.train[larger])
    sized = [(made.train[name], sizes().train_per_tone[name]) for name in names]
    for chosen, size in [*sized, (made.validation, 2), (made.test, 4)]:
        assert cells_of(chosen) == {(tone, m): size // 2 for tone in TONES for m in (True, False)}
    owner: dict[str, str] = {}
    for part, chosen in {"train": made.train["20"], "validation": made.validation, "test": made.test}.items():
        assert len(set(chosen)) == len(chosen)
        for one in chosen:
            seen = {split[one.image_id] for split in roles.values() if one.image_id in split}
            assert part == "test" or "test" not in seen
            assert part != "train" or seen <= {"train"}
            assert owner.setdefault(one.image_id, part) == part
            assert owner.setdefault(one.group or one.image_id, part) == part
    random.shuffle(photos)
    assert draw_study(photos, roles, sizes(), seed) == made


def test_study_takes_everything_when_it_must() -> None:
    """A cohort of exactly the needed size gives a study when roles allow it, and none with one photo less."""
    photos = cohort(7)
    roles = {"s": {}}
    for tone in TONES:
        for malignant in (True, False):
            cell = [p.image_id for p in photos if (p.skin_tone, p.malignant) == (tone, malignant)]
            roles["s"] |= dict(zip(cell, ["train"] * 5 + ["validation", "test"], strict=True))
    made = draw_study(photos, roles, sizes(), 1)
    assert len(made.photos) == len(photos)
    with pytest.raises(InvalidInput, match="needs 2 benign photos of dark skin for its test set and finds 1") as error:
        draw_study(photos[:-1], roles, sizes(), 1)
    assert "fedd.subsets.test_per_tone" in str(error.value) and "dark" in str(error.value)


def test_photos_without_mask_or_label_take_no_part() -> None:
    photos = cohort(9)
    photos[0] = replace(photos[0], mask=None)
    photos[-1] = replace(photos[-1], malignant=None)
    made = draw_study(photos, {}, sizes(), 1)
    assert not {photos[0], photos[-1]} & set(made.photos)
    with pytest.raises(InvalidInput, match="0 with a mask") as error:
        draw_study([replace(p, mask=None) for p in photos], {}, sizes(), 1)
    assert len(error.value.problems) == 18


def test_balance_over_tones_alone_keeps_the_cohorts_own_malignancy() -> None:
    """A cohort of which a fifth is malignant: no malignancy is asked for, and the concepts keep their shares."""
    photos = [photo(n, tone, n % 5 == 0, f"c{n % 5 == 0}") for n, tone in enumerate(tone for tone in TONES * 40)]
    made = draw_study(photos, {}, sizes(balance="tone"), 1)
    for chosen, size in [(made.train["20"], 8), (made.validation, 2), (made.test, 4)]:
        assert Counter(p.skin_tone for p in chosen) == {tone: size for tone in TONES}
    assert 3 <= sum(bool(p.malignant) for p in made.train["20"]) <= 6
    with pytest.raises(InvalidInput, match="needs 8 labelled photos of dark skin") as error:
        draw_study([p for p in photos if p.skin_tone != "dark"], {}, sizes(balance="tone"), 1)
    assert "balance: tone" not in str(error.value)


def test_no_photo_at_all() -> None:
    with pytest.raises(InvalidInput, match="fedd.subsets"):
        draw_study([], {}, sizes(), 1)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 12), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_every_beginning_holds_the_concepts_in_proportion(seed, counts_of) -> None:
    concepts = [f"c{k}" for k, size in enumerate(counts_of) for _ in range(size)]
    photos = [photo(n, "light", True, concept) for n, concept in enumerate(concepts)]
    ordered = stratified_order(photos, seed)
    assert sorted(p.image_id for p in ordered) == [p.image_id for p in photos]
    for end in range(1, len(ordered) + 1):
        counts = Counter(p.concept for p in ordered[:end])
        # Each concept stands at (k + u) / n: two concepts' shares differ by less than one photo of each.
        shares = [(counts[f"c{k}"] - 1, counts[f"c{k}"] + 1, size) for k, size in enumerate(counts_of)]
        assert max(low / size for low, _, size in shares) <= min(high / size for _, high, size in shares)


def test_other_seed_other_draw_study() -> None:
    photos = cohort(12)
    assert draw_study(photos, {}, sizes(), 1) != draw_study(photos, {}, sizes(), 2)


def test_photos_that_splits_hold_out_are_tested_and_watched_first() -> None:
    """A cohort with room to spare: the test's photos come from a test part, the validation's from a validation part."""
    photos = cohort(14)
    roles = {"s": {p.image_id: ("test", "validation", "train")[min(n % 7, 2)] for n, p in enumerate(photos)}}
    made = draw_study(photos, roles, sizes(test_per_tone=2, validation_per_tone=2), 3)
    for part, chosen in (("test", made.test), ("validation", made.validation), ("train", made.train["20"])):
        assert {roles["s"][p.image_id] for p in chosen} == {part}


def test_an_odd_photo_is_benign() -> None:
    assert class_quota(5, "tone_and_malignancy") == {True: 2, False: 3} and class_quota(5, "tone") == {None: 5}
    made = draw_study(cohort(9), {}, sizes(train_per_tone={"5": 3, "20": 7}, test_per_tone=1, validation_per_tone=1), 1)
    for chosen, malignant, benign in ((made.train["5"], 1, 2), (made.train["20"], 3, 4), (made.test, 0, 1)):
        expected = {(tone, kind): n for tone in TONES for kind, n in ((True, malignant), (False, benign)) if n}
        assert cells_of(chosen) == expected
